"""A fresh folder per attempt, gone afterwards; what a killed worker left is swept by the next."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK = ".lock"
_NEW_SECONDS = 60.0  # younger folders may belong to a worker that has not locked them yet


@contextmanager
def attempt_folder(work_folder: Path, name: str) -> Iterator[Path]:
    """Yield a new private folder below ``work_folder`` that no sweep removes while it is in use."""
    attempts = _attempts(work_folder)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=attempts))
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def sweep(work_folder: Path) -> None:
    """Remove the folders of attempts whose worker is gone."""
    for folder in _attempts(work_folder).iterdir():
        try:
            if time.time() - folder.stat().st_mtime < _NEW_SECONDS:
                continue
            descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:  # just removed by another worker
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)


def hold(path: Path, link: Path) -> None:
    """Hard-link ``path``, which others may replace at any moment, as ``link``: its bytes of now, or newer ones.

    Raises:
        FileNotFoundError: There is no such file.
    """
    while True:
        try:
            link.hardlink_to(path)
        except FileNotFoundError:
            # Linux finds the file, and by the time it links it a rename has taken its last name: look again.
            if not path.exists():
                raise
        else:
            return


def _attempts(work_folder: Path) -> Path:
    attempts = work_folder / "attempts"
    attempts.mkdir(parents=True, exist_ok=True, mode=0o700)
    return attempts
