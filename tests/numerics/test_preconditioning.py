"""EDM's preconditioning hands every network the official inputs."""

import pytest
import torch

from tests.numerics.golden import arrays, assert_golden, golden_model, tensor

NETWORKS = {
    "01_edm_ddpmpp_uncond": "edm",
    "02_edm_ddpmpp_cond": "edm",
    "03_edm_ncsnpp_cond": "edm",
    "04_edm_adm_cond": "edm",
    "08_edm2_cond": "edm2",
    "09_edm2_guide": "edm2",
    "10_edm2_uncond": "edm2",
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_network_gets_the_official_image_and_noise_level(name):
    model, seen = golden_model(name, NETWORKS[name]), []
    inner = model.network
    model.network = lambda *inputs: seen.append(inputs) or inner(*inputs)
    model.free_form(tensor(name, "x"), tensor(name, "sigma"), None)
    scaled, c_noise, *_ = seen[0]
    assert_golden(scaled, arrays(name)["F_in"])
    assert_golden(c_noise, arrays(name)["c_noise"])
