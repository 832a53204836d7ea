"""The CIFAR-10 architectures at full size."""

import pytest
import torch

from ddo_engine.families import get_family
from tests.numerics.golden import arrays, assert_golden, description, hashed_tensor, official_keys, tensor

MODELS = ["uncond", "cond"]


@pytest.mark.parametrize("model_name", MODELS)
def test_edm_cifar10_state_dict_is_the_official_one(model_name):
    official = official_keys(f"edm-cifar10-32x32-{model_name}-vp")
    with torch.device("meta"):
        model = get_family("edm").build(official["constructor"])
    ours = [(key, list(value.shape), str(value.dtype)) for key, value in model.state_dict().items()]
    assert ours == [(key, shape, f"torch.{dtype}") for key, (shape, dtype) in official["state_dict"].items()]
    assert sum(parameter.numel() for parameter in model.parameters()) == official["num_params"]


def test_hashed_tensor_follows_the_stated_rule():
    values = hashed_tensor("model.map_layer0.weight", (512, 128), salt=0).flatten()[:3]
    expected = torch.tensor([-0.015419509261846542, -0.08717723190784454, 0.02696564979849246])
    torch.testing.assert_close(values, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("model_name", MODELS)
@torch.no_grad()
def test_edm_cifar10_outputs_equal_official(model_name):
    name = f"20_full_edm_cifar10_{model_name}"
    with torch.device("meta"):
        model = get_family("edm").build(description(name)["constructor"])
    model.to_empty(device="cpu")
    for key, value in model.state_dict().items():
        if key.endswith("resample_filter"):
            value.fill_(0.25)  # what the taps [1, 1] give
        else:
            value.copy_(hashed_tensor(key, tuple(value.shape), description(name)["salt"]))
    labels = tensor(name, "class_idx") if "class_idx" in arrays(name) else None
    x, sigma, augment_labels = (tensor(name, key) for key in ("x", "sigma", "aug"))
    assert_golden(model.free_form(x, sigma, labels), arrays(name)["F"])
    assert_golden(model.free_form(x, sigma, labels, augment_labels), arrays(name)["F_aug"])
    assert_golden(model.denoise(x, sigma, labels), arrays(name)["D"])
