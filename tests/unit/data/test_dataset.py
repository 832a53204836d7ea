import pytest
import torch

from ddo_engine.batches import concatenated
from ddo_engine.data import ChainedDataset, ImageDataset, InMemoryDataset, load_dataset, write_dataset
from ddo_engine.errors import Interrupted, InvalidDataset
from ddo_engine.inputs import check_every_image, check_grey_levels
from tests.unit.data.dataset_files import MOMENTS, PIXELS, encoded, write_zip

IMAGES = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).contiguous()


def part(images: torch.Tensor, labels: list[int] | None = None) -> InMemoryDataset:
    return InMemoryDataset(images, None if labels is None else torch.tensor(labels))


@pytest.mark.parametrize("labelled", [True, False])
def test_chained_equals_one_dataset(labelled: bool) -> None:
    labels = [0, 1, 1, 3, 0, 2]
    whole = part(IMAGES, labels if labelled else None)
    chained = ChainedDataset(
        tuple(part(IMAGES[a:b], labels[a:b] if labelled else None) for a, b in ((0, 1), (1, 4), (4, 6)))
    )
    assert len(chained) == 6
    assert chained.info == whole.info
    indices = torch.tensor([5, 0, 1, 3, 4, 4])
    assert torch.equal(chained.batch(indices).images_BCHW, whole.batch(indices).images_BCHW)
    ours, theirs = chained.batch(indices).labels_B, whole.batch(indices).labels_B
    assert (ours is None) == (theirs is None) == (not labelled)
    assert ours is None or torch.equal(ours, theirs)


def test_concatenated_on_demand_equals_concatenated_in_memory(tmp_path) -> None:
    datasets: dict[int, list[ImageDataset]] = {}
    for name, rows in (("a.zip", slice(0, 2)), ("b.zip", slice(2, 6))):
        write_dataset(tmp_path / name, IMAGES[rows], torch.arange(6)[rows])
        for limit in (0, 2**30):
            datasets.setdefault(limit, []).append(load_dataset(tmp_path / name, max_memory_bytes=limit))
    on_demand, in_memory = (concatenated(datasets[limit]) for limit in (0, 2**30))
    assert isinstance(on_demand, ChainedDataset)
    assert isinstance(in_memory, InMemoryDataset)
    assert on_demand.info == in_memory.info
    ours, theirs = on_demand.batch([4, 1]), in_memory.batch([4, 1])
    assert torch.equal(ours.images_BCHW, theirs.images_BCHW)
    assert ours.labels_B.tolist() == theirs.labels_B.tolist() == [4, 1]


def test_concatenated_images_and_latents_are_refused() -> None:
    latents = part(torch.rand(2, 6, 8, 8))
    with pytest.raises(ValueError, match="the parts differ"):
        concatenated([part(IMAGES), latents])


def test_info_of_latents_counts_the_channels_of_their_means() -> None:
    info = part(MOMENTS).info
    assert (info.kind, info.img_channels, info.img_resolution) == ("latents", 4, 4)


@pytest.mark.parametrize("max_memory_bytes", [0, 2**30])
def test_grey_levels_of_all_images_are_checked(tmp_path, max_memory_bytes) -> None:
    images = torch.zeros(600, 1, 4, 4, dtype=torch.uint8)
    images[599, 0, 3, 3] = 255
    write_dataset(tmp_path / "a.zip", images, None)
    check_grey_levels(load_dataset(tmp_path / "a.zip", max_memory_bytes=max_memory_bytes), 2)
    images[599, 0, 3, 3] = 254
    write_dataset(tmp_path / "a.zip", images, None)
    dataset = load_dataset(tmp_path / "a.zip", max_memory_bytes=max_memory_bytes)
    check_grey_levels(dataset, 256)
    with pytest.raises(InvalidDataset, match="grey levels"):
        check_grey_levels(dataset, 2)


def test_grey_levels_of_latents_are_not_looked_at() -> None:
    check_grey_levels(part(MOMENTS), 17)


def test_check_every_image_finds_the_damaged_one_of_a_large_dataset(tmp_path) -> None:
    good = encoded(PIXELS[0])
    path = write_zip(tmp_path / "a.zip", {"0.png": good, "1.png": good})
    check_every_image(load_dataset(path, max_memory_bytes=0))
    path = write_zip(tmp_path / "a.zip", {"0.png": good, "1.png": good[:90]})
    with pytest.raises(InvalidDataset, match=r"1\.png") as caught:
        check_every_image(load_dataset(path, max_memory_bytes=0))
    assert caught.value.param == "dataset.uri"


def test_check_every_image_tells_how_far_it_is_and_may_be_stopped(tmp_path) -> None:
    write_dataset(tmp_path / "a.zip", torch.zeros(600, 1, 4, 4, dtype=torch.uint8), None)
    large, done = load_dataset(tmp_path / "a.zip", max_memory_bytes=0), []
    check_every_image(large, on_progress=done.append)
    assert done == [256, 512, 600]

    def stop(_: int) -> None:
        raise Interrupted("stopped on request")

    with pytest.raises(Interrupted) as caught:
        check_every_image(large, on_progress=stop)
    assert caught.value.param is None
