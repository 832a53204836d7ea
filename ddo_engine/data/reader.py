"""Read EDM's dataset zip: ``00000/img00000000.png …`` and ``dataset.json``.

The file comes from a client. It is read strictly (the first thing that is wrong is named, nothing is
skipped) and within bounds (sizes are checked against limits before they are decoded). Nothing is ever
extracted to disk.
"""

import json
import struct
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from ddo_engine.data.dataset import ImageDataset
from ddo_engine.errors import InvalidDataset

LABELS_FILE = "dataset.json"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS_OF_COLOUR_TYPE = {0: 1, 2: 3}  # PNG colour types: greyscale, RGB
MAX_LABEL = 65_535
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    zlib.error,
    struct.error,
    Image.DecompressionBombWarning,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class DatasetLimits:
    """How much a dataset may ask for before it is refused."""

    max_images: int = 5_000_000
    max_image_pixels: int = 2048 * 2048
    max_decoded_bytes: int = 64 * 2**30
    max_entry_bytes: int = 256 * 2**20
    max_compression_ratio: float = 200.0


DEFAULT_LIMITS = DatasetLimits()


@dataclass(frozen=True)
class _ImageShape:
    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height} with {self.channels} channel{'s' if self.channels > 1 else ''}"


def load_dataset(path: str | Path, limits: DatasetLimits = DEFAULT_LIMITS) -> ImageDataset:
    """Read a dataset zip into memory as uint8; see :class:`ImageDataset` for what that costs.

    Accepted: 8-bit greyscale or RGB PNGs, square, all of one size; names in any folders, sorted as strings;
    ``dataset.json`` = ``{"labels": [[name, class], …]}`` for all images, ``{"labels": null}``, or absent.

    Raises:
        InvalidDataset: Something in the zip is not as above, damaged, or beyond ``limits``; the message names the
            first offending file and says what to do.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = _image_names(archive, limits)
            labels_N = _read_labels(archive, names)
            images_NCHW = _read_images(archive, names, limits)
    except FileNotFoundError as error:
        raise InvalidDataset(f"{path.name}: no such file") from error
    except zipfile.BadZipFile as error:
        raise InvalidDataset(f"{path.name} is not a complete zip file ({error}): write or upload it again") from error
    # zipfile says NotImplementedError to what it has no way to read: strong encryption, patches, later versions
    except (OSError, EOFError, zlib.error, struct.error, UnicodeError, NotImplementedError) as error:
        raise InvalidDataset(f"{path.name} cannot be read ({error}): write or upload it again") from error
    return ImageDataset(images_NCHW, labels_N)


def _image_names(archive: zipfile.ZipFile, limits: DatasetLimits) -> list[str]:
    """Return the sorted names of the images, once every entry of the zip's directory is found acceptable."""
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    if len(entries) > limits.max_images + 1:
        raise InvalidDataset(f"the zip has {len(entries):,} files; at most {limits.max_images:,} images are read")
    seen: set[str] = set()
    for entry in entries:
        _check_entry(entry, limits)
        if entry.filename in seen:
            raise InvalidDataset(f"{entry.filename!r} occurs twice in the zip: keep one of them")
        seen.add(entry.filename)
    names = sorted(seen - {LABELS_FILE})
    if not names:
        raise InvalidDataset("the zip holds no images: add PNG files")
    return names


def _check_entry(entry: zipfile.ZipInfo, limits: DatasetLimits) -> None:
    name = entry.filename
    parts = PurePosixPath(name).parts
    if not name.isprintable() or "\\" in name or name.startswith("/") or ".." in parts or ":" in name:
        raise InvalidDataset(
            f"{name!r} is not a plain relative name: rename it to something like 00000/img00000000.png"
        )
    if name != LABELS_FILE and not name.lower().endswith(".png"):
        raise InvalidDataset(f"{name!r} is neither a PNG image nor {LABELS_FILE}: convert it to PNG or remove it")
    if entry.flag_bits & 0x1:
        raise InvalidDataset(f"{name!r} is encrypted: write the zip without a password")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InvalidDataset(f"{name!r} is compressed in a way that is not read: store it uncompressed")
    if entry.file_size > limits.max_entry_bytes:
        raise InvalidDataset(f"{name!r} has {entry.file_size:,} bytes; at most {limits.max_entry_bytes:,} are read")
    if entry.file_size > 2**16 and entry.file_size > limits.max_compression_ratio * entry.compress_size:
        raise InvalidDataset(f"{name!r} is compressed suspiciously well: store it uncompressed")


