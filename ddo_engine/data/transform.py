"""Crop and resize images to one square size, as the tools do that the published models' data were made with."""

from collections.abc import Callable

from PIL import Image
from PIL.Image import Resampling

from ddo_engine.spec import DatasetReading

_VAR_MARGIN = 1.125  # VAR resizes the shorter side to that much more than it keeps


def transformed(image: Image.Image, reading: DatasetReading) -> Image.Image:
    """Return the image as ``reading`` asks; images smaller than the resolution are enlarged.

    Args:
        image: Mode L or RGB.
        reading: ``transform`` "none" returns the image as it is.
    """
    if reading.transform == "none":
        return image
    assert reading.resolution is not None
    return _TRANSFORMS[reading.transform](image, reading.resolution)


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


def var_crop(image: Image.Image, resolution: int) -> Image.Image:
    """Resize the shorter side to 1.125 times the resolution by Lanczos, cut out the centre (arXiv:2404.02905)."""
    short = round(_VAR_MARGIN * resolution)
    width, height = image.size
    size = (short, short * height // width) if width <= height else (short * width // height, short)
    resized = image if image.size == size else image.resize(size, Resampling.LANCZOS)
    left, top = round((size[0] - resolution) / 2), round((size[1] - resolution) / 2)
    return resized.crop((left, top, left + resolution, top + resolution))


def _central(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


_TRANSFORMS: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "center-crop": center_crop,
    "center-crop-dhariwal": center_crop_dhariwal,
    "var": var_crop,
}
