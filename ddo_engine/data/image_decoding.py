"""From the bytes of a PNG, JPEG or WebP file to pixels.

Files come from strangers: the header is judged first, Pillow gets no choice of formats, and whatever it finds wrong
becomes one kind of error that names the file. Orientation tags and colour profiles are ignored, as the official tools
of the field do: the pixels are those that are stored.
"""

import struct
import warnings
import zlib
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from ddo_engine.data.image_header import ImageHeader, read_image_header
from ddo_engine.data.limits import DatasetLimits
from ddo_engine.data.transform import Place, check_can_be_resized, transformed
from ddo_engine.errors import InvalidDataset
from ddo_engine.spec import DatasetReading

_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    zlib.error,
    struct.error,
    Image.DecompressionBombWarning,
    Image.DecompressionBombError,
)
_MODES = {"rgb": "RGB", "grey": "L"}


def decode_image(
    name: str, data: bytes, reading: DatasetReading, limits: DatasetLimits, place: Place | None = None
) -> npt.NDArray[np.uint8]:
    """Decode one image and make it what models see.

    Args:
        name: For messages.
        data: The whole file.
        reading: Conversion of colours, crop and size.
        limits: Bounds on its size.
        place: Where to cut, as in :func:`ddo_engine.data.transform.transformed`.

    Returns:
        uint8 of shape (C, H, W), 1 or 3 channels.

    Raises:
        InvalidDataset: The image is damaged, moves, is transparent, or has colours that ``reading`` does not convert.
    """
    header = read_image_header(name, data, limits)
    _check_colours(name, header, reading)
    check_can_be_resized(name, (header.width, header.height), reading)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata, which is not used
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(data), formats=(header.format,)) as image:
                _check_agrees(name, image, header)
                image.load()
                plain = image.convert(_MODES[reading.convert]) if reading.convert else image
                return channels_first(np.asarray(transformed(plain, reading, place)))
    except InvalidDataset:
        raise
    except _UNREADABLE as error:
        raise InvalidDataset(f"{name!r} is a damaged {header.format} ({error}): write it again") from error


def channels_first(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return pixels of shape (H, W) or (H, W, C) as (C, H, W)."""
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _check_colours(name: str, header: ImageHeader, reading: DatasetReading) -> None:
    if header.colours == "transparent":
        raise _unfit(name, "convert it (no palette, no transparency)")
    if header.bit_depth > 8:
        raise InvalidDataset(f"{name!r} has {header.bit_depth} bits a channel: convert it to 8")
    plain = header.bit_depth == 8 and header.colours in ("grey", "rgb")
    if not plain and reading.convert is None:
        raise _unfit(name, "convert it (no palette, no transparency), or set dataset.convert to 'rgb' or 'grey'")


def _check_agrees(name: str, image: Image.Image, header: ImageHeader) -> None:
    if image.size != (header.width, header.height):
        raise ValueError("two different headers")
    if getattr(image, "n_frames", 1) != 1:
        raise InvalidDataset(f"{name!r} is animated or has several frames: save its frames as images")
    if "transparency" in image.info:
        raise _unfit(name, "convert it (no palette, no transparency)")


def _unfit(name: str, advice: str) -> InvalidDataset:
    return InvalidDataset(f"{name!r} is neither 8-bit greyscale nor 8-bit RGB: {advice}")
