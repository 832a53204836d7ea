import pytest
import torch
from PIL import Image

from ddo_engine.evaluation.sample_grid import num_shown, sample_grid, write_sample_grid


@pytest.mark.parametrize(("side", "shown"), [(8, 64), (32, 64), (64, 64), (128, 64), (256, 16), (512, 4), (2048, 1)])
def test_large_images_are_shown_in_smaller_numbers(side, shown):
    assert num_shown(side) == shown


@pytest.mark.parametrize(("channels", "side", "factor"), [(1, 8, 8), (3, 32, 2), (3, 64, 1), (3, 256, 1)])
def test_every_pixel_of_every_sample_is_a_block_at_its_place(tmp_path, channels, side, factor):
    num_images = num_shown(side) - 1
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (num_images, channels, side, side), dtype=torch.uint8, generator=generator)
    write_sample_grid(tmp_path / "grid.png", images)
    with Image.open(tmp_path / "grid.png") as picture:
        assert (picture.format, picture.mode) == ("PNG", "L" if channels == 1 else "RGB")
        found = torch.tensor(list(picture.convert("RGB").tobytes()), dtype=torch.uint8)
        found = found.view(picture.height, picture.width, 3)[..., :channels]
    columns = int(num_shown(side) ** 0.5)
    assert found.shape[:2] == (columns * (side * factor + 2) - 2,) * 2
    for index in (0, columns - 1, columns, num_images - 1):
        top, left = index // columns * (side * factor + 2), index % columns * (side * factor + 2)
        cell = found[top : top + side * factor, left : left + side * factor]
        for dy in range(factor):
            for dx in range(factor):
                assert torch.equal(cell[dy::factor, dx::factor], images[index].permute(1, 2, 0))
    assert not found[-side * factor :, -side * factor :].any()  # there is no last one
    if columns > 1:
        assert (found[side * factor : side * factor + 2] == 128).all()


def test_equal_samples_are_equal_bytes(tmp_path):
    images = torch.arange(4 * 64, dtype=torch.uint8).view(4, 1, 8, 8)
    for name in "ab":
        write_sample_grid(tmp_path / name, images)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sample_grid(images).shape == (64, 8 * 66 - 2, 1)
