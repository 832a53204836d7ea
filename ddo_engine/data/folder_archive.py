"""A local folder as an archive."""

import os
from pathlib import Path

from ddo_engine.data.archive import NameChecker, check_size
from ddo_engine.data.limits import DatasetLimits
from ddo_engine.errors import InvalidDataset


class FolderArchive:
    """The files below a folder, names sorted; see :class:`ddo_engine.data.archive.Archive`."""

    def __init__(self, path: Path, limits: DatasetLimits) -> None:
        """List the folder.

        Raises:
            InvalidDataset: Something in it is a link or no plain file.
        """
        self.path, self.limits = path, limits
        self._sizes: dict[str, int] = {}
        self._list(path, "", NameChecker(limits))
        self.names = sorted(self._sizes)

    def size(self, index: int) -> int:
        """Return the bytes of a file."""
        return self._sizes[self.names[index]]

    def read(self, index: int, max_bytes: int | None = None) -> bytes:
        """Return the content of a file."""
        name = self.names[index]
        check_size(name, self.size(index), self.limits.max_entry_bytes if max_bytes is None else max_bytes)
        try:
            with (self.path / name).open("rb") as file:
                data = file.read(self.size(index) + 1)
        except OSError as error:
            raise InvalidDataset(f"{name!r} cannot be read ({error}): check the folder") from error
        if len(data) != self.size(index):
            raise InvalidDataset(f"{name!r} has changed while the dataset was read: leave the folder alone")
        return data

    def _list(self, folder: Path, prefix: str, checker: NameChecker) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    checker.folder(name)
                    self._list(Path(entry.path), name + "/", checker)
                elif entry.is_file(follow_symlinks=False):
                    size = entry.stat(follow_symlinks=False).st_size
                    checker.file(name, size)
                    self._sizes[name] = size
                else:
                    raise InvalidDataset(f"{name!r} is a link or no plain file: copy the file itself to its place")
