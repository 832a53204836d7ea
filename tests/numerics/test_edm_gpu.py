"""CUDA gives the CPU's numbers, forwards and backwards: no TF32, no autocast, the same random streams."""

import copy

import pytest
import torch

from ddo_engine.checkpoint import CheckpointManifest, load_checkpoint, save_checkpoint
from ddo_engine.families import get_family
from ddo_engine.families.protocol import LabelledImages
from ddo_engine.spec import HeunSettings, TrainingSettings
from tests.numerics.golden import arrays, assert_golden, golden_model, tensor

pytestmark = pytest.mark.gpu
FAMILY = get_family("edm")
TRAINING = TrainingSettings(kimg=1, batch_size=4, learning_rate=1e-3, ema_half_life_kimg=1, evaluate_every_kimg=1)
NETWORKS = ["01_edm_ddpmpp_uncond", "02_edm_ddpmpp_cond", "03_edm_ncsnpp_cond", "mlp"]


def model_and_images(name):
    if name == "mlp":
        torch.manual_seed(0)
        model = FAMILY.build({"class_name": "MLPPrecond", "img_resolution": 8, "img_channels": 1, "label_dim": 10})
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    else:
        model = golden_model(name)
    shape = (6, model.img_channels, model.img_resolution, model.img_resolution)
    uint8 = torch.randint(256, shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return model, LabelledImages(uint8, torch.arange(6))


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_free_form_on_cuda_equals_cpu(name):
    model, images = model_and_images(name)
    x = torch.randn(images.images_BCHW.shape, generator=torch.Generator().manual_seed(2))
    sigma = torch.logspace(-2, 1.5, 6)
    expected = model.free_form(x, sigma, images.labels_B)
    FAMILY.sample(model.cuda(), [0], None, HeunSettings(num_steps=2))  # switches TF32 off
    actual = model.free_form(x.cuda(), sigma.cuda(), images.labels_B.cuda())
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS[:3])
@torch.no_grad()
def test_free_form_on_cuda_equals_official(name):
    model, _ = model_and_images(name)
    labels = tensor(name, "class_labels").argmax(1).cuda() if "class_labels" in arrays(name) else None
    FAMILY.sample(model.cuda(), [0], None, HeunSettings(num_steps=2))
    assert_golden(model.free_form(tensor(name, "x").cuda(), tensor(name, "sigma").cuda(), labels), arrays(name)["F"])


@pytest.mark.parametrize("name", NETWORKS)
def test_sample_on_cuda_equals_cpu_to_one_grey_level(name):
    model, _ = model_and_images(name)
    sampler = HeunSettings(num_steps=6, S_churn=3, S_min=0.05, S_max=50)
    expected = FAMILY.sample(model, range(8), None, sampler).int()
    difference = (FAMILY.sample(model.cuda(), range(8), None, sampler).int() - expected).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.01


@pytest.mark.parametrize("name", NETWORKS)
def test_ratios_and_their_gradients_on_cuda_equal_cpu_though_tf32_was_on(name, monkeypatch):
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")
    reference, images = model_and_images(name)
    target, draws = copy.deepcopy(reference), torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in target.parameters():  # far enough that rounding hides no ratio
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draws))

    def evaluate(device):
        # Draws on CUDA are others than on the CPU: both devices get the CPU's.
        monkeypatch.setattr(
            "ddo_engine.families.diffusion.family.draw_noise", lambda x, *_: recorded_noise(x, torch.device(device))
        )
        target.to(device).zero_grad()
        batch = images.to(torch.device(device))
        ratios = FAMILY.log_likelihood_ratios(
            target, reference.to(device), batch, batch, TRAINING, torch.Generator(device)
        )
        sum(ratio.sum() for ratio in ratios[:2]).backward()
        gradients = [p.grad.cpu().clone() for p in target.parameters() if p.grad is not None]
        return [each_B.detach().cpu() for each_B in ratios], gradients

    cpu_ratios, cpu_gradients = evaluate("cpu")
    cuda_ratios, cuda_gradients = evaluate("cuda")
    for cuda_B, cpu_B in zip(cuda_ratios, cpu_ratios, strict=True):
        torch.testing.assert_close(cuda_B, cpu_B, rtol=1e-4, atol=1e-4 * float(cpu_B.abs().max()))
    for cuda_gradient, cpu_gradient in zip(cuda_gradients, cpu_gradients, strict=True):
        scale = float(cpu_gradient.abs().max())
        torch.testing.assert_close(cuda_gradient, cpu_gradient, rtol=1e-3, atol=1e-3 * scale)


def recorded_noise(x_BCHW, device):
    from ddo_engine.families.diffusion.likelihood import NoiseDraw, draw_noise

    noise = draw_noise(x_BCHW.cpu(), -1.2, 1.2, torch.Generator().manual_seed(5))
    return NoiseDraw(noise.t_B.to(device), noise.eps_BCHW.to(device))


def test_ratios_with_a_generator_on_cuda_repeat_themselves_to_the_bit():
    model, images = model_and_images(NETWORKS[1])
    model, other, batch = model.cuda(), golden_model(NETWORKS[0]).cuda(), images.to(torch.device("cuda"))

    def once():
        generator = torch.Generator("cuda").manual_seed(3)
        return FAMILY.pretraining_loss(model, batch, TRAINING, generator).detach()

    assert torch.equal(once(), once())
    generator = torch.Generator("cuda").manual_seed(3)
    real_B, fake_B, _ = FAMILY.log_likelihood_ratios(other, other, batch, batch, TRAINING, generator)
    assert not real_B.any()
    assert not fake_B.any()


@pytest.fixture
def deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    torch.set_deterministic_debug_mode("error")
    yield
    torch.set_deterministic_debug_mode("default")


@pytest.mark.parametrize("name", NETWORKS)
def test_training_and_sampling_in_deterministic_mode_repeat_themselves_to_the_bit(name, deterministic):
    reference, images = model_and_images(name)
    target, batch = copy.deepcopy(reference).cuda(), images.to(torch.device("cuda"))
    reference.cuda()
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.mul_(1.03)

    def once():
        target.zero_grad()
        generator = torch.Generator("cuda").manual_seed(3)
        real_B, fake_B, _ = FAMILY.log_likelihood_ratios(target, reference, batch, batch, TRAINING, generator)
        loss_B = FAMILY.pretraining_loss(target, batch, TRAINING, generator)
        (real_B.sum() - 2 * fake_B.sum() + loss_B.sum()).backward()
        gradients = [p.grad.clone() for p in target.parameters() if p.grad is not None]
        return [*gradients, FAMILY.sample(target, range(4), None, HeunSettings(num_steps=4))]

    assert all(torch.equal(a, b) for a, b in zip(once(), once(), strict=True))


def test_checkpoint_saved_from_cuda_is_the_cpu_bytes_and_loads_onto_cuda(tmp_path):
    model, _ = model_and_images("mlp")
    network = {"class_name": "MLPPrecond", "img_resolution": 8, "img_channels": 1, "label_dim": 10}
    manifest = CheckpointManifest(family="edm", network=network)
    save_checkpoint(tmp_path / "cpu", model, manifest)
    save_checkpoint(tmp_path / "cuda", model.cuda(), manifest)
    assert (tmp_path / "cpu").read_bytes() == (tmp_path / "cuda").read_bytes()
    loaded = load_checkpoint(tmp_path / "cpu", "cuda").model
    for key, value in loaded.state_dict().items():
        assert value.is_cuda
        assert torch.equal(value, model.state_dict()[key])
