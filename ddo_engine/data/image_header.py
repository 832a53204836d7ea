"""What a PNG, JPEG or WebP file says about itself, read before a decoder sees it.

Pillow's own headers come too late: for WebP it allocates the canvas when it opens the file.
"""

import struct
from dataclasses import dataclass
from typing import Literal

from ddo_engine.data.limits import DatasetLimits
from ddo_engine.errors import InvalidDataset

ImageFormat = Literal["PNG", "JPEG", "WEBP"]
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_COLOURS = {0: "grey", 2: "rgb", 3: "palette", 4: "transparent", 6: "transparent"}
_JPEG_COLOURS = {1: "grey", 3: "rgb", 4: "cmyk"}
_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended and progressive Huffman: what libjpeg decodes
_JPEG_OTHER_FRAMES = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_MAX_PASSES = 8  # over the pixels of the largest image: each scan costs as much as a whole one
_JPEG_SCAN = b"\xff\xda"
_MAX_PARTS, _PART_BYTES = 4096, 1024  # of a file, and so many bytes a part beyond: decoders look at each in Python


@dataclass(frozen=True)
class ImageHeader:
    """Size and colours of a stored image.

    Attributes:
        format: By content; the file's name does not matter.
        width: Pixels.
        height: Pixels.
        bit_depth: Of a channel.
        colours: "grey", "rgb", "palette", "cmyk" or "transparent".
    """

    format: ImageFormat
    width: int
    height: int
    bit_depth: int
    colours: str


def read_image_header(name: str, data: bytes, limits: DatasetLimits) -> ImageHeader:
    """Read and judge the header of an image.

    Args:
        name: For messages.
        data: The whole file.
        limits: Bounds on its size.

    Raises:
        InvalidDataset: The file is none of the three formats, moves, or would cost too much to decode.
    """
    header = _read(name, data)
    if header.width * header.height > limits.max_image_pixels:
        raise InvalidDataset(
            f"{name!r} is {header.width}x{header.height}; at most {limits.max_image_pixels:,} pixels are read"
        )
    if header.width == 0 or header.height == 0:
        raise InvalidDataset(f"{name!r} has no pixels: write it again or remove it")
    if max(header.width, header.height) > limits.max_aspect_ratio * min(header.width, header.height):
        raise InvalidDataset(f"{name!r} is {header.width}x{header.height}, a mere line: crop it or remove it")
    if header.format == "JPEG":
        # in compressed data 0xFF is followed by 0x00, so that this pair is a marker
        num_scans = data.count(_JPEG_SCAN)
        num_passes = num_scans * header.width * header.height
        if num_scans > limits.max_jpeg_scans or num_passes > _MAX_PASSES * limits.max_image_pixels:
            raise InvalidDataset(f"{name!r} is a JPEG of {num_scans} scans: save it as a plain one")
    return header


def _read(name: str, data: bytes) -> ImageHeader:
    if data.startswith(_PNG_SIGNATURE) and data[12:16] == b"IHDR" and len(data) >= 33:
        _count_chunks(name, data)
        width, height, bit_depth, colour_type = struct.unpack_from(">IIBB", data, 16)
        return ImageHeader("PNG", width, height, bit_depth, _PNG_COLOURS.get(colour_type, "unknown"))
    if data.startswith(b"\xff\xd8\xff"):
        return _read_jpeg(name, data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP" and len(data) >= 30:
        return _read_webp(name, data)
    raise InvalidDataset(f"{name!r} is not a PNG image, nor a JPEG or WebP one: convert it, renaming is not enough")


def _count_chunks(name: str, data: bytes) -> None:
    at = len(_PNG_SIGNATURE)
    for _ in range(_MAX_PARTS + len(data) // _PART_BYTES):
        if at + 12 > len(data):
            return
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    raise _too_many_parts(name, "PNG")


def _read_jpeg(name: str, data: bytes) -> ImageHeader:
    """Walk through the segments up to the first scan, as a decoder does."""
    at, frame = 2, None
    for _ in range(_MAX_PARTS + len(data) // _PART_BYTES):
        if at + 10 > len(data) or data[at] != 0xFF or data[at : at + 2] == _JPEG_SCAN:
            break
        marker = data[at + 1]
        if marker in _JPEG_FRAMES and frame is None:
            bit_depth, height, width, num_components = struct.unpack_from(">BHHB", data, at + 4)
            frame = ImageHeader("JPEG", width, height, bit_depth, _JPEG_COLOURS.get(num_components, "unknown"))
        if marker in _JPEG_OTHER_FRAMES:
            raise InvalidDataset(f"{name!r} is a lossless or arithmetic-coded JPEG: save it as a plain one")
        # 0xFF may be repeated before a marker, and some markers stand alone
        alone = marker == 0x01 or 0xD0 <= marker <= 0xD7
        at += 1 if marker == 0xFF else 2 if alone else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    else:
        raise _too_many_parts(name, "JPEG")
    if frame is None:
        raise InvalidDataset(f"{name!r} is a damaged JPEG (no frame in it): write it again")
    return frame


def _too_many_parts(name: str, image_format: str) -> InvalidDataset:
    return InvalidDataset(f"{name!r} is a {image_format} of very many tiny parts: write it again")


def _read_webp(name: str, data: bytes) -> ImageHeader:
    """Read the first chunk: simple lossy, simple lossless, or extended."""
    kind, body = data[12:16], data[20:]
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", body, 6))
        return ImageHeader("WEBP", width, height, 8, "rgb")
    if kind == b"VP8L" and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        colours = "transparent" if bits >> 28 & 1 else "rgb"
        return ImageHeader("WEBP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 8, colours)
    if kind == b"VP8X":
        if body[0] & 0x02:
            raise InvalidDataset(f"{name!r} is animated: save its frames as images")
        width, height = (int.from_bytes(body[at : at + 3], "little") + 1 for at in (4, 7))
        return ImageHeader("WEBP", width, height, 8, "transparent" if body[0] & 0x10 else "rgb")
    raise InvalidDataset(f"{name!r} is a damaged WebP ({kind!r}): write it again")
