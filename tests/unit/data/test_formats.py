"""Every format gives the same images, in memory and on demand."""

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ddo_engine.data import ImageDataset, InMemoryDataset, OnDemandDataset, inspect_dataset, load_dataset
from ddo_engine.spec import DatasetReading
from tests.unit.data.dataset_files import (
    CLASSES,
    LABELS,
    MOMENTS,
    PIXELS,
    WRITERS,
    by_class,
    encoded,
    labels_json,
    npy,
    random_pixels,
    refusal,
    samples,
    write_folder,
    write_tar,
    write_zip,
)

IMAGES = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)


def assert_same(one: ImageDataset, other: ImageDataset) -> None:
    assert one.info == other.info
    indices = [5, 0, 0, 3]
    ours, theirs = one.batch(indices), other.batch(torch.tensor(indices))
    assert ours.images_BCHW.dtype == theirs.images_BCHW.dtype
    assert torch.equal(ours.images_BCHW, theirs.images_BCHW)
    assert ours.labels_B is not None
    assert theirs.labels_B is not None
    assert torch.equal(ours.labels_B, theirs.labels_B)


@pytest.mark.parametrize("case", WRITERS)
def test_load_any_format_gives_the_images_and_labels_in_order(tmp_path: Path, case: str) -> None:
    write, told = WRITERS[case]
    path = write(tmp_path)
    dataset = load_dataset(path)
    assert isinstance(dataset, InMemoryDataset)
    assert torch.equal(dataset.images_NCHW, MOMENTS if told == "latents" else IMAGES)
    assert dataset.labels_N is not None
    assert dataset.labels_N.tolist() == LABELS
    info = dataset.info
    assert (info.kind, info.img_channels, info.img_resolution) == (
        ("latents", 4, 4) if told == "latents" else ("images", 3, 8)
    )
    assert info.class_counts == (2, 2, 2)
    assert inspect_dataset(path).format == told


@pytest.mark.parametrize("case", sorted(WRITERS.keys() - {"compressed npz"}))
def test_load_on_demand_equals_in_memory(tmp_path: Path, case: str) -> None:
    path = WRITERS[case][0](tmp_path)
    on_demand = load_dataset(path, max_memory_bytes=1)
    assert isinstance(on_demand, OnDemandDataset)
    assert_same(on_demand, load_dataset(path))


@pytest.mark.parametrize("case", ["zip of class folders", "npz", "one shard"])
def test_load_on_demand_transforms_as_in_memory(tmp_path: Path, case: str) -> None:
    path = WRITERS[case][0](tmp_path)
    reading = DatasetReading(resolution=5, transform="center-crop-dhariwal", convert="grey")
    in_memory, on_demand = load_dataset(path, reading), load_dataset(path, reading, max_memory_bytes=1)
    assert in_memory.info.img_channels == 1
    assert in_memory.info.img_resolution == 5
    assert_same(on_demand, in_memory)


def test_on_demand_damaged_image_is_named_when_it_is_asked_for(tmp_path: Path) -> None:
    files = by_class()
    files["cat/5.png"] = files["cat/5.png"][:60]
    dataset = load_dataset(write_zip(tmp_path / "a.zip", files), max_memory_bytes=1)
    assert len(dataset.batch([0, 4]).images_BCHW) == 2
    with pytest.raises(ValueError, match=r"cat/5\.png"):
        dataset.batch([5])


def test_load_compressed_npz_beyond_the_memory_is_refused(tmp_path: Path) -> None:
    """Nothing in it can be reached before all of it is inflated."""
    assert "at most" in refusal(WRITERS["compressed npz"][0](tmp_path), max_memory_bytes=1000)


def test_load_stored_npz_is_mapped_not_read(tmp_path: Path) -> None:
    dataset = load_dataset(WRITERS["npz"][0](tmp_path), max_memory_bytes=1)
    assert isinstance(dataset, OnDemandDataset)
    assert isinstance(dataset.items.pixels_NHWC, np.memmap)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["b/1.png", "a/2.png"], [0, 1]),
        (["train/n2/x.JPEG", "train/n1/y.png", "train/n10/z.webp"], [0, 1, 2]),
        (["1.png", "2.png"], None),
        (["00000/img00000000.png", "00001/img00001000.png"], None),
    ],
    ids=["one level", "below a common folder", "flat", "edm without labels"],
)
def test_labels_without_dataset_json_follow_the_folders(
    tmp_path: Path, names: list[str], expected: list[int] | None
) -> None:
    files = {name: encoded(random_pixels(1, 4, 4)[0]) for name in names}
    for path in (write_zip(tmp_path / "a.zip", files), write_folder(tmp_path / "folder", files)):
        labels_N = load_dataset(path).labels_N
        assert (None if labels_N is None else labels_N.tolist()) == expected


