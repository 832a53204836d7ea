import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ddo_engine.data import write_dataset, write_latents
from ddo_engine.files import sha256_of

IMAGES = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4).to(torch.uint8)


def test_write_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        write_dataset(tmp_path / name, IMAGES, torch.tensor([1, 0]))
    assert sha256_of(tmp_path / "a.zip") == sha256_of(tmp_path / "b.zip")


def test_write_layout_is_edms(tmp_path: Path) -> None:
    images = IMAGES[:1].expand(1001, -1, -1, -1)
    write_dataset(tmp_path / "a.zip", images, torch.arange(1001))
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        names = archive.namelist()
        assert names[0] == "00000/img00000000.png"
        assert names[1000] == "00001/img00001000.png"
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        labels = json.loads(archive.read("dataset.json"))["labels"]
    assert labels[1000] == ["00001/img00001000.png", 1000]


def test_write_without_labels_writes_null(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a.zip", IMAGES, None)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert json.loads(archive.read("dataset.json")) == {"labels": None}


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (IMAGES.float(), None),
        (IMAGES[0], None),
        (IMAGES[:, :2], None),
        (IMAGES[:, :, :3], None),
        (IMAGES[:0], None),
        (IMAGES, torch.tensor([0])),
        (IMAGES, torch.tensor([0, -1])),
        (IMAGES, torch.tensor([0.0, 1.0])),
    ],
)
def test_write_unfit_tensors_is_refused_and_leaves_no_file(
    tmp_path: Path, images: torch.Tensor, labels: torch.Tensor | None
) -> None:
    with pytest.raises(ValueError, match=r"images|labels"):
        write_dataset(tmp_path / "a.zip", images, labels)
    assert not list(tmp_path.iterdir())


MOMENTS = torch.rand(2, 8, 4, 4)


def test_write_latents_layout_is_edm2s(tmp_path: Path) -> None:
    write_latents(tmp_path / "a.zip", MOMENTS, torch.tensor([1, 0]))
    write_latents(tmp_path / "b.zip", MOMENTS, torch.tensor([1, 0]))
    assert sha256_of(tmp_path / "a.zip") == sha256_of(tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist()[1] == "00000/img-mean-std-00000001.npy"
        array = np.load(io.BytesIO(archive.read(archive.namelist()[1])))
        assert json.loads(archive.read("dataset.json"))["labels"][0] == ["00000/img-mean-std-00000000.npy", 1]
    assert array.dtype == np.float32
    assert np.array_equal(array, MOMENTS[1].numpy())


@pytest.mark.parametrize(
    ("moments", "labels"),
    [
        (MOMENTS.double(), None),
        (MOMENTS[0], None),
        (MOMENTS[:, :7], None),
        (MOMENTS[:, :, :3], None),
        (MOMENTS[:0], None),
        (-MOMENTS, None),
        (MOMENTS * float("inf"), None),
        (MOMENTS, torch.tensor([0])),
    ],
)
def test_write_latents_unfit_tensors_is_refused_and_leaves_no_file(
    tmp_path: Path, moments: torch.Tensor, labels: torch.Tensor | None
) -> None:
    with pytest.raises(ValueError, match=r"moments|labels"):
        write_latents(tmp_path / "a.zip", moments, labels)
    assert not list(tmp_path.iterdir())
