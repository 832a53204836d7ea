"""Single images: three formats, stated colours, and what is refused before a decoder sees it."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ddo_engine.data.image_decoding import decode_image
from ddo_engine.data.limits import DEFAULT_LIMITS, DatasetLimits
from ddo_engine.errors import InvalidDataset
from ddo_engine.spec import DatasetReading
from tests.unit.data.dataset_files import encoded, random_pixels

GREY, RGB = random_pixels(1, 9, 7)[0], random_pixels(1, 9, 7, 3)[0]
AS_STORED, TO_RGB, TO_GREY = DatasetReading(), DatasetReading(convert="rgb"), DatasetReading(convert="grey")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def decode(data: bytes, reading: DatasetReading = AS_STORED, limits: DatasetLimits = DEFAULT_LIMITS) -> np.ndarray:
    return decode_image("it.png", data, reading, limits)


def refusal(data: bytes, reading: DatasetReading = AS_STORED) -> str:
    with pytest.raises(InvalidDataset) as caught:
        decode(data, reading)
    assert "it.png" in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_decode_without_loss_returns_the_pixels(kind: str) -> None:
    assert np.array_equal(decode(encoded(RGB, kind)), RGB.transpose(2, 0, 1))


@pytest.mark.parametrize("pixels", [GREY, RGB])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"subsampling": 0}])
def test_decode_jpeg_returns_what_pillow_does(pixels: np.ndarray, options: dict[str, object]) -> None:
    data = encoded(pixels, "JPEG", quality=90, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(decode(data), expected[None] if expected.ndim == 2 else expected.transpose(2, 0, 1))


def test_decode_lossy_webp_is_read() -> None:
    assert decode(encoded(RGB, "WEBP", lossless=False)).shape == (3, 9, 7)


def test_decode_ignores_the_orientation_tag_and_metadata() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert decode(encoded(RGB, "PNG", exif=exif)).shape == (3, 9, 7)
    assert decode(encoded(RGB, "JPEG", exif=exif, comment=bytes(60_000))).shape == (3, 9, 7)
    assert decode(encoded(RGB, "WEBP", exif=exif)).shape == (3, 9, 7)


CONVERTIBLE = {
    "palette": saved(Image.fromarray(RGB).quantize(16), "PNG"),
    "one bit": saved(Image.fromarray(GREY).convert("1"), "PNG"),
    "CMYK": saved(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
}


@pytest.mark.parametrize("case", CONVERTIBLE)
def test_decode_other_colours_only_when_told_to_convert(case: str) -> None:
    assert "dataset.convert" in refusal(CONVERTIBLE[case])
    assert decode(CONVERTIBLE[case], TO_RGB).shape == (3, 9, 7)
    assert decode(CONVERTIBLE[case], TO_GREY).shape == (1, 9, 7)


def test_decode_converts_grey_and_rgb_into_each_other() -> None:
    assert np.array_equal(decode(encoded(GREY), TO_RGB), np.stack([GREY] * 3))
    grey = decode(encoded(RGB), TO_GREY)[0].astype(float)
    assert np.abs(grey - RGB @ [0.299, 0.587, 0.114]).max() <= 1  # ITU-R 601, rounded


NEVER = {
    "transparent PNG": saved(Image.fromarray(RGB).convert("RGBA"), "PNG"),
    "grey with alpha": saved(Image.fromarray(GREY).convert("LA"), "PNG"),
    "transparent palette": saved(Image.fromarray(RGB).quantize(16), "PNG", transparency=3),
    "transparent colour": saved(Image.fromarray(RGB), "PNG", transparency=(1, 2, 3)),
    "transparent WebP": saved(Image.fromarray(np.dstack([RGB, GREY])), "WEBP", lossless=True),
    "transparent lossy WebP": saved(Image.fromarray(np.dstack([RGB, GREY])), "WEBP"),
    "sixteen bits": saved(Image.fromarray(GREY.astype(np.uint16)), "PNG"),
    "animated PNG": saved(Image.fromarray(RGB), "PNG", save_all=True, append_images=[Image.fromarray(255 - RGB)]),
    "animated WebP": saved(Image.fromarray(RGB), "WEBP", save_all=True, append_images=[Image.fromarray(255 - RGB)]),
    "multi-picture JPEG": saved(Image.fromarray(RGB), "MPO", save_all=True, append_images=[Image.fromarray(RGB)]),
    "GIF": saved(Image.fromarray(GREY), "GIF"),
    "TIFF": saved(Image.fromarray(RGB), "TIFF"),
    "JPEG 2000 signature": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(99),
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n" + bytes(99),
    "nothing": b"",
}


@pytest.mark.parametrize("reading", [AS_STORED, TO_RGB])
@pytest.mark.parametrize("case", NEVER)
def test_decode_what_is_never_read_is_refused(case: str, reading: DatasetReading) -> None:
    assert refusal(NEVER[case], reading)


def png_of_size(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    good = encoded(RGB)
    return good[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + good[33:]


def jpeg_of_size(width: int, height: int) -> bytes:
    good = encoded(RGB, "JPEG")
    at = good.index(b"\xff\xc0") + 5
    return good[:at] + struct.pack(">HH", height, width) + good[at + 4 :]


def webp_of_size(width: int, height: int) -> bytes:
    good = encoded(RGB, "WEBP", lossless=False)
    at = good.index(b"\x9d\x01\x2a") + 3
    return good[:at] + struct.pack("<HH", width, height) + good[at + 4 :]


def lossless_webp_of_size(width: int, height: int) -> bytes:
    good = encoded(RGB, "WEBP")
    bits = int.from_bytes(good[21:25], "little") & ~0xFFFFFFF | (width - 1) | (height - 1) << 14
    return good[:21] + bits.to_bytes(4, "little") + good[25:]


def extended_webp_of_size(width: int, height: int) -> bytes:
    good = encoded(RGB, "WEBP", exif=b"Exif\0\0MM\0*" + bytes(8))
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return good[:24] + sizes + good[30:]


@pytest.mark.parametrize(
    ("forge", "width", "height"),
    [
        (png_of_size, 50_000, 50_000),
        (jpeg_of_size, 50_000, 50_000),
        (webp_of_size, 16_383, 16_383),
        (lossless_webp_of_size, 16_384, 16_384),
        (extended_webp_of_size, 50_000, 50_000),
    ],
)
def test_decode_bomb_is_refused_by_its_header(
    monkeypatch: pytest.MonkeyPatch, forge: object, width: int, height: int
) -> None:
    assert decode(forge(7, 9)).shape == (3, 9, 7)  # type: ignore[operator]
    monkeypatch.setattr(Image, "open", None)  # a decoder would fail here
    assert f"{width}x{height}" in refusal(forge(width, height))  # type: ignore[operator]


def test_decode_line_of_pixels_is_refused() -> None:
    """Resizing its shorter side to the resolution would make it huge."""
    reading = DatasetReading(resolution=256, transform="var")
    assert "line" in refusal(encoded(random_pixels(1, 1, 5000)[0]), reading)


def test_decode_jpeg_of_many_scans_is_refused() -> None:
    data = encoded(RGB, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    assert "scans" in refusal(data[:last] + data[last:-2] * 100 + data[-2:])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_decode_truncated_or_flipped_is_refused_or_decoded(kind: str) -> None:
    """Damage is one kind of error, never another one; a cut file is never decoded."""
    data = encoded(random_pixels(1, 33, 31, 3)[0], kind)
    for length in range(0, len(data) - 24, 13):  # the last bytes of a PNG hold no pixels
        refusal(data[:length])
    for at in range(0, len(data), 5):
        with contextlib.suppress(InvalidDataset):
            decode(data[:at] + bytes([data[at] ^ 0x24]) + data[at + 1 :], TO_RGB)
