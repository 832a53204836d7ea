"""Crops and sizes, against the filters' own formulas."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from ddo_engine.data.transform import Place, center_crop, center_crop_dhariwal, transformed, var_crop
from ddo_engine.spec import DatasetReading, DatasetSettings
from tests.unit.data.dataset_files import random_pixels

TRANSFORMS = {"center-crop": center_crop, "center-crop-dhariwal": center_crop_dhariwal, "var": var_crop}


def lanczos(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


def bicubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2  # Keys' kernel, a = -1/2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def resampled(pixels: np.ndarray, height: int, width: int, kernel: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Resize by a kernel that is stretched when shrinking, renormalised at the edges, one axis after the other."""

    def weights(size: int, new: int) -> np.ndarray:
        scale = size / new
        centres = (np.arange(new) + 0.5) * scale
        w = kernel((np.arange(size)[None, :] + 0.5 - centres[:, None]) / max(scale, 1))
        return w / w.sum(axis=1, keepdims=True)

    horizontal = np.clip(pixels.astype(float) @ weights(pixels.shape[1], width).T, 0, 255).round()
    return np.clip(weights(pixels.shape[0], height) @ horizontal, 0, 255).round()


def assert_close(image: Image.Image, expected: np.ndarray) -> None:
    assert np.abs(np.asarray(image).astype(float) - expected).max() <= 1


def test_center_crop_is_the_central_square_by_lanczos() -> None:
    pixels = random_pixels(1, 40, 61)[0]
    expected = resampled(pixels[:, 10:50], 16, 16, lanczos)
    assert_close(center_crop(Image.fromarray(pixels), 16), expected)
    assert np.abs(expected - resampled(pixels[:, 10:50], 16, 16, bicubic)).max() > 5  # they differ


@pytest.mark.parametrize("shape", [(40, 61), (61, 40)])
def test_center_crop_dhariwal_halves_then_resizes_bicubically(shape: tuple[int, int]) -> None:
    pixels = random_pixels(1, *shape)[0]
    height, width = shape[0] // 2, shape[1] // 2
    halved = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))
    scale = 16 / min(height, width)
    full = resampled(halved, round(height * scale), round(width * scale), bicubic)
    top, left = (full.shape[0] - 16) // 2, (full.shape[1] - 16) // 2
    assert_close(center_crop_dhariwal(Image.fromarray(pixels), 16), full[top : top + 16, left : left + 16])


def test_center_crop_dhariwal_of_a_power_of_two_is_the_mean_of_boxes() -> None:
    pixels = random_pixels(1, 64, 64)[0]
    expected = pixels.reshape(8, 8, 8, 8).mean(axis=(1, 3))
    found = np.asarray(center_crop_dhariwal(Image.fromarray(pixels), 8))
    assert np.abs(found - expected).max() <= 3  # three halvings, each rounded twice


@pytest.mark.parametrize(("shape", "size"), [((40, 61), (18, 27)), ((61, 40), (27, 18)), ((30, 30), (18, 18))])
def test_var_crop_resizes_the_shorter_side_to_nine_eighths(shape: tuple[int, int], size: tuple[int, int]) -> None:
    pixels = random_pixels(1, *shape)[0]
    full = resampled(pixels, *size, lanczos)
    top, left = round((size[0] - 16) / 2), round((size[1] - 16) / 2)
    assert_close(var_crop(Image.fromarray(pixels), 16), full[top : top + 16, left : left + 16])


def test_var_crop_at_its_own_size_only_crops() -> None:
    pixels = random_pixels(1, 288, 300, 3)[0]
    assert np.array_equal(np.asarray(var_crop(Image.fromarray(pixels), 256)), pixels[16:272, 22:278])


def test_var_crop_at_places_cuts_at_every_offset_equally_often() -> None:
    resized = random_pixels(1, 18, 21)[0]
    offsets = {
        resized[top : top + 16, left : left + 16].tobytes(): (left, top) for left in range(6) for top in range(3)
    }
    shares = (np.arange(60) + 0.5) / 60
    places = [Place(across, down) for across in shares for down in shares]
    found = [offsets[var_crop(Image.fromarray(resized), 16, place).tobytes()] for place in places]
    assert {offset: found.count(offset) for offset in offsets.values()} == dict.fromkeys(offsets.values(), 200)
    last = np.nextafter(1, 0)
    assert offsets[var_crop(Image.fromarray(resized), 16, Place(last, last)).tobytes()] == (5, 2)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("shape", [(5, 9), (100, 33), (64, 64), (257, 255), (1, 1)])
def test_transformed_is_square_of_the_resolution(name: str, shape: tuple[int, int]) -> None:
    reading = DatasetReading(resolution=32, transform=name)  # type: ignore[arg-type]
    for pixels in (random_pixels(1, *shape)[0], random_pixels(1, *shape, 3)[0]):
        result = transformed(Image.fromarray(pixels), reading)
        assert result.size == (32, 32)
        assert np.asarray(result).shape[2:] == pixels.shape[2:]


def test_transformed_none_changes_nothing() -> None:
    image = Image.fromarray(random_pixels(1, 5, 6)[0])
    assert transformed(image, DatasetReading()) is image


def test_reading_transform_without_resolution_is_refused() -> None:
    with pytest.raises(ValidationError, match="needs resolution"):
        DatasetReading(transform="var")
    with pytest.raises(ValidationError, match="needs resolution"):
        DatasetSettings(uri="file:///a.zip", transform="center-crop")


def test_settings_of_a_dataset_give_their_reading() -> None:
    settings = DatasetSettings(uri="file:///a.zip", transform="var", resolution=8, convert="rgb", grey_levels=17)
    assert settings.reading == DatasetReading(transform="var", resolution=8, convert="rgb")
