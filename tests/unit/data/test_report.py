from pathlib import Path

import numpy as np
import pytest
import torch

from ddo_engine.data import DatasetReport, inspect_dataset, write_dataset, write_latents
from ddo_engine.data.grey_levels import grey_values
from ddo_engine.errors import InvalidDataset
from ddo_engine.files import sha256_of, sha256_of_tree
from tests.unit.data.dataset_files import MOMENTS, encoded, random_pixels, write_folder, write_zip


def test_inspect_images_says_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    images = grey_values(17)[torch.arange(17 * 16) % 17].reshape(17, 1, 4, 4)
    write_dataset(path, images, torch.arange(17) % 3)
    report = inspect_dataset(path, with_sha256=True)
    assert (report.format, report.kind, report.num_images, report.num_inspected) == ("edm-zip", "images", 17, 17)
    assert (report.smallest, report.largest, report.img_channels) == ("4x4", "4x4", (1,))
    assert (report.grey_levels, report.num_pixel_values) == (17, 17)
    assert report.num_classes == 3
    assert report.class_counts == {"0": 6, "1": 6, "2": 5}
    assert report.size_bytes == path.stat().st_size
    assert report.sha256 == sha256_of(path)
    assert DatasetReport.model_validate_json(report.model_dump_json()) == report


def test_inspect_latents_has_no_grey_levels(tmp_path: Path) -> None:
    write_latents(tmp_path / "a.zip", MOMENTS, None)
    report = inspect_dataset(tmp_path / "a.zip")
    assert (report.kind, report.img_channels, report.smallest) == ("latents", (4,), "4x4")
    assert report.grey_levels is None
    assert report.num_pixel_values is None
    assert report.num_classes == 0
    assert report.sha256 is None


def test_inspect_images_of_differing_sizes_and_colours_tells_both(tmp_path: Path) -> None:
    files = {"0.png": encoded(random_pixels(1, 9, 20)[0]), "1.jpg": encoded(random_pixels(1, 50, 30, 3)[0], "JPEG")}
    folder = write_folder(tmp_path / "a", files)
    report = inspect_dataset(folder, with_sha256=True)
    assert (report.smallest, report.largest, report.img_channels) == ("20x9", "30x50", (1, 3))
    assert report.size_bytes == sum(len(content) for content in files.values())
    assert report.sha256 == sha256_of_tree(folder)


@pytest.mark.parametrize("levels", [2, 16, 255, 256])
def test_inspect_finds_the_fewest_grey_levels(tmp_path: Path, levels: int) -> None:
    pixels = np.resize(grey_values(levels).numpy(), (16, 16))
    path = write_zip(tmp_path / "a.zip", {"0.png": encoded(pixels)})
    report = inspect_dataset(path)
    assert report.grey_levels == levels
    assert report.num_pixel_values == levels


def test_inspect_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("hello")
    for name in ("a", "missing"):
        with pytest.raises(InvalidDataset, match=name):
            inspect_dataset(tmp_path / name)


def test_hash_of_a_folder_depends_on_names_and_contents(tmp_path: Path) -> None:
    one = write_folder(tmp_path / "one", {"a/x": b"1", "b": b"2"})
    same = write_folder(tmp_path / "same", {"b": b"2", "a/x": b"1"})
    renamed = write_folder(tmp_path / "renamed", {"a/y": b"1", "b": b"2"})
    changed = write_folder(tmp_path / "changed", {"a/x": b"1", "b": b"3"})
    assert sha256_of_tree(one) == sha256_of_tree(same)
    assert len({sha256_of_tree(folder) for folder in (one, renamed, changed)}) == 3
    assert sha256_of_tree(one / "b") == sha256_of(one / "b")