@pytest.mark.parametrize("odd", ["x.png", "a/b/x.png", "other/deep/x.png"])
def test_labels_from_folders_of_several_levels_are_refused(tmp_path: Path, odd: str) -> None:
    files = dict.fromkeys(["a/1.png", "b/2.png", odd], encoded(random_pixels(1, 4, 4)[0]))
    assert "dataset.json" in refusal(write_zip(tmp_path / "a.zip", files))


def test_labels_of_dataset_json_win_over_folders(tmp_path: Path) -> None:
    labels = dict.fromkeys(by_class(), 4)
    for path in (
        write_zip(tmp_path / "a.zip", by_class() | {"dataset.json": labels_json(labels)}),
        write_tar(tmp_path / "a.tar", by_class() | {"dataset.json": labels_json(labels)}),
    ):
        assert load_dataset(path).info.class_counts == (0, 0, 0, 0, 6)


def test_latents_without_labels_and_other_channels_are_read(tmp_path: Path) -> None:
    array = np.ones((6, 3, 3), np.float32)
    dataset = load_dataset(write_zip(tmp_path / "a.zip", {"x/0.npy": npy(array), "x/1.npy": npy(array)}))
    assert dataset.labels_N is None
    assert dataset.info.img_channels == 3
    assert dataset.batch([1]).images_BCHW.shape == (1, 6, 3, 3)


BAD_LATENTS = {
    "float64": npy(np.ones((8, 4, 4))),
    "big-endian": npy(np.ones((8, 4, 4), ">f4")),
    "odd channels": npy(np.ones((7, 4, 4), np.float32)),
    "other size": npy(np.ones((8, 5, 5), np.float32)),
    "a batch": npy(np.ones((1, 8, 4, 4), np.float32)),
    "Fortran": npy(np.asfortranarray(np.random.default_rng(0).random((8, 4, 4), np.float32))),
    "NaN": npy(np.full((8, 4, 4), np.nan, np.float32)),
    "negative deviation": npy(-np.ones((8, 4, 4), np.float32)),
    "cut short": npy(np.ones((8, 4, 4), np.float32))[:-4],
    "too long": npy(np.ones((8, 4, 4), np.float32)) + b"more",
    "an image": encoded(PIXELS[0]),
    "a bomb": npy(np.ones((8, 4, 4), np.float32)).replace(b"(8, 4, 4)", b"(8,40000000,4)"),
    "pickled": npy(np.array([print], dtype=object)),
    "header of brackets": b"\x93NUMPY\x01\x00" + (9000).to_bytes(2, "little") + b"(" * 9000,
    "huge header": b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little") + b"{" * 99,
    "negative shape": npy(np.ones((8, 4, 4), np.float32)).replace(b"(8, 4, 4)", b"(8,-4,-4)"),
    "version 9": b"\x93NUMPY\x09\x00" + bytes(100),
}


@pytest.mark.parametrize("case", BAD_LATENTS)
def test_latents_wrong_names_the_file(tmp_path: Path, case: str) -> None:
    good = npy(np.ones((8, 4, 4), np.float32))
    path = write_zip(tmp_path / "a.zip", {"0.npy": good, "1.npy": BAD_LATENTS[case]})
    assert "1.npy" in refusal(path)
    with pytest.raises(ValueError, match=r"1\.npy"):
        load_dataset(path, max_memory_bytes=1).batch([0, 1])


def test_latents_are_not_transformed(tmp_path: Path) -> None:
    path = WRITERS["latents zip"][0](tmp_path)
    assert "latents" in refusal(path, DatasetReading(resolution=4, transform="center-crop"))
    assert load_dataset(path, DatasetReading()).info.kind == "latents"


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"arr_0": PIXELS.astype(np.float32)}, "uint8"),
        ({"arr_0": PIXELS[0]}, "uint8 of shape"),
        ({"arr_0": PIXELS.transpose(0, 3, 1, 2).copy()}, "1 or 3 channels"),
        ({"arr_0": PIXELS[:0]}, "empty"),
        ({"arr_0": PIXELS[:, :4]}, "square"),
        ({"arr_0": PIXELS, "arr_1": np.array([0, 1])}, "arr_1"),
        ({"arr_0": PIXELS, "arr_1": np.zeros(6)}, "arr_1"),
        ({"arr_0": PIXELS, "arr_1": np.array([0, 1, 2, -1, 0, 0])}, "arr_0[3]"),
        ({"arr_0": PIXELS, "arr_1": np.array([0, 1, 2, 2**40, 0, 0])}, "arr_0[3]"),
        ({"arr_0": PIXELS, "arr_1": np.zeros(6, int), "labels": np.zeros(6, int)}, "both"),
        ({"arr_0": PIXELS, "extra": np.zeros(3)}, "extra.npy"),
        ({"arr_0": PIXELS, "arr_1": np.array([None] * 6)}, "pickled"),
        ({"arr_0": np.array([None] * 6)}, "pickled"),
    ],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_wrong_says_what(tmp_path: Path, save: object, arrays: dict[str, np.ndarray], said: str) -> None:
    save(tmp_path / "a.npz", **arrays)  # type: ignore[operator]
    assert said in refusal(tmp_path / "a.npz")


