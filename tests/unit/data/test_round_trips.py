"""What is written is what is read, whatever it is."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddo_engine.data import InMemoryDataset, OnDemandDataset, load_dataset, write_dataset, write_latents
from tests.unit.data.dataset_files import encoded, write_folder, write_tar, write_zip

NAME = st.text(st.characters(whitelist_categories=("Ll", "Lu", "Nd", "Lo"), whitelist_characters="_- "), min_size=1)
SHAPES = st.tuples(st.integers(1, 5), st.sampled_from([1, 3]), st.integers(1, 9))


@st.composite
def images(draw: st.DrawFn) -> torch.Tensor:
    num_images, channels, size = draw(SHAPES)
    seed = draw(st.integers(0, 2**16))
    pixels = np.random.default_rng(seed).integers(0, 256, (num_images, channels, size, size), dtype=np.uint8)
    return torch.from_numpy(pixels)


def both(path: Path) -> tuple[InMemoryDataset, OnDemandDataset]:
    in_memory, on_demand = load_dataset(path), load_dataset(path, max_memory_bytes=0)
    assert isinstance(in_memory, InMemoryDataset)
    assert isinstance(on_demand, OnDemandDataset)
    assert in_memory.info == on_demand.info
    return in_memory, on_demand


def labels_like(data: st.DataObject, num_images: int) -> torch.Tensor | None:
    drawn = data.draw(st.none() | st.lists(st.integers(0, 30), min_size=num_images, max_size=num_images))
    return None if drawn is None else torch.tensor(drawn)


@settings(max_examples=40, deadline=None)
@given(images=images(), data=st.data())
def test_round_trip_of_the_edm_zip(images: torch.Tensor, data: st.DataObject) -> None:
    labels = labels_like(data, len(images))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.zip"
        write_dataset(path, images, labels)
        for dataset in both(path):
            batch = dataset.batch(range(len(images)))
            assert torch.equal(batch.images_BCHW, images)
            assert batch.labels_B is None if labels is None else torch.equal(batch.labels_B, labels)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6)),
    seed=st.integers(0, 2**16),
    scale=st.sampled_from([1e-38, 1.0, 1e38]),
    data=st.data(),
)
def test_round_trip_of_latents_is_bit_exact(
    shape: tuple[int, int, int], seed: int, scale: float, data: st.DataObject
) -> None:
    num_images, channels, size = shape
    means, deviations = torch.randn(
        2, num_images, channels, size, size, generator=torch.Generator().manual_seed(seed)
    ).clamp(-3, 3)
    moments = torch.cat([means, deviations.abs()], dim=1) * scale
    labels = labels_like(data, num_images)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.zip"
        write_latents(path, moments, labels)
        for dataset in both(path):
            batch = dataset.batch(range(num_images))
            assert torch.equal(batch.images_BCHW.view(torch.int32), moments.view(torch.int32))
            assert dataset.info.img_channels == channels
            assert (batch.labels_B is None) == (labels is None)


@settings(max_examples=40, deadline=None)
@given(images=images(), data=st.data())
def test_round_trip_of_npz(images: torch.Tensor, data: st.DataObject) -> None:
    labels = labels_like(data, len(images))
    arrays = {} if labels is None else {"arr_1": labels.numpy()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"
        np.savez(path, images.permute(0, 2, 3, 1).contiguous().numpy(), **arrays)
        for dataset in both(path):
            batch = dataset.batch(range(len(images)))
            assert torch.equal(batch.images_BCHW, images)
            assert batch.labels_B is None if labels is None else torch.equal(batch.labels_B, labels)


@settings(max_examples=60, deadline=None)
@given(images=images(), data=st.data())
def test_round_trip_of_class_folders_numbers_classes_in_sorted_order(images: torch.Tensor, data: st.DataObject) -> None:
    folders = data.draw(st.lists(NAME, min_size=len(images), max_size=len(images)))
    pixels = images.permute(0, 2, 3, 1).numpy()
    files = {
        f"{folder}/{index}.png": encoded(image[:, :, 0] if image.shape[2] == 1 else image)
        for index, (folder, image) in enumerate(zip(folders, pixels, strict=True))
    }
    order = sorted(range(len(images)), key=lambda index: f"{folders[index]}/{index}.png")
    classes = [sorted(set(folders)).index(folders[index]) for index in order]
    with tempfile.TemporaryDirectory() as folder:
        paths = [write_zip(Path(folder) / "a.zip", files), write_tar(Path(folder) / "a.tar", files)]
        paths.append(write_folder(Path(folder) / "folder", files))
        for path in paths:
            for dataset in both(path):
                batch = dataset.batch(range(len(images)))
                assert torch.equal(batch.images_BCHW, images[order])
                assert batch.labels_B is not None
                assert batch.labels_B.tolist() == classes


@settings(max_examples=40, deadline=None)
@given(images=images(), data=st.data())
def test_round_trip_of_shards(images: torch.Tensor, data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.integers(0, 999), min_size=len(images), max_size=len(images)))
    pixels = images.permute(0, 2, 3, 1).numpy()
    files: dict[str, bytes] = {}
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        files[f"set/{index:03d}.png"] = encoded(image[:, :, 0] if image.shape[2] == 1 else image)
        files[f"set/{index:03d}.cls"] = f"{label}\n".encode()
    with tempfile.TemporaryDirectory() as folder:
        for dataset in both(write_tar(Path(folder) / "a.tar", files)):
            batch = dataset.batch(range(len(images)))
            assert torch.equal(batch.images_BCHW, images)
            assert batch.labels_B is not None
            assert batch.labels_B.tolist() == labels


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=2000), head=st.sampled_from([b"", b"PK\3\4", b"PK\5\6", b"\x93NUMPY\1\0"]))
def test_load_random_bytes_are_refused(content: bytes, head: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_bytes(head + content)
        try:
            load_dataset(path)
        except ValueError as error:
            assert type(error).__name__ == "InvalidDataset"  # noqa: PT017  (any other error is a defect)
        else:
            raise AssertionError("random bytes were read as a dataset")
