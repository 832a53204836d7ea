"""``denoise`` takes noise levels and labels in every form that the official code takes them in."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.numerics.golden import golden_model

MODELS = [("02_edm_ddpmpp_cond", "edm"), ("04_edm_adm_cond", "edm"), ("08_edm2_cond", "edm2")]


@pytest.fixture(params=MODELS, ids=[name for name, _ in MODELS])
def model(request):
    return golden_model(*request.param).requires_grad_(requires_grad=False)


def images(model, num_images=3):
    shape = (num_images, model.img_channels, model.img_resolution, model.img_resolution)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "form",
    [
        float,
        torch.tensor,
        lambda sigma: torch.tensor([sigma]),
        lambda sigma: torch.full((3,), sigma),
        lambda sigma: torch.full((3, 1, 1, 1), sigma),
        lambda sigma: torch.full((3,), sigma, dtype=torch.float64),
        np.float64,
    ],
    ids=["number", "0-dim", "one", "B", "B111", "float64", "numpy"],
)
def test_noise_levels_may_have_any_form(model, form):
    expected = model.denoise(images(model), torch.tensor([1.25, 1.25, 1.25]), torch.tensor([1, 0, 2]))
    assert torch.equal(model.denoise(images(model), form(1.25), torch.tensor([1, 0, 2])), expected)


def test_noise_levels_may_be_integers(model):
    assert torch.equal(model.denoise(images(model), 2), model.denoise(images(model), 2.0))
    assert torch.equal(model.denoise(images(model), torch.tensor([2, 2, 2])), model.denoise(images(model), 2.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_labels_may_be_indices_or_one_hot_rows(model, dtype):
    indices = torch.tensor([1, 0, 2])
    expected = model.denoise(images(model), 1.25, indices)
    rows = functional.one_hot(indices, model.label_dim).to(dtype)
    assert torch.equal(model.denoise(images(model), 1.25, rows), expected)
    assert torch.equal(model.denoise(images(model), 1.25, indices.to(torch.int32)), expected)
    assert not torch.equal(model.denoise(images(model), 1.25, indices.flip(0)), expected)


def test_one_label_is_that_of_all_images(model):
    expected = model.denoise(images(model), 1.25, torch.tensor([2, 2, 2]))
    row = functional.one_hot(torch.tensor(2), model.label_dim).float()
    for label in (torch.tensor(2), torch.tensor([2]), row, row[None]):
        assert torch.equal(model.denoise(images(model), 1.25, label), expected)


def test_no_labels_are_rows_of_zeros(model):
    zeros = torch.zeros(1, model.label_dim)
    assert torch.equal(model.denoise(images(model), 1.25, zeros), model.denoise(images(model), 1.25))


def test_images_may_be_of_other_dtypes(model):
    expected = model.denoise(images(model), 1.25)
    assert torch.equal(model.denoise(images(model).double(), 1.25), expected)
    assert expected.dtype == torch.float32


@pytest.mark.parametrize(
    ("sigma", "labels", "match"),
    [
        (torch.ones(2), None, "2 noise levels for 3 images"),
        (torch.ones(3, 2), None, "6 noise levels for 3 images"),
        (1.0, torch.tensor([1, 2]), "2 labels for 3 images"),
        (1.0, torch.zeros(2, 10), "2 labels for 3 images"),
        (1.0, torch.zeros(3, 11), "10 values"),
        (1.0, torch.tensor(1.0), "10 values"),
        (1.0, torch.tensor([0, 1, 10]), r"0 … 9"),
        (1.0, torch.tensor([0, 1, -1]), r"0 … 9"),
        (1.0, torch.ones(3, 10, dtype=torch.int64), "shape"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(sigma, labels, match):
    model = golden_model("08_edm2_cond", "edm2")
    with pytest.raises(ValueError, match=match):
        model.denoise(images(model), sigma, labels)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 4, 16, 16)])
def test_images_of_another_shape_are_refused(model, shape):
    with pytest.raises(ValueError, match=r"images must have shape \(B, 3, H, W\)"):
        model.denoise(torch.zeros(shape), 1.0)