def test_npz_with_statistics_beside_images_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", PIXELS, mu=np.zeros(3), sigma=np.zeros((3, 3)), mu_s=np.zeros(3), sigma_s=np.eye(3))
    assert load_dataset(tmp_path / "a.npz").labels_N is None


def test_npz_greyscale_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", PIXELS[..., :1])
    dataset = load_dataset(tmp_path / "a.npz")
    assert torch.equal(dataset.batch(range(6)).images_BCHW, IMAGES[:, :1])
    assert load_dataset(tmp_path / "a.npz", DatasetReading(convert="rgb")).info.img_channels == 3


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_flipped_bit_is_noticed(tmp_path: Path, save: object) -> None:
    path = tmp_path / "a.npz"
    save(path, PIXELS)  # type: ignore[operator]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    assert "damaged" in refusal(path)


def test_shards_labels_in_json_or_none_are_read(tmp_path: Path) -> None:
    image = encoded(PIXELS[0])
    labelled = {"a.png": image, "a.json": b'{"label": 3, "caption": "x"}', "b.JPG": image, "b.json": b'{"label": 1}'}
    dataset = load_dataset(write_tar(tmp_path / "a.tar", labelled))
    assert dataset.labels_N is not None
    assert dataset.labels_N.tolist() == [3, 1]
    (tmp_path / "only").mkdir()
    write_tar(tmp_path / "only" / "s.tar", {"a.png": image})
    assert load_dataset(tmp_path / "only").labels_N is None


BAD_SHARDS = {
    "no image": ({"a.png": b"", "b.cls": b"1"}, "a.png"),
    "label without image": ({"b.cls": b"1"}, "b"),
    "two images": ({"a.png": b"x", "a.jpg": b"x", "a.cls": b"1"}, "2 images"),
    "files apart": ({"a.png": b"x", "b.png": b"x", "b.cls": b"1", "a.cls": b"1"}, "side by side"),
    "one without label": ({"a.png": b"x", "b.png": b"x", "b.cls": b"1"}, "a.png"),
    "pickle": ({"a.png": b"x", "a.cls": b"1", "a.pyd": b"x"}, "a.pyd"),
    "text label": ({"a.png": b"x", "a.cls": b"cat"}, "a.cls"),
    "negative label": ({"a.png": b"x", "a.cls": b"-1"}, "a.cls"),
    "large label": ({"a.png": b"x", "a.cls": b"123456"}, "a.cls"),
    "json without label": ({"a.png": b"x", "a.json": b"{}"}, "a.json"),
    "json boolean": ({"a.png": b"x", "a.json": b'{"label": true}'}, "a.json"),
    "not json": ({"a.png": b"x", "a.json": b"["}, "a.json"),
    "deep json": ({"a.png": b"x", "a.json": b"[" * 100_000}, "a.json"),
    "hidden": ({"a.png": b"x", "a.cls": b"1", ".b.png": b"x"}, ".b.png"),
    "no suffix": ({"a.png": b"x", "a.cls": b"1", "b": b"x"}, "'b'"),
}


@pytest.mark.parametrize("case", BAD_SHARDS)
def test_shards_wrong_names_the_file(tmp_path: Path, case: str) -> None:
    files, said = BAD_SHARDS[case]
    assert said in refusal(write_tar(tmp_path / "a.tar", files))


def test_shards_among_other_files_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", samples())
    (tmp_path / "note.txt").write_text("x")
    assert "note.txt" in refusal(tmp_path)


def test_shards_without_the_library_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "webdataset.tariterators", None)
    assert "ddo-finetuning-service[webdataset]" in refusal(write_tar(tmp_path / "a.tar", samples()))


def test_load_compressed_tar_says_to_decompress(tmp_path: Path) -> None:
    content = write_tar(tmp_path / "a.tar", by_class()).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(content))
    assert "decompress" in refusal(tmp_path / "a.tar.gz")


def test_load_folder_with_links_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", by_class())
    (folder / "ape" / "link.png").symlink_to("/etc/passwd")
    assert "link.png" in refusal(folder)


def test_load_folder_with_a_linked_folder_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", by_class())
    (folder / "dog").symlink_to(folder / "cat", target_is_directory=True)
    assert "dog" in refusal(folder)


def test_class_names_are_reported_with_their_counts(tmp_path: Path) -> None:
    report = inspect_dataset(write_zip(tmp_path / "a.zip", by_class()))
    assert list(report.class_counts.items()) == [(name, 2) for name in CLASSES]
