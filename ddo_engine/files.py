"""Files that are either whole or absent."""

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 lower-case hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_tree(path: str | Path) -> str:
    """Return the SHA-256 of a file, or for a folder that of the names and hashes of the files below it, sorted."""
    path = Path(path)
    if not path.is_dir():
        return sha256_of(path)
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    lines = (f"{sha256_of(path / name)}  {name}\n" for name in names)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def size_of_tree(path: str | Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    path = Path(path)
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def write_atomically(path: str | Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file, then put it in the place of ``path`` in one step.

    A reader, also one after a power failure, sees the old file or the whole new one. Two writers do not disturb each
    other: the last one to finish wins.

    Args:
        path: Where the file shall be. Its folder must exist.
        write: Called with the path to write to, in the same folder.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        write(temporary)
        _sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
