"""Model folders that were packed into a zip or tar to travel as one file.

Only files of a known name are taken out, under that name, so that an archive has no say in where they lie; how much
may come out of it is bounded by its size, since weights hardly compress. Bzip2 and xz are not read: a kilobyte of them
may inflate to gigabytes in one step.
"""

import gzip
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Protocol, cast

from ddo_engine.conversion.refusal import damaged
from ddo_engine.conversion.sniffing import sniff
from ddo_engine.conversion.torch_zip import bounded_directory
from ddo_engine.errors import CorruptCheckpoint

_PARTS = "unet|vae|vqvae|movq"
_WANTED = re.compile(
    rf"(?:\./)?(?:(?!(?:{_PARTS}|scheduler)/)[^/]+/)?"  # the folder itself, under any name
    rf"(?P<name>model_index\.json|(?:scheduler/)?scheduler_config\.json"
    rf"|model\.safetensors|(?:(?:{_PARTS})/)?(?:config\.json|diffusion_pytorch_model\.(?:safetensors|bin)))"
)
_GROWTH, _ALLOWANCE_BYTES, _MOST_FILES = 2, 1 << 26, 10_000
_PIECE_BYTES = 1 << 20
_GZIP, _TAR, _TAR_AT = b"\x1f\x8b", b"ustar", 257
_DAMAGES = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    OverflowError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    tarfile.TarError,
)


class Readable(Protocol):
    """What bytes come out of."""

    def read(self, size: int, /) -> bytes:
        """Return the next ``size`` bytes, fewer at the end."""


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
    with path.open("rb") as file:
        head = file.read(_TAR_AT + len(_TAR))
    return "tar" if head.startswith(_GZIP) or head[_TAR_AT:] == _TAR else None


def _unpack_zip(path: Path, folder: Path) -> None:
    budget = _Budget(path)
    with path.open("rb") as file:
        bounded_directory(file, path.stat().st_size, path.name)
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            budget.count_file()
            target = _target(entry.filename, folder)
            if target is None or entry.is_dir():
                continue
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise damaged(path.name, f"its {target.name} is packed by another method than deflate")
            with archive.open(entry) as source:
                _copy(_Counted(source, budget), target)


def _unpack_tar(path: Path, folder: Path) -> None:
    budget = _Budget(path)
    with path.open("rb") as packed:
        is_gzip = packed.read(len(_GZIP)) == _GZIP
        packed.seek(0)
        with (
            gzip.GzipFile(fileobj=packed) if is_gzip else nullcontext(packed) as source,
            tarfile.open(fileobj=cast("IO[bytes]", _Counted(source, budget)), mode="r|") as archive,
        ):
            for entry in archive:
                budget.count_file()
                target = _target(entry.name, folder)
                if target is not None and entry.isreg() and not entry.issparse():
                    content = archive.extractfile(entry)
                    assert content is not None
                    _copy(content, target)


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


class _Counted:
    """A file that is read forwards, and whose bytes are counted whatever they are: headers may be bombs too."""

    def __init__(self, file: Readable, budget: _Budget) -> None:
        self._file = file
        self._budget = budget

    def read(self, size: int) -> bytes:
        piece = self._file.read(size)
        self._budget.count_bytes(len(piece))
        return piece


def _target(name: str, folder: Path) -> Path | None:
    match = _WANTED.fullmatch(name)
    return folder / match["name"] if match else None


def _copy(source: Readable, target: Path) -> None:
    if target.exists():
        raise damaged(target.name, "the archive holds it twice, in different folders")
    target.parent.mkdir(exist_ok=True)
    with target.open("wb") as file:
        while piece := source.read(_PIECE_BYTES):
            file.write(piece)
