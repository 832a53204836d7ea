"""Which files hold code beside weights."""

import zipfile
from pathlib import Path
from typing import Literal

from ddo_engine.conversion.torch_zip import bounded_directory

_SIGNS: dict[str, Literal["torchscript", "exported"]] = {"constants.pkl": "torchscript", "archive_format": "exported"}


def program_format(path: Path) -> Literal["torchscript", "exported"] | None:
    """Return what kind of a program a file is; None for what is none.

    Raises:
        CorruptCheckpoint: It is a zip file with an immense or malformed directory.
    """
    if not path.is_file() or not zipfile.is_zipfile(path):
        return None
    with path.open("rb") as file:
        bounded_directory(file, path.stat().st_size, path.name)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    # Everything in torch's files lies in one folder.
    found = (_SIGNS.get(name.partition("/")[2]) for name in names)
    return next((kind for kind in found if kind is not None), None)
