"""What a file is, by its first bytes; its name is somebody's opinion."""

from enum import StrEnum
from pathlib import Path

from ddo_engine.conversion.torch_stream import MAGIC_NUMBER
from ddo_engine.errors import CorruptCheckpoint

_HEAD_BYTES = 1024
_PICKLED_MAGIC = b"\x8a\x0a" + MAGIC_NUMBER.to_bytes(10, "little")


class FileFormat(StrEnum):
    """Formats in which checkpoints are published."""

    SAFETENSORS = "safetensors"
    NVLABS_PICKLE = "nvlabs-pickle"
    TORCH_ZIP = "torch-zip"
    TORCH_LEGACY = "torch-legacy"
    DIFFUSERS_FOLDER = "diffusers-folder"


def sniff(path: Path) -> FileFormat | None:
    """Return the format of a checkpoint; None for what is no checkpoint, such as a dataset.

    Torch writes the pickle of a zip file first.

    Raises:
        CorruptCheckpoint: The file cannot be opened.
    """
    if path.is_dir():
        return FileFormat.DIFFUSERS_FOLDER if is_model_folder(path) else None
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        size = path.stat().st_size
    except OSError as error:
        raise CorruptCheckpoint(f"{path} cannot be opened ({error.strerror}): check the path") from error
    if head[:4] == b"PK\3\4":
        length = int.from_bytes(head[26:28], "little")
        return FileFormat.TORCH_ZIP if head[30 : 30 + length].endswith(b"/data.pkl") else None
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        return FileFormat.SAFETENSORS
    if head[:1] == b"\x80" and head[2:].startswith(_PICKLED_MAGIC):
        return FileFormat.TORCH_LEGACY
    return FileFormat.NVLABS_PICKLE if head[:1] == b"\x80" else None


def is_model_folder(path: Path) -> bool:
    """Return whether a folder, or the only folder in it, is one that the diffusers library saved a model in."""
    inner = without_wrapper(path)
    return any((inner / name).is_file() for name in ("model_index.json", "config.json", "unet/config.json"))


def without_wrapper(folder: Path) -> Path:
    """Return the only folder in a folder, as archives often have one around everything; else the folder itself."""
    entries = list(folder.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() and entries[0].name != "unet" else folder
