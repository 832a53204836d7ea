"""Images of an ``.npz``: ``arr_0`` uint8 (N, H, W, C), and labels in ``arr_1`` or ``labels``.

That is what the sampling scripts of guided-diffusion, VAR and DDO write. The statistics that OpenAI's reference
batches carry beside their images are left alone.
"""

import math
import zlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ddo_engine.data.items import Labels, PixelArray
from ddo_engine.data.labels import checked_label
from ddo_engine.data.npy import PREFIX_BYTES, ArrayHeader, read_array_header
from ddo_engine.data.zip_archive import ZipArchive
from ddo_engine.errors import InvalidDataset
from ddo_engine.spec import DatasetReading

IMAGES, LABELS = "arr_0.npy", ("arr_1.npy", "labels.npy")
_STATISTICS = frozenset({"mu.npy", "sigma.npy", "mu_s.npy", "sigma_s.npy"})
_CHUNK = 2**20


def open_npz(archive: ZipArchive, reading: DatasetReading, max_memory_bytes: int) -> PixelArray:
    """Map the images into memory where they are stored uncompressed; else inflate them if they fit.

    Raises:
        InvalidDataset: An array is missing, unknown, of another kind, damaged or too large.
    """
    for name in archive.names:
        if name not in (IMAGES, *LABELS) and name not in _STATISTICS:
            raise InvalidDataset(f"{name!r} is none of arr_0, arr_1 and labels: leave it out of the npz")
    at = list(archive.names).index(IMAGES)
    pixels_NHWC = _pixels(archive, at, max_memory_bytes)
    labels_N = _labels(archive, len(pixels_NHWC))
    return PixelArray(Labels(labels_N), pixels_NHWC, reading)


def _pixels(archive: ZipArchive, index: int, max_memory_bytes: int) -> npt.NDArray[np.uint8]:
    start = archive.stored_at(index)
    if start is None:
        if archive.size(index) > max_memory_bytes:
            raise InvalidDataset(
                f"{IMAGES!r} is compressed and has {archive.size(index):,} bytes; at most {max_memory_bytes:,} are "
                "inflated: write it with numpy.savez, uncompressed, so that images are read when they are needed"
            )
        data = archive.read(index, max_memory_bytes)
        header = _image_header(archive, index, data[:PREFIX_BYTES])
        flat: npt.NDArray[np.uint8] = np.frombuffer(data, np.uint8, offset=header.data_offset)
        return flat.reshape(header.shape)
    with archive.path.open("rb") as file:
        file.seek(start)
        head = file.read(min(PREFIX_BYTES, archive.size(index)))
        header = _image_header(archive, index, head)
        _check_crc(archive, index, start)
    return np.memmap(archive.path, np.uint8, "r", start + header.data_offset, header.shape)


def _image_header(archive: ZipArchive, index: int, head: bytes) -> ArrayHeader:
    header = read_array_header(IMAGES, head, archive.size(index))
    if header.dtype != np.uint8 or len(header.shape) != 4 or header.shape[3] not in (1, 3):
        raise InvalidDataset(
            f"{IMAGES!r} is {header.dtype} {header.shape}: images are uint8 of shape (N, H, W, C) with 1 or 3 channels"
        )
    num_images, height, width, _ = header.shape
    limits = archive.limits
    if num_images > limits.max_images or height * width > limits.max_image_pixels:
        raise InvalidDataset(
            f"{IMAGES!r} has {num_images:,} images of {width}x{height}; at most {limits.max_images:,} of "
            f"{limits.max_image_pixels:,} pixels are read"
        )
    if math.prod(header.shape) > limits.max_decoded_bytes:
        raise InvalidDataset(f"{IMAGES!r} has {math.prod(header.shape):,} bytes: use fewer or smaller images")
    return header


def _check_crc(archive: ZipArchive, index: int, start: int) -> None:
    """Read through a mapped array once: later reads are not checked."""
    crc, left = 0, archive.size(index)
    with archive.path.open("rb") as file:
        file.seek(start)
        while left > 0:
            chunk = file.read(min(_CHUNK, left))
            if not chunk:
                break
            crc, left = zlib.crc32(chunk, crc), left - len(chunk)
    if left or crc != archive.crc(index):
        raise InvalidDataset(f"{archive.names[index]!r} is damaged (its checksum is wrong): write or upload it again")


def _labels(archive: ZipArchive, num_images: int) -> Tensor | None:
    found = [index for index, name in enumerate(archive.names) if name in LABELS]
    if not found:
        return None
    if len(found) > 1:
        raise InvalidDataset("the npz has both arr_1 and labels: keep one")
    name, data = archive.names[found[0]], archive.read(found[0])
    header = read_array_header(name, data[:PREFIX_BYTES], len(data))
    if header.dtype.kind not in "iu" or header.shape != (num_images,):
        raise InvalidDataset(f"{name!r} is {header.dtype} {header.shape}: give one integer for each of {num_images:,}")
    values = np.frombuffer(data, header.dtype, offset=header.data_offset)
    for position in (int(values.argmin()), int(values.argmax())):
        checked_label(f"arr_0[{position}]", int(values[position]))
    return torch.from_numpy(values.astype(np.int64))
