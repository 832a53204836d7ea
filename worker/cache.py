"""Fetched files by their SHA-256, shared by all workers of a machine and trimmed to a size.

A file is taken out as a hard link, so that trimming never pulls it from under an engine.
"""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.digest import sha256_of


class DamagedFileError(Exception):
    """A transfer brought other bytes than it should have."""


class FileCache:
    """Content-addressed files below one folder."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._files = folder / "sha256"
        self._locks = folder / "locks"
        self._max_bytes = max_bytes
        for made in (self._files, self._locks):
            made.mkdir(parents=True, exist_ok=True, mode=0o700)

    def get(self, sha256: str, destination: Path, download: Callable[[Path], object]) -> None:
        """Put the file with this digest to ``destination``, downloading it if it is not here.

        Args:
            sha256: Hex digest; every use is checked against it.
            destination: Does not exist yet.
            download: Writes the file to the path that it is given. Other workers that want the same file wait for it.

        Raises:
            DamagedFileError: What was downloaded has another digest.
        """
        with self._lock(sha256):
            if self._take(sha256, destination):
                return
            arriving = self._arriving()
            try:
                download(arriving)
                if sha256_of(arriving) != sha256:
                    raise DamagedFileError(f"the downloaded bytes are not those of SHA-256 {sha256}")
                self._keep(sha256, arriving)
                _link_or_copy(self._path(sha256), destination)
            finally:
                arriving.unlink(missing_ok=True)
        self.trim()

    def add(self, sha256: str, path: Path) -> None:
        """Keep a file that was fetched and hashed already. ``path`` stays."""
        with self._lock(sha256):
            arriving = self._arriving()
            try:
                _link_or_copy(path, arriving)
                self._keep(sha256, arriving)
            finally:
                arriving.unlink(missing_ok=True)
        self.trim()

    def trim(self) -> None:
        """Remove the files used longest ago until the rest fits, unless another worker is at it."""
        with self._lock("trim", wait=False) as mine:
            if not mine:
                return
            entries = []
            for path in self._files.iterdir():
                try:
                    status = path.stat()
                except FileNotFoundError:
                    continue
                entries.append((status.st_mtime, status.st_size, path))
            total = sum(size for _, size, _ in entries)
            for _, size, path in sorted(entries):
                if total <= self._max_bytes:
                    return
                path.unlink(missing_ok=True)
                total -= size

    def _take(self, sha256: str, destination: Path) -> bool:
        path = self._path(sha256)
        try:
            _link_or_copy(path, destination)
            os.utime(path)
        except FileNotFoundError:
            destination.unlink(missing_ok=True)
            return False
        if sha256_of(destination) == sha256:
            return True
        destination.unlink()
        path.unlink(missing_ok=True)
        return False

    def _keep(self, sha256: str, arriving: Path) -> None:
        arriving.chmod(0o400)
        os.utime(arriving)
        arriving.replace(self._path(sha256))

    def _path(self, sha256: str) -> Path:
        return self._files / sha256

    def _arriving(self) -> Path:
        # among the files, so that what a killed worker left is trimmed like the rest
        return self._files / f"arriving-{secrets.token_hex(8)}"

    @contextmanager
    def _lock(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        descriptor = os.open(self._locks / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(descriptor)


def _link_or_copy(source: Path, destination: Path) -> None:
    try:
        os.link(source, destination)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        shutil.copyfile(source, destination)
