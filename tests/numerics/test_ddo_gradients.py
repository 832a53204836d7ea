"""Gradients of a DDO step in float32 against the same loss in float64, written plainly: four passes, formulas as is."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ddo_engine.families import get_family
from ddo_engine.families.protocol import BatchPart, LabelledImages
from ddo_engine.objective import ddo_loss
from ddo_engine.spec import TrainingSettings
from tests.numerics.golden import golden_model
from tests.numerics.var_models import random_images, tiny_var

ALPHA, BETAS, ROWS = 4.0, (0.02, 1.0), 3
TRAINING = TrainingSettings(kimg=1, batch_size=ROWS, learning_rate=1e-3, ema_half_life_kimg=1, evaluate_every_kimg=1)
AUGMENTED = TRAINING.model_copy(update={"augment_probability": 1.0})
DIFFUSION = [
    ("01_edm_ddpmpp_uncond", "edm", TRAINING),
    ("02_edm_ddpmpp_cond", "edm", TRAINING),
    ("02_edm_ddpmpp_cond", "edm", AUGMENTED),
    ("03_edm_ncsnpp_cond", "edm", TRAINING),
    ("04_edm_adm_cond", "edm", TRAINING),
    ("08_edm2_cond", "edm2", TRAINING),
]
Ratio = Callable[[nn.Module, nn.Module], tuple[Tensor, Tensor]]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def near(model: nn.Module, size: float = 0.003) -> nn.Module:
    """Another model, so near that discriminators are not saturated."""
    other, draws = copy.deepcopy(model), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            change = torch.randn(parameter.shape, generator=draws)
            parameter.add_(size * change * parameter.square().mean().sqrt())
    return other


def gradients(model: nn.Module, loss: Tensor, *, retain_graph: bool = False) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward(retain_graph=retain_graph)
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def plain_loss(ratio_real_B: Tensor, ratio_fake_B: Tensor, beta: float) -> Tensor:
    """Eq. 13 as it is written."""
    discriminator_real_B, discriminator_fake_B = (torch.sigmoid(beta * ratio) for ratio in (ratio_real_B, ratio_fake_B))
    return -discriminator_real_B.log().mean() - ALPHA * (1 - discriminator_fake_B).log().mean()


def check_step(
    target: nn.Module, wide: nn.Module, ratios: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor], beta: float
):
    """Compare the gradients of the loss of float32 ratios with those of the plain loss of exact ones.

    A network's output is rounded, and by that the ratio (measured: up to 1.4e-4 nats, of squared errors of 1,300; the
    engine's own sums add 3e-7). Beta carries it into the gradient through the sigmoid: 0.02 leaves gradients equal to
    1e-5; of beta = 1 they are so once the sigmoid is given the same ratios.
    """
    ours = gradients(target, ddo_loss(*ratios, alpha=ALPHA, beta=beta).mean())
    for ratio_B, exact_B in zip(ratios, exact, strict=True):
        assert exact_B.abs().min() > 1e-3
        torch.testing.assert_close(ratio_B.double(), exact_B, rtol=0, atol=2e-4)
    exact_gradients = gradients(wide, plain_loss(*exact, beta), retain_graph=True)
    assert relative_distance(ours, exact_gradients) < max(1e-5, 1e-4 * beta)
    at_our_ratios = [exact_B + (ratio_B - exact_B).detach() for ratio_B, exact_B in zip(ratios, exact, strict=True)]
    assert relative_distance(ours, gradients(wide, plain_loss(*at_our_ratios, beta))) < 1e-5


def relative_distance(ours: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Return the largest difference anywhere over the largest gradient anywhere."""
    assert {name for name, gradient in exact.items() if gradient.any()} <= ours.keys()
    largest = max(float(gradient.abs().max()) for gradient in exact.values())
    assert largest > 0
    return max(float((ours[name].double() - exact[name]).abs().max()) for name in ours) / largest


def diffusion_images(model: nn.Module, seed: int) -> LabelledImages:
    draws = torch.Generator().manual_seed(seed)
    shape = (ROWS, model.img_channels, model.img_resolution, model.img_resolution)
    pixels = torch.randint(256, shape, generator=draws, dtype=torch.uint8)
    return LabelledImages(pixels, torch.randint(max(model.label_dim, 1), (ROWS,), generator=draws))


