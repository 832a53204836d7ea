"""Jobs written down as YAML or JSON."""

import re
from pathlib import Path
from typing import Any

import yaml

from ddo_client.errors import InvalidJobFile


class _Loader(yaml.SafeLoader):
    """YAML in which 2e-5 is a number, as in YAML 1.2 and JSON; YAML 1.1 takes it for text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_job(path: Path) -> dict[str, Any]:
    """Return the job in ``path``: the body of ``POST /jobs``.

    Raises:
        InvalidJobFile: The file cannot be read, is no YAML, or holds no mapping.
    """
    try:
        job = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506  (a SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidJobFile(f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise InvalidJobFile(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(job, dict):
        raise InvalidJobFile(f"{path} holds no job: write its fields as 'name: value' lines")
    return job
