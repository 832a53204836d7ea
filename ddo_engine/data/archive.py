"""What all containers of files have in common: a zip, a tar and a folder look alike from here on.

An archive lists its files once, checks every name and size while it does, and reads single files on demand. Nothing is
ever extracted to disk.
"""

from collections.abc import Sequence
from typing import Protocol

from ddo_engine.data.limits import DatasetLimits
from ddo_engine.errors import InvalidDataset

MAX_NAME_LENGTH = 1024
_ODD_PARTS = frozenset({"", ".", ".."})


class Archive(Protocol):
    """Files that are read by their index."""

    @property
    def names(self) -> Sequence[str]:
        """Plain relative names, each once, in the order of the container."""

    @property
    def limits(self) -> DatasetLimits:
        """What the files may ask for."""

    def size(self, index: int) -> int:
        """Return the bytes of a file."""

    def read(self, index: int, max_bytes: int | None = None) -> bytes:
        """Return the content of a file.

        Args:
            index: Into ``names``.
            max_bytes: Refuse a larger one; None takes ``limits.max_entry_bytes``.

        Raises:
            InvalidDataset: The file is larger, or damaged.
        """


class NameChecker:
    """Sees every name of an archive once, in order, and refuses the first that is wrong or one too many."""

    def __init__(self, limits: DatasetLimits) -> None:
        self._limits = limits
        self._seen: set[str] = set()
        self._num_folders = 0

    def folder(self, name: str) -> None:
        """Count a folder.

        Raises:
            InvalidDataset: There are too many.
        """
        _check_length(name)
        self._num_folders += 1
        if self._num_folders > self._limits.max_folders:
            raise InvalidDataset(
                f"{name[:80]!r} is folder number {self._num_folders:,}; at most {self._limits.max_folders:,} are read: "
                "put more images into each"
            )

    def file(self, name: str, size: int) -> None:
        """Check the name of a file, and that it is there once and holds something.

        Raises:
            InvalidDataset: Naming the file and what to do.
        """
        # a leading or doubled slash leaves an empty part
        is_odd = not _ODD_PARTS.isdisjoint(name.split("/"))
        if is_odd or not name.isprintable() or "\\" in name or ":" in name:
            raise InvalidDataset(
                f"{name[:200]!r} is not a plain relative name: rename it to something like 00000/img00000000.png"
            )
        _check_length(name)
        if name in self._seen:
            raise InvalidDataset(f"{name!r} occurs twice in the dataset: keep one of them")
        if size == 0:
            raise InvalidDataset(f"{name!r} is empty: write it again or remove it")
        self._seen.add(name)
        # twice: a label may lie beside every image
        if len(self._seen) > 2 * self._limits.max_images + 1:
            raise InvalidDataset(f"there are too many files; at most {self._limits.max_images:,} images are read")


def check_size(name: str, size: int, max_bytes: int) -> None:
    """Refuse a file that is too large to be read whole.

    Raises:
        InvalidDataset: Naming the file.
    """
    if size > max_bytes:
        raise InvalidDataset(f"{name!r} has {size:,} bytes; at most {max_bytes:,} are read")


def _check_length(name: str) -> None:
    if len(name) > MAX_NAME_LENGTH:
        raise InvalidDataset(f"{name[:80]!r}… is longer than {MAX_NAME_LENGTH} characters: rename it")
