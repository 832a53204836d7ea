"""Data order and batches."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddo_engine.batches import BatchSource, DataOrder, RandomCrops, concatenated
from ddo_engine.data import InMemoryDataset, open_on_demand
from ddo_engine.spec import DatasetReading


@given(num_images=st.integers(1, 40), batch_size=st.integers(1, 100), seed=st.integers(0, 5))
def test_order_of_whole_epochs_holds_every_image_once_each(num_images, batch_size, seed):
    order = DataOrder(num_images, seed, "real")
    steps = -(-3 * num_images // batch_size)
    sequence = torch.cat([order.indices(step, batch_size) for step in range(steps)])
    for epoch in range(3):
        part = sequence[epoch * num_images : (epoch + 1) * num_images]
        assert sorted(part.tolist()) == list(range(num_images))


@given(num_images=st.integers(1, 40), batch_size=st.integers(1, 50), step=st.integers(0, 60))
def test_order_of_a_step_does_not_depend_on_the_steps_before(num_images, batch_size, step):
    used = DataOrder(num_images, 3, "real")
    for earlier in range(step):
        used.indices(earlier, batch_size)
    assert torch.equal(used.indices(step, batch_size), DataOrder(num_images, 3, "real").indices(step, batch_size))


@given(num_images=st.integers(2, 40), batch_size=st.sampled_from([1, 2, 3, 6]))
def test_order_as_a_sequence_does_not_depend_on_the_batch_size(num_images, batch_size):
    by_six = torch.cat([DataOrder(num_images, 3, "real").indices(step, 6) for step in range(10)])
    other = torch.cat([DataOrder(num_images, 3, "real").indices(step, batch_size) for step in range(60 // batch_size)])
    assert torch.equal(by_six, other)


def test_order_of_real_fake_other_epoch_and_other_seed_differ():
    orders = [
        DataOrder(50, 1, "real").indices(0, 50),
        DataOrder(50, 1, "real").indices(1, 50),
        DataOrder(50, 1, "fake").indices(0, 50),
        DataOrder(50, 2, "real").indices(0, 50),
    ]
    for index, one in enumerate(orders):
        assert not any(torch.equal(one, other) for other in orders[index + 1 :])


def dataset(num_images, *, labels=True, channels=1, offset=0):
    images = (torch.arange(num_images) + offset).to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, channels, 2, 2)
    return InMemoryDataset(images.contiguous(), torch.arange(num_images) % 3 if labels else None)


def test_batch_holds_the_images_of_the_order_with_their_labels():
    source = BatchSource(dataset(7), DataOrder(7, 0, "real"), 4, torch.device("cpu"))
    batch = source.batch(2, range(source.batch_size))
    indices = DataOrder(7, 0, "real").indices(2, 4)
    assert batch.images_BCHW[:, 0, 0, 0].tolist() == indices.tolist()
    assert batch.labels_B.tolist() == (indices % 3).tolist()


def test_concatenated_shards_keep_order_and_labels():
    both = concatenated([dataset(3), dataset(2, offset=10)])
    assert both.images_NCHW[:, 0, 0, 0].tolist() == [0, 1, 2, 10, 11]
    assert both.labels_N.tolist() == [0, 1, 2, 0, 1]
    assert concatenated([dataset(3, labels=False)]).labels_N is None


@pytest.mark.parametrize("odd", [dataset(2, labels=False), dataset(2, channels=3)])
def test_concatenated_shards_that_differ_are_refused(odd):
    with pytest.raises(ValueError, match="the parts differ"):
        concatenated([dataset(3), odd])


@pytest.fixture
def crops(tmp_path):
    """Batches of 16 from 8 images of 9×12 whose pixels say their column; eight are kept, at one of five offsets."""
    columns = np.arange(12, dtype=np.uint8)[None, None, :, None] + np.zeros((8, 9, 12, 1), np.uint8)
    np.savez(tmp_path / "wide.npz", columns)
    dataset = open_on_demand(tmp_path / "wide.npz", DatasetReading(resolution=8, transform="var"))
    return RandomCrops(dataset, DataOrder(8, 0, "real"), 16, torch.device("cpu"), 0)


def offsets_of(batch):
    return batch.images_BCHW[:, 0, 0, 0].tolist()


def test_random_crops_are_at_all_offsets_and_differ_between_passes(crops):
    steps = [offsets_of(crops.batch(step, range(16))) for step in range(20)]
    found = [offset for step in steps for offset in step]
    assert set(found) == {0, 1, 2, 3, 4}
    assert min(found.count(offset) for offset in range(5)) > 64 - 3 * 64**0.5
    assert len({tuple(step) for step in steps}) == 20
    assert len(set(offsets_of(crops.dataset.batch(range(8))))) == 1


def test_random_crops_of_a_row_do_not_depend_on_how_the_batch_is_cut(crops):
    whole = offsets_of(crops.batch(3, range(16)))
    for size in (1, 5):
        parts = [offsets_of(crops.batch(3, range(16)[start : start + size])) for start in range(0, 16, size)]
        assert [offset for part in parts for offset in part] == whole
