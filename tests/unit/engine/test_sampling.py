"""Labels follow from seeds, and images from seeds and labels."""

from collections import Counter

import numpy as np
import pytest
import torch

import ddo_engine
from ddo_engine.errors import IncompatibleInputs
from ddo_engine.families import get_family
from ddo_engine.sampling import generate_images, labels_for_seeds
from ddo_engine.spec import HeunSettings, LabelDistribution

FAMILY = get_family("edm")
BALANCED, DATASET, RANDOM = LabelDistribution.BALANCED, LabelDistribution.DATASET, LabelDistribution.RANDOM


def build(label_dim=10):
    torch.manual_seed(0)
    model = FAMILY.build({"class_name": "MLPPrecond", "img_resolution": 4, "img_channels": 1, "label_dim": label_dim})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def sampler(labels=BALANCED, batch_size=5):
    return HeunSettings(num_steps=3, labels=labels, batch_size=batch_size)


def test_labels_balanced_are_seed_mod_classes():
    assert labels_for_seeds([0, 1, 11, 12345], 10, BALANCED, ()).tolist() == [0, 1, 1, 5]


def test_labels_dataset_follow_the_class_frequencies_in_every_stretch_of_seeds():
    counts = [100, 0, 700, 200]
    for start in (0, 1, 10_000_019, 2**31 - 2000):
        drawn = Counter(labels_for_seeds(range(start, start + 1000), 4, DATASET, counts).tolist())
        assert all(abs(drawn[label] - count) <= 5 for label, count in enumerate(counts))
        assert drawn[1] == 0


def test_labels_dataset_are_the_golden_ratio_sequence():
    golden_ratio = (1 + 5**0.5) / 2
    expected = [int(((seed + 0.5) * golden_ratio % 1) * 7) for seed in range(200)]
    assert labels_for_seeds(range(200), 7, DATASET, [1] * 7).tolist() == expected


def test_labels_dataset_depend_on_their_own_seed_alone():
    together = labels_for_seeds(range(50), 10, DATASET, range(1, 11))
    apart = [labels_for_seeds([seed], 10, DATASET, range(1, 11)).item() for seed in range(50)]
    assert together.tolist() == apart


def test_labels_dataset_with_fewer_classes_than_the_model_uses_those_only():
    assert set(labels_for_seeds(range(100), 10, DATASET, [1, 1, 1]).tolist()) == {0, 1, 2}


@pytest.mark.parametrize("distribution", list(LabelDistribution))
def test_labels_of_an_unconditional_model_are_none(distribution):
    assert labels_for_seeds([1, 2], 0, distribution, [3, 4]) is None


def test_labels_random_are_left_to_the_family():
    assert labels_for_seeds([1, 2], 10, RANDOM, ()) is None


@pytest.mark.parametrize("counts", [(), (0, 0)])
def test_labels_dataset_without_counts_says_what_to_do(counts):
    with pytest.raises(IncompatibleInputs, match="'balanced'") as caught:
        labels_for_seeds([1], 10, DATASET, counts)
    assert caught.value.param == "sampler.labels"


def test_labels_dataset_with_more_classes_than_the_model_are_refused():
    with pytest.raises(IncompatibleInputs, match="3 classes, the model 2"):
        labels_for_seeds([1], 2, DATASET, [1, 1, 1])


@pytest.mark.parametrize("distribution", list(LabelDistribution))
def test_generate_images_returns_the_labels_that_the_images_were_drawn_with(distribution):
    model, seeds = build(), range(7, 20)
    generated = generate_images(model, FAMILY, seeds, sampler(distribution), class_counts=[2] * 10)
    assert generated.images_BCHW.shape == (13, 1, 4, 4)
    assert generated.images_BCHW.dtype == torch.uint8
    assert generated.labels_B.shape == (13,)
    assert generated.labels_B.dtype == torch.int64
    again = FAMILY.sample(model, seeds, generated.labels_B, sampler())
    assert (again.int() - generated.images_BCHW.int()).abs().max() <= 1
    other = FAMILY.sample(model, seeds, (generated.labels_B + 1) % 10, sampler())
    assert (other.int() - generated.images_BCHW.int()).abs().max() > 1


def test_generate_images_of_random_labels_have_several_classes():
    generated = generate_images(build(), FAMILY, range(50), sampler(RANDOM, 50))
    assert len(set(generated.labels_B.tolist())) > 5


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_generate_images_do_not_depend_on_the_batch_size(batch_size):
    model = build()
    together = generate_images(model, FAMILY, range(64), sampler(batch_size=32))
    generated = generate_images(model, FAMILY, range(64), sampler(batch_size=batch_size))
    assert torch.equal(generated.labels_B, together.labels_B)
    assert torch.equal(generated.images_BCHW, together.images_BCHW)
    assert (together.images_BCHW[0].int() - together.images_BCHW[10].int()).abs().max() > 10


def test_generate_images_of_an_unconditional_model_have_no_labels():
    assert generate_images(build(0), FAMILY, range(3), sampler(DATASET)).labels_B is None


def test_generate_images_are_rounded_to_the_grey_levels():
    generated = generate_images(build(), FAMILY, range(8), sampler(), grey_levels=3)
    assert set(generated.images_BCHW.unique().tolist()) == {0, 128, 255}
    full = generate_images(build(), FAMILY, range(8), sampler())
    assert (full.images_BCHW.int() - generated.images_BCHW.int()).abs().max() <= 64


def test_generate_images_reports_finished_images():
    seen = []
    generate_images(build(), FAMILY, range(40), sampler(batch_size=16), on_progress=seen.append)
    assert seen == [16, 32, 40]


def test_sample_of_the_package_is_the_family_sampler():
    model = build()
    expected = FAMILY.sample(model, [1, 2], torch.tensor([4, 5]), sampler())
    assert torch.equal(ddo_engine.sample(model, [1, 2], labels=[4, 5], sampler=sampler()), expected)
    assert torch.equal(ddo_engine.sample(model, [1, 2]), FAMILY.sample(model, [1, 2], None, HeunSettings()))


@pytest.mark.parametrize("labels", [[1], [1, 10], [1, -1], [[1, 2]]])
def test_sample_with_labels_that_do_not_fit_says_what_they_must_be(labels):
    with pytest.raises(ValueError, match="2 class indices"):
        ddo_engine.sample(build(), [1, 2], labels=labels)


@pytest.mark.parametrize(
    "seeds",
    [np.arange(3, 6), [np.int64(3), np.int32(4), 5], torch.arange(3, 6), range(3, 6)],
    ids=["array", "numpy integers", "tensor", "range"],
)
@pytest.mark.parametrize("labels", [BALANCED, RANDOM])
def test_sample_takes_any_integers_as_seeds(seeds, labels):
    model = build()
    expected = ddo_engine.sample(model, [3, 4, 5], sampler=sampler(labels))
    assert torch.equal(ddo_engine.sample(model, seeds, sampler=sampler(labels)), expected)


@pytest.mark.parametrize("seed", [1.5, "1", None, -1, 2**64])
def test_sample_with_seeds_that_are_none_says_what_they_must_be(seed):
    with pytest.raises(ValueError, match="seeds: must be integers from 0 to 2\\^64 - 1"):
        ddo_engine.sample(build(), [0, seed], sampler=sampler())


def test_sample_does_not_round_labels():
    with pytest.raises(ValueError, match="labels must be 2 class indices"):
        ddo_engine.sample(build(), [0, 1], labels=[1.7, 2.0], sampler=sampler())