def _read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, struct.error, NotImplementedError) as error:
        raise InvalidDataset(f"{name!r} is damaged inside the zip ({error}): write or upload the zip again") from error


def _read_labels(archive: zipfile.ZipFile, names: Sequence[str]) -> Tensor | None:
    if LABELS_FILE not in archive.namelist():
        return None
    text = _read_entry(archive, LABELS_FILE)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidDataset(f"{LABELS_FILE} is not JSON ({error})") from error
    if not isinstance(content, dict) or "labels" not in content:
        raise InvalidDataset(f'{LABELS_FILE} must be {{"labels": [[name, class], …]}} or {{"labels": null}}')
    if content["labels"] is None:
        return None
    label_of = _parse_labels(content["labels"], frozenset(names))
    for name in names:
        if name not in label_of:
            raise InvalidDataset(f"{name!r} has no label: give every image one in {LABELS_FILE}, or set labels to null")
    return torch.tensor([label_of[name] for name in names], dtype=torch.int64)


def _parse_labels(rows: object, names: frozenset[str]) -> dict[str, int]:
    if not isinstance(rows, list):
        raise InvalidDataset(f"'labels' in {LABELS_FILE} must be a list of [name, class] pairs or null")
    label_of: dict[str, int] = {}
    for index, row in enumerate(rows):
        if not (isinstance(row, list) and len(row) == 2 and isinstance(row[0], str)):
            raise InvalidDataset(f"labels[{index}] in {LABELS_FILE} is not a [name, class] pair")
        name, label = row
        if name not in names:
            raise InvalidDataset(
                f"{LABELS_FILE} labels {name!r}, which is not in the zip: remove the label or add the image"
            )
        if name in label_of:
            raise InvalidDataset(f"{name!r} is labelled twice in {LABELS_FILE}: keep one label")
        if type(label) is not int or not 0 <= label <= MAX_LABEL:
            raise InvalidDataset(f"the label of {name!r} must be an integer in 0 … {MAX_LABEL}, not {str(label)[:40]}")
        label_of[name] = label
    return label_of


def _read_images(archive: zipfile.ZipFile, names: Sequence[str], limits: DatasetLimits) -> Tensor:
    first = _read_entry(archive, names[0])
    shape = _shape_from_header(names[0], first, limits)
    needed = len(names) * shape.channels * shape.height * shape.width
    if needed > limits.max_decoded_bytes:
        raise InvalidDataset(
            f"{len(names):,} images of {shape} need {needed:,} bytes of memory; at most {limits.max_decoded_bytes:,} "
            "are read: use fewer or smaller images"
        )
    images_NHWC = np.empty((len(names), shape.height, shape.width, shape.channels), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for index, name in enumerate(names):
            data = _read_entry(archive, name)
            found = _shape_from_header(name, data, limits)
            if found != shape:
                raise InvalidDataset(f"{name!r} is {found} but {names[0]!r} is {shape}: make all images alike")
            images_NHWC[index] = _decode(name, data, shape)
    return torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).contiguous()


def _shape_from_header(name: str, data: bytes, limits: DatasetLimits) -> _ImageShape:
    """Read the IHDR chunk, so that an image is judged before a decoder sees it."""
    if len(data) < 33 or data[:8] != PNG_SIGNATURE or data[12:16] != b"IHDR":
        raise InvalidDataset(f"{name!r} is not a PNG image: convert it, renaming is not enough")
    width, height, bit_depth, colour_type = struct.unpack(">IIBB", data[16:26])
    channels = CHANNELS_OF_COLOUR_TYPE.get(colour_type)
    if bit_depth != 8 or channels is None:
        raise InvalidDataset(
            f"{name!r} is neither 8-bit greyscale nor 8-bit RGB: convert it (no palette, no transparency)"
        )
    if width * height > limits.max_image_pixels:
        raise InvalidDataset(f"{name!r} is {width}x{height}; at most {limits.max_image_pixels:,} pixels are read")
    if width != height or width == 0:
        raise InvalidDataset(f"{name!r} is {width}x{height}: images must be square, crop or resize them")
    return _ImageShape(channels, height, width)


def _decode(name: str, data: bytes, shape: _ImageShape) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(BytesIO(data), formats=("PNG",)) as image:
            if image.size != (shape.width, shape.height):
                raise ValueError("two different headers")
            pixels: npt.NDArray[np.uint8] = np.asarray(image)
            return pixels.reshape(shape.height, shape.width, shape.channels)
    except UNREADABLE as error:
        raise InvalidDataset(f"{name!r} is a damaged PNG ({error}): write it again") from error
