"""Models in float64 compute in float64, so that references for float32 can be made."""

import pytest
import torch

import ddo_engine
from ddo_engine.checkpoint import CheckpointManifest, save_checkpoint
from ddo_engine.families import get_family
from ddo_engine.spec import HeunSettings
from tests.diffusers_folders import UNET
from tests.numerics.golden import arrays, assert_golden, description, golden_model, tensor

EDM_NETWORKS = ["01_edm_ddpmpp_uncond", "02_edm_ddpmpp_cond", "03_edm_ncsnpp_cond", "04_edm_adm_cond"]


def labels_of(name):
    return tensor(name, "class_labels").double() if "class_labels" in arrays(name) else None


def mlp():
    torch.manual_seed(0)
    model = get_family("edm").build({"class_name": "MLPPrecond", "img_resolution": 4, "img_channels": 1})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def unet():
    torch.manual_seed(0)
    network = {"class_name": "UNet2DModel", "unet": UNET, "prediction": "epsilon", "timesteps": {"kind": "discrete"}}
    return get_family("diffusers").build(network)


@pytest.mark.parametrize("name", EDM_NETWORKS)
@torch.no_grad()
def test_edm_network_in_float64_equals_the_official_one_in_float64(name):
    model = golden_model(name).double()
    inputs = (tensor(name, key).double() for key in ("F_in", "c_noise"))
    F = model.network(*inputs, labels_of(name), None)
    # Official attention rounds its weights to float32 even here; measured: 3e-15 (ADM) to 6e-8.
    torch.testing.assert_close(F, tensor(name, "F_f64"), rtol=0, atol=2e-7)
    D = model.denoise(tensor(name, "x"), tensor(name, "sigma"), labels_of(name))
    assert D.dtype == torch.float64
    assert_golden(D, arrays(name)["D"])


@pytest.mark.parametrize("name", ["08_edm2_cond", "10_edm2_uncond"])
@torch.no_grad()
def test_edm2_in_float64_is_what_float32_approximates(name):
    model = golden_model(name, "edm2").double()
    labels = tensor(name, "class_labels") if "class_labels" in arrays(name) else None
    D = model.denoise(tensor(name, "x"), tensor(name, "sigma"), labels)
    assert D.dtype == model.logvar(1.0).dtype == torch.float64
    assert_golden(D, arrays(name)["D"])
    assert_golden(model.logvar(tensor(name, "sigma")), arrays(name)["logvar"])


@pytest.mark.parametrize(
    "build", [lambda: golden_model("10_edm2_uncond", "edm2"), mlp, unet], ids=["edm2", "mlp", "unet"]
)
def test_derivative_equals_finite_differences_that_float32_anywhere_would_drown(build):
    model = build().double()
    generator = torch.Generator().manual_seed(1)
    shape = (2, model.img_channels, model.img_resolution, model.img_resolution)
    x, direction, weight = torch.randn(3, *shape, generator=generator, dtype=torch.float64)

    def value(images):
        return (weight * model.denoise(images, 0.7)).sum()

    (gradient,) = torch.autograd.grad(value(x.requires_grad_()), x)
    exact, step = float((gradient * direction).sum()), 1e-5
    with torch.no_grad():
        difference = float(value(x + step * direction) - value(x - step * direction)) / (2 * step)
        model.float()
        narrow = float(value(x + step * direction) - value(x - step * direction)) / (2 * step)
    assert difference == pytest.approx(exact, rel=1e-6)
    assert narrow != pytest.approx(exact, rel=1e-5)


@torch.no_grad()
def test_model_loaded_in_float64_denoises_and_samples_in_it(tmp_path):
    name = "02_edm_ddpmpp_cond"
    path = tmp_path / "model.safetensors"
    manifest = CheckpointManifest(family="edm", network=description(name)["constructor"])
    save_checkpoint(path, golden_model(name), manifest)
    exact, usual = (ddo_engine.load_model(path, dtype=dtype) for dtype in (torch.float64, None))
    x, sigma = tensor(name, "x"), tensor(name, "sigma")
    assert exact.denoise(x, sigma, labels_of(name)).dtype == torch.float64
    assert usual.denoise(x, sigma, labels_of(name)).dtype == torch.float32
    few_steps = HeunSettings(num_steps=3)
    images, expected = (ddo_engine.sample(model, range(3), sampler=few_steps).int() for model in (exact, usual))
    assert (images - expected).abs().max() <= 1


@torch.no_grad()
def test_guide_may_be_of_another_precision():
    model, guide = golden_model("08_edm2_cond", "edm2").double(), golden_model("09_edm2_guide", "edm2")
    sampler = HeunSettings(num_steps=2, guidance_scale=1.5)
    mixed = ddo_engine.sample(model, [1], sampler=sampler, guide=guide).int()
    assert (mixed - ddo_engine.sample(model.float(), [1], sampler=sampler, guide=guide).int()).abs().max() <= 1
