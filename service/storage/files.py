"""Writing a file so that a crash leaves either all of it or nothing, with its hash taken on the way."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

CHUNK_BYTES = 1 << 20


class Readable(Protocol):
    """Anything that hands out bytes: an open file, the body of an S3 answer."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes; none at the end."""


class TooManyBytesError(Exception):
    """The source holds more bytes than the caller allows."""


@dataclass(frozen=True)
class CopiedFile:
    """What was copied."""

    sha256: str
    size_bytes: int


def copy_hashed(source: Readable, target: BinaryIO, *, max_bytes: int | None = None) -> CopiedFile:
    """Copy ``source`` to ``target`` chunk by chunk and return hash and size of what was copied.

    Raises:
        TooManyBytesError: The source goes on after ``max_bytes``.
    """
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK_BYTES):
        size += len(chunk)
        if max_bytes is not None and size > max_bytes:
            raise TooManyBytesError
        digest.update(chunk)
        target.write(chunk)
    return CopiedFile(digest.hexdigest(), size)


def hash_file(path: Path) -> CopiedFile:
    """Return hash and size of a file."""
    with path.open("rb") as file, Path(os.devnull).open("wb") as nowhere:
        return copy_hashed(file, nowhere)


@contextmanager
def temporary_file(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a hidden file beside ``path``, creating the folder; it is synced on success and always removed.

    The caller links or renames it into place *after* the block's writes, by :func:`publish`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            yield file, temporary
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def sync_file(file: BinaryIO) -> None:
    """Return once the operating system has the file's bytes on disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folders(folder: Path, root: Path) -> None:
    """Sync the entries of ``folder`` and of its parents up to and including ``root``."""
    while True:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if folder in (root, folder.parent):
            return
        folder = folder.parent
