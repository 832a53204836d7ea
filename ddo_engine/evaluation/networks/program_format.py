"""Which files hold code beside weights."""

import struct
import zipfile
from pathlib import Path
from typing import Literal

from ddo_engine.conversion.refusal import damaged
from ddo_engine.conversion.torch_zip import bounded_directory
from ddo_engine.errors import CorruptCheckpoint

_SIGNS: dict[str, Literal["torchscript", "exported"]] = {"constants.pkl": "torchscript", "archive_format": "exported"}


def program_format(path: Path) -> Literal["torchscript", "exported"] | None:
    """Return what kind of a program a file is; None for what is none.

    Raises:
        CorruptCheckpoint: It is a zip file with an immense or malformed directory.
    """
    try:
        if not path.is_file() or not zipfile.is_zipfile(path):
            return None
        with path.open("rb") as file:
            bounded_directory(file, path.stat().st_size, path.name)
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError) as error:
        if isinstance(error, CorruptCheckpoint):
            raise
        raise damaged(path.name, f"its zip directory is malformed ({error})") from error
    # Everything in torch's files lies in one folder.
    found = (_SIGNS.get(name.partition("/")[2]) for name in names)
    return next((kind for kind in found if kind is not None), None)
