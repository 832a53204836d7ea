"""Model folders that were packed into a zip or tar to travel as one file.

Only files of a known name are taken out, under that name, so that an archive has no say in where they lie; how much
they may hold is bounded by the size of the archive, since weights hardly compress.
"""

import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from ddo_engine.conversion.refusal import damaged
from ddo_engine.conversion.sniffing import sniff
from ddo_engine.conversion.torch_zip import bounded_directory
from ddo_engine.errors import CorruptCheckpoint

_PARTS = "unet|vae|vqvae|movq"
_WANTED = re.compile(
    rf"(?:\./)?(?:(?!(?:{_PARTS}|scheduler)/)[^/]+/)?"  # the folder itself, under any name
    rf"(?P<name>model_index\.json|(?:scheduler/)?scheduler_config\.json"
    rf"|(?:(?:{_PARTS})/)?(?:config\.json|diffusion_pytorch_model\.(?:safetensors|bin)))"
)
_GROWTH, _ALLOWANCE_BYTES, _MOST_FILES = 2, 1 << 26, 10_000
_PIECE_BYTES = 1 << 20
_DAMAGES = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    lzma.LZMAError,
    zlib.error,
    zipfile.BadZipFile,
    tarfile.TarError,
)


@contextmanager
def unpacked(path: Path, workspace: Path | None = None) -> Iterator[Path]:
    """Yield the folder in an archive of one, which is gone after the block; everything else is yielded as it is.

    Args:
        path: Any file or folder.
        workspace: Existing folder to unpack in; None takes the system's for temporary files.

    Raises:
        CorruptCheckpoint: The archive is damaged, or holds far more than its size lets expect.
    """
    archive = _archive_of(path)
    if archive is None:
        yield path
        return
    with TemporaryDirectory(dir=workspace, prefix=".unpack-") as temporary:
        folder = Path(temporary)
        try:
            (_unpack_zip if archive == "zip" else _unpack_tar)(path, folder)
        except CorruptCheckpoint:
            raise
        except _DAMAGES as error:
            raise damaged(path.name, str(error)[:200]) from error
        # An archive of something else is left to be refused as what it is.
        yield folder if any(folder.iterdir()) else path


def _archive_of(path: Path) -> str | None:
    if not path.is_file() or sniff(path) is not None:
        return None
    try:
        if zipfile.is_zipfile(path):
            return "zip"
    except zipfile.BadZipFile:  # one of several disks
        return "zip"
    try:
        return "tar" if tarfile.is_tarfile(path) else None
    except _DAMAGES:
        return None


def _unpack_zip(path: Path, folder: Path) -> None:
    budget = _Budget(path)
    with path.open("rb") as file:
        bounded_directory(file, path.stat().st_size, path.name)
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            budget.count_file()
            target = _target(entry.filename, folder)
            if target is not None and not entry.is_dir():
                with archive.open(entry) as source:
                    _copy(source, target, budget)


def _unpack_tar(path: Path, folder: Path) -> None:
    budget = _Budget(path)
    with tarfile.open(path, "r|*") as archive:
        for entry in archive:
            budget.count_file()
            target = _target(entry.name, folder)
            if target is None or not entry.isreg():
                budget.count_bytes(entry.size)  # a compressed archive is inflated past it
                continue
            source = archive.extractfile(entry)
            assert source is not None
            _copy(source, target, budget)


class _Budget:
    """What may still come out of an archive."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._bytes = path.stat().st_size * _GROWTH + _ALLOWANCE_BYTES
        self._files = _MOST_FILES

    def count_bytes(self, num_bytes: int) -> None:
        self._bytes -= num_bytes
        if self._bytes < 0:
            raise damaged(self._name, "it inflates to far more than its own size")

    def count_file(self) -> None:
        self._files -= 1
        if self._files < 0:
            raise damaged(self._name, f"it holds more than {_MOST_FILES:,} files")


def _target(name: str, folder: Path) -> Path | None:
    match = _WANTED.fullmatch(name)
    return folder / match["name"] if match else None


def _copy(source: IO[bytes], target: Path, budget: _Budget) -> None:
    if target.exists():
        raise damaged(target.name, "the archive holds it twice, in different folders")
    target.parent.mkdir(exist_ok=True)
    with target.open("wb") as file:
        while piece := source.read(_PIECE_BYTES):
            budget.count_bytes(len(piece))
            file.write(piece)