def plain_diffusion_ratio(
    real: LabelledImages, fake: LabelledImages, family_name: str, training: TrainingSettings
) -> Ratio:
    """Return eqs. 14–16 as they are written: the difference of two weighted distances to the image."""
    draws, part = generator(), BatchPart(0, ROWS, ROWS)
    pixels_BCHW = torch.cat([real.images_BCHW, fake.images_BCHW]).float() / 127.5 - 1
    pixels_BCHW, augment_labels_BA = get_family(family_name).augment(pixels_BCHW, training, draws, part, num_batches=2)
    t_B = (torch.randn(ROWS, generator=draws) * training.P_std + training.P_mean).exp().double()
    eps_BCHW = torch.randn(real.images_BCHW.shape, generator=draws).double()
    labels = None if augment_labels_BA is None else augment_labels_BA.double().chunk(2)

    def weighted_distance(model: nn.Module, side: int, labels_B: Tensor | None) -> Tensor:
        x0_BCHW = pixels_BCHW.double().chunk(2)[side]
        x_t = x0_BCHW + t_B[:, None, None, None] * eps_BCHW
        denoised_BCHW = model.denoise(x_t, t_B, labels_B, None if labels is None else labels[side])
        weight_B = (t_B**2 + model.sigma_data**2) / (t_B * model.sigma_data) ** 2
        return weight_B * (denoised_BCHW - x0_BCHW).square().flatten(1).sum(1)

    def ratios(target: nn.Module, reference: nn.Module) -> tuple[Tensor, Tensor]:
        real_B, fake_B = (
            -(weighted_distance(target, side, batch.labels_B) - weighted_distance(reference, side, batch.labels_B))
            for side, batch in enumerate((real, fake))
        )
        return real_B, fake_B

    return ratios


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(("name", "family_name", "training"), DIFFUSION)
def test_gradients_of_a_ddo_step_of_a_diffusion_model_equal_float64(name, family_name, training, beta):
    reference = golden_model(name, family_name).requires_grad_(requires_grad=False)
    target = near(reference).requires_grad_(requires_grad=True)
    real, fake = diffusion_images(target, 1), diffusion_images(target, 2)
    ratios = get_family(family_name).log_likelihood_ratios(target, reference, real, fake, training, generator())
    wide = copy.deepcopy(target).double()
    exact = plain_diffusion_ratio(real, fake, family_name, training)(wide, reference.double())
    check_step(target, wide, (ratios.real_B, ratios.fake_B), exact, beta)


@pytest.mark.parametrize("beta", BETAS)
def test_gradients_of_a_ddo_step_of_a_var_equal_float64(beta):
    reference = tiny_var().requires_grad_(requires_grad=False)
    target = near(reference, size=0.02).requires_grad_(requires_grad=True)
    real, fake = random_images(ROWS), random_images(ROWS, seed=1)
    ratios = get_family("var").log_likelihood_ratios(target, reference, real, fake, TRAINING, generator())

    wide, wide_reference = copy.deepcopy(target).double(), copy.deepcopy(reference).double()

    def log_likelihood(model: nn.Module, batch: LabelledImages) -> Tensor:
        tokens_BL = reference.tokenizer.encode(batch.images_BCHW)
        log_p_BLV = functional.log_softmax(model.logits(tokens_BL, batch.labels_B), -1)
        return log_p_BLV.gather(-1, tokens_BL[..., None]).sum((1, 2))

    exact = tuple(log_likelihood(wide, batch) - log_likelihood(wide_reference, batch) for batch in (real, fake))
    check_step(target, wide, (ratios.real_B, ratios.fake_B), exact, beta)


def test_check_of_a_step_would_show_weights_of_half_precision():
    reference = golden_model("02_edm_ddpmpp_cond")
    target, real, fake = near(reference), diffusion_images(reference, 1), diffusion_images(reference, 2)
    wide, rounded = copy.deepcopy(target).double(), copy.deepcopy(target).bfloat16().float()
    ratios = get_family("edm").log_likelihood_ratios(rounded, reference, real, fake, TRAINING, generator())
    ours = gradients(rounded, ddo_loss(ratios.real_B, ratios.fake_B, alpha=ALPHA, beta=0.02).mean())
    exact = plain_diffusion_ratio(real, fake, "edm", TRAINING)(wide, reference.double())
    assert relative_distance(ours, gradients(wide, plain_loss(*exact, 0.02))) > 1e-3
