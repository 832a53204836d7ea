"""The published EDM2 architectures at full size."""

import pytest
import torch

from ddo_engine.families import get_family
from tests.numerics.golden import GOLDEN, arrays, assert_golden, description, hashed_tensor, official_keys, tensor

CONFIGURATIONS = sorted(
    path.name.removeprefix("keys_").removesuffix(".json.gz") for path in GOLDEN.glob("keys_edm2-*.json.gz")
)
XS = "21_full_edm2_img64_xs"


def test_configurations_of_all_sizes_are_here():
    sizes = {f"edm2-img512-{size}" for size in ("xs", "s", "m", "l", "xl", "xxl", "xs-uncond")}
    assert sizes | {f"edm2-img64-{size}" for size in ("xs", "s", "m", "l", "xl")} <= set(CONFIGURATIONS)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_edm2_state_dict_is_the_official_one(name):
    official = official_keys(name)
    with torch.device("meta"):
        model = get_family("edm2").build(official["constructor"])
    ours = [(key, list(value.shape), str(value.dtype)) for key, value in model.state_dict().items()]
    assert ours == [(key, shape, f"torch.{dtype}") for key, (shape, dtype) in official["state_dict"].items()]
    assert sum(parameter.numel() for parameter in model.parameters()) == official["num_params"]


@torch.no_grad()
def test_edm2_xs_outputs_equal_official():
    with torch.device("meta"):
        model = get_family("edm2").build(description(XS)["constructor"])
    model.to_empty(device="cpu")
    stretched = {"freqs": 3, "phases": 6}
    for key, value in model.state_dict().items():
        factor = stretched.get(key.rpartition(".")[2], 1)
        value.copy_(hashed_tensor(key, tuple(value.shape), description(XS)["salt"]) * factor)
    x, sigma, labels = (tensor(XS, key) for key in ("x", "sigma", "class_idx"))
    assert_golden(model.free_form(x, sigma, labels), arrays(XS)["F"])
    assert_golden(model.denoise(x, sigma, labels), arrays(XS)["D"])
    assert_golden(model.logvar(sigma), arrays(XS)["logvar"])
