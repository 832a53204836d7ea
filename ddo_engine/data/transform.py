"""Crop and resize images to one square size, as the tools do that the published models' data were made with."""

from collections.abc import Callable
from typing import NamedTuple

from PIL import Image
from PIL.Image import Resampling

from ddo_engine.errors import InvalidDataset
from ddo_engine.spec import DatasetReading

_VAR_MARGIN = 1.125  # VAR resizes the shorter side to that much more than it keeps
_MAX_RESIZED_PIXELS = 2**28  # Pillow takes four bytes for each, and a second copy between width and height


class Place(NamedTuple):
    """Where in an image a square is cut out.

    Attributes:
        across: Share of the room from left to right, in [0, 1).
        down: The same from top to bottom.
    """

    across: float
    down: float


def transformed(image: Image.Image, reading: DatasetReading, place: Place | None = None) -> Image.Image:
    """Return the image as ``reading`` asks; images smaller than the resolution are enlarged.

    Args:
        image: Mode L or RGB.
        reading: ``transform`` "none" returns the image as it is.
        place: Where to cut, for the transform "var"; None: in the centre.
    """
    if reading.transform == "none":
        return image
    assert reading.resolution is not None
    if place is not None:
        assert reading.transform == "var", "specs refuse random crops of other transforms"
        return var_crop(image, reading.resolution, place)
    return _TRANSFORMS[reading.transform](image, reading.resolution)


def check_can_be_resized(name: str, size: tuple[int, int], reading: DatasetReading) -> None:
    """Refuse an image that becomes huge before its centre is cut out: a small file may hold a long line.

    Args:
        name: For messages.
        size: Width and height as stored.
        reading: What is to be done to the image.

    Raises:
        InvalidDataset: Naming the file.
    """
    if reading.resolution is None or reading.transform in ("none", "center-crop"):
        return
    shorter, longer = sorted(size)
    if (_VAR_MARGIN * reading.resolution) ** 2 * longer > _MAX_RESIZED_PIXELS * shorter:
        raise InvalidDataset(
            f"{name!r} is {size[0]}x{size[1]}, which has more than {_MAX_RESIZED_PIXELS:,} pixels once its shorter "
            f"side is resized to {reading.resolution}: crop it, or lower dataset.resolution"
        )


def center_crop(image: Image.Image, resolution: int) -> Image.Image:
    """Cut out the largest central square, then resize it by Lanczos: EDM's ``--transform=center-crop``."""
    side = min(image.size)
    return _central(image, side, side).resize((resolution, resolution), Resampling.LANCZOS)


def center_crop_dhariwal(image: Image.Image, resolution: int) -> Image.Image:
    """Halve by box averages while twice too large, resize the shorter side bicubically, cut out the centre.

    Source: arXiv:2105.05233 (the ImageNet preprocessing of ADM), EDM2's ``--transform=center-crop-dhariwal``.
    """
    while min(image.size) >= 2 * resolution:
        image = image.resize((image.width // 2, image.height // 2), Resampling.BOX)
    scale = resolution / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return _central(image.resize(size, Resampling.BICUBIC), resolution, resolution)


def var_crop(image: Image.Image, resolution: int, place: Place | None = None) -> Image.Image:
    """Resize the shorter side to 1.125 times the resolution by Lanczos, cut out a square: the centre, or at ``place``.

    Every offset that lies in the image is as likely as any other, where ``place`` is uniform.

    Source: arXiv:2404.02905, whose training cuts at random and whose evaluation cuts in the centre.
    """
    short = round(_VAR_MARGIN * resolution)
    width, height = image.size
    size = (short, short * height // width) if width <= height else (short * width // height, short)
    resized = image if image.size == size else image.resize(size, Resampling.LANCZOS)
    room = (size[0] - resolution, size[1] - resolution)
    if place is None:
        left, top = round(room[0] / 2), round(room[1] / 2)
    else:
        left, top = int(place.across * (room[0] + 1)), int(place.down * (room[1] + 1))
    return resized.crop((left, top, left + resolution, top + resolution))


def _central(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


_TRANSFORMS: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "center-crop": center_crop,
    "center-crop-dhariwal": center_crop_dhariwal,
    "var": var_crop,
}
