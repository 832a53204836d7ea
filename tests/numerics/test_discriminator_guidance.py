"""Discriminator guidance against closed forms: an optimal discriminator makes a wrong model draw the data."""

import pytest
import torch

from ddo_engine.families import get_family
from ddo_engine.families.diffusion.discriminator_guidance import corrected
from ddo_engine.families.diffusion.heun import heun
from ddo_engine.spec import DPMSolverSettings, HeunSettings
from tests.gaussian_models import Gaussian, GaussianDenoiser, GaussianDiscriminator
from tests.numerics.golden import golden_model
from tests.tiny_families import random_discriminator

DATA = Gaussian(means=(0.3, -0.2), variance=0.04)
MODEL = Gaussian(means=(0.0, 0.1), variance=0.09)
SEEDS = range(2000)
SAMPLERS = {
    "heun": HeunSettings(num_steps=64),
    "heun-churn": HeunSettings(num_steps=64, S_churn=20),
    "dpm": DPMSolverSettings(num_steps=60),
}


def drawn(model, sampler, discriminator=None):
    labels = torch.arange(len(SEEDS)) % 2
    sample = get_family("edm").sample_in_model_space
    return sample(model, SEEDS, labels, sampler, discriminator=discriminator)


@pytest.mark.parametrize("name", SAMPLERS)
def test_optimal_discriminator_at_weight_1_makes_the_model_draw_what_a_model_of_the_data_draws(name):
    sampler = SAMPLERS[name]
    of_data, of_model = (drawn(GaussianDenoiser(each), sampler) for each in (DATA, MODEL))
    weighted = sampler.model_copy(update={"discriminator_weight": 1.0})
    got = drawn(GaussianDenoiser(MODEL), weighted, GaussianDiscriminator(DATA, MODEL))
    assert (of_model - of_data).abs().mean() > 0.2
    torch.testing.assert_close(got, of_data, rtol=0, atol=2e-4)
    for label in range(2):
        pixels = got[label::2].float()
        # 4,000 pixels: their mean spreads by 0.003, their variance by 2 %; samplers have an error of their own.
        assert pixels.mean() == pytest.approx(DATA.means[label], abs=0.015)
        assert pixels.var() == pytest.approx(DATA.variance, rel=0.08)


def test_correction_of_the_second_order_calls_is_part_of_what_is_exact():
    """Corrected where a step starts only, a weight of 1 is about half of what the model lacks."""
    sampler = HeunSettings(num_steps=18)
    model, discriminator = GaussianDenoiser(MODEL), GaussianDiscriminator(DATA, MODEL)
    calls = []

    def first_calls_only(x, sigma):
        calls.append(sigma)
        is_first = len(calls) % 2 == 1
        labels = torch.arange(len(x)) % 2
        exact = corrected(lambda x, sigma: model.denoise(x, sigma, labels), discriminator, labels, float(is_first))
        return exact(x, sigma)

    noise = torch.randn(2000, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    got = heun(first_calls_only, noise, sampler, churn_noise=lambda: noise)
    assert got[::2].mean() == pytest.approx(0.15, abs=0.05)


def test_correction_is_linear_in_the_weight_and_sigma_squared_times_the_difference_of_scores():
    generator = torch.Generator().manual_seed(1)
    x, sigma = torch.randn(6, 1, 2, 2, generator=generator), torch.tensor([0.01, 0.1, 0.5, 1.0, 5.0, 80.0])
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    difference = DATA.score(x, sigma, labels) - MODEL.score(x, sigma, labels)
    for weight in (0.5, 1.0, 3.0):
        denoise = corrected(lambda x, sigma: 2 * x, GaussianDiscriminator(DATA, MODEL), labels, weight)
        expected = 2 * x + weight * sigma[:, None, None, None] ** 2 * difference
        torch.testing.assert_close(denoise(x, sigma), expected)


def test_gradient_of_the_network_equals_differences_of_its_logit_in_float64():
    network = random_discriminator(label_dim=3, img_resolution=4, img_channels=1).double()
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, 1, 4, 4, generator=generator, dtype=torch.float64)
    direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    sigma, labels = torch.tensor([0.05, 0.7, 20.0], dtype=torch.float64), torch.tensor([0, 2, 1])
    shift = corrected(lambda x, sigma: torch.zeros_like(x), network, labels, 1.0)(x, sigma)
    step = 1e-6
    up, down = (network.logit(x + sign * step * direction, sigma, labels).detach() for sign in (1, -1))
    expected = sigma**2 * (up - down) / (2 * step)
    torch.testing.assert_close((shift * direction).flatten(1).sum(1), expected, rtol=1e-6, atol=1e-9)


def test_logit_falls_as_1_over_sigma_and_the_correction_stays_of_one_size():
    network = random_discriminator(label_dim=0, img_resolution=4, img_channels=1)
    sigma = torch.tensor([10.0, 1000.0])
    x = sigma[:, None, None, None] * torch.ones(2, 1, 4, 4)
    logits = network.logit(x, sigma, None).abs()
    assert logits[1] < logits[0] / 30
    shift = corrected(lambda x, sigma: torch.zeros_like(x), network, None, 1.0)(x, sigma).flatten(1).norm(dim=1)
    assert 0.1 < shift[1] / shift[0] < 10


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_weight_0_gives_the_bits_of_no_discriminator_and_does_not_call_it(weight):
    model = golden_model("02_edm_ddpmpp_cond")
    network = random_discriminator(
        label_dim=model.label_dim, img_resolution=model.img_resolution, img_channels=model.img_channels
    )
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    sampler = HeunSettings(num_steps=3, discriminator_weight=weight)
    sample = get_family("edm").sample_in_model_space
    plain = sample(model, range(16), None, HeunSettings(num_steps=3))
    got = sample(model, range(16), None, sampler, discriminator=network)
    assert torch.equal(got, plain) == (weight == 0)
    assert len(calls) == (0 if weight == 0 else 5)
    assert sampler.nfe == (5 if weight == 0 else 10)
    assert all(parameter.grad is None for parameter in network.parameters())
