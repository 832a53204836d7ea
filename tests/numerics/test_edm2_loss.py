"""EDM2's pretraining loss equals the official one; DDO knows nothing of its uncertainty."""

import numpy as np
import pytest
import torch

from ddo_engine.families import get_family
from ddo_engine.families.diffusion.likelihood import NoiseDraw, denoising_loss, draw_noise
from ddo_engine.families.edm2.loss import uncertainty_weighted_error
from ddo_engine.families.protocol import LabelledImages
from ddo_engine.spec import TrainingSettings
from tests.numerics.golden import arrays, assert_golden, golden_model, tensor

NAME, NET = "12_edm2_loss_lr_ema", "08_edm2_cond"
FAMILY = get_family("edm2")
# P_mean and P_std of the published models of ImageNet-64 and ImageNet-512 (arXiv:2312.02696, table 6).
NOISE_LEVELS = {"img64": (-0.8, 1.6), "img512": (-0.4, 1.0)}
TRAINING = TrainingSettings(kimg=1, batch_size=6, learning_rate=1e-3, ema_half_life_kimg=1, evaluate_every_kimg=1)
UINT8 = LabelledImages(
    torch.randint(0, 256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8),
    tensor(NAME, "label_idx"),
)


def recorded_noise(case):
    P_mean, P_std = NOISE_LEVELS[case]
    t_B = (tensor(NAME, f"{case}_rnd_normal").flatten() * P_std + P_mean).exp()
    return NoiseDraw(t_B, tensor(NAME, f"{case}_eps"))


def generator():
    return torch.Generator().manual_seed(7)


@pytest.mark.parametrize("case", NOISE_LEVELS)
@torch.no_grad()
def test_loss_with_recorded_draws_equals_official(case):
    model, images, labels = golden_model(NET, "edm2"), tensor(NAME, "images"), tensor(NAME, "label_idx")
    loss_BCHW = uncertainty_weighted_error(model, images, labels, recorded_noise(case))
    assert_golden(loss_BCHW, arrays(NAME)[f"{case}_loss_map"])
    np.testing.assert_allclose(float(loss_BCHW.double().mean()), arrays(NAME)[f"{case}_loss_mean"], rtol=1e-5)
    loss_B = FAMILY.loss_at_noise(model, images, labels, recorded_noise(case))
    assert loss_B.shape == (6,)
    np.testing.assert_allclose(float(loss_B.double().mean()), arrays(NAME)[f"{case}_training_scalar"], rtol=1e-5)


@torch.no_grad()
def test_loss_without_the_uncertainty_is_told_apart_by_the_golden_numbers():
    model, images, labels = golden_model(NET, "edm2"), tensor(NAME, "images"), tensor(NAME, "label_idx")
    loss_B = denoising_loss(model, images, labels, recorded_noise("img64"))
    assert abs(float(loss_B.mean()) / arrays(NAME)["img64_training_scalar"] - 1) > 0.05


@torch.no_grad()
def test_pretraining_loss_is_that_loss_at_the_noise_of_its_generator():
    model = golden_model(NET, "edm2")
    noise = draw_noise(UINT8.images_BCHW, TRAINING.P_mean, TRAINING.P_std, generator())
    x0_BCHW = model.space.to_model(UINT8, generator())
    expected_BCHW = uncertainty_weighted_error(model, x0_BCHW, UINT8.labels_B, noise)
    loss_B = FAMILY.pretraining_loss(model, UINT8, TRAINING, generator())
    assert torch.equal(loss_B, expected_BCHW.flatten(1).sum(1))


@torch.no_grad()
def test_loss_is_least_where_the_uncertainty_is_the_mean_error_of_the_noise_level(monkeypatch):
    model, images, labels = golden_model(NET, "edm2"), tensor(NAME, "images")[:1], tensor(NAME, "label_idx")[:1]
    noise = draw_noise(images, -0.8, 1.6, generator())
    u = float((denoising_loss(model, images, labels, noise) / images[0].numel()).log())

    def mean_loss_at(logvar):
        monkeypatch.setattr(model, "logvar", lambda _: torch.full((1, 1, 1, 1), logvar))
        return float(FAMILY.loss_at_noise(model, images, labels, noise)) / images[0].numel()

    assert mean_loss_at(u) == pytest.approx(1 + u, rel=1e-5)
    assert min(mean_loss_at(u - 0.1), mean_loss_at(u + 0.1)) > mean_loss_at(u) + 0.004


def test_gradients_of_the_loss_reach_the_network_and_its_uncertainty():
    model = golden_model(NET, "edm2").requires_grad_(True)
    FAMILY.pretraining_loss(model, UINT8, TRAINING, generator()).mean().backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert float(model.logvar_linear.weight.grad.abs().max()) > 0


def test_ratios_do_not_look_at_the_uncertainty():
    target, reference = golden_model(NET, "edm2").requires_grad_(True), golden_model(NET, "edm2")
    with torch.no_grad():
        target.unet.out_gain.mul_(1.1)

    def ratios():
        return FAMILY.log_likelihood_ratios(target, reference, UINT8, UINT8, TRAINING, generator())[0]

    before = ratios()
    before.sum().backward()
    assert target.logvar_linear.weight.grad is None
    assert float(before.detach().abs().min()) > 0
    with torch.no_grad():
        loss = FAMILY.pretraining_loss(target, UINT8, TRAINING, generator())
        target.logvar_linear.weight.neg_()
        assert torch.equal(ratios(), before)
        assert not torch.equal(FAMILY.pretraining_loss(target, UINT8, TRAINING, generator()), loss)
