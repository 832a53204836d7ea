"""Heun's sampler equals the official one, converges as it should, and gives each seed its own image."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from ddo_engine.families import get_family
from ddo_engine.families.diffusion.heun import heun, noise_levels
from ddo_engine.families.diffusion.space import quantise
from ddo_engine.families.diffusion.streams import SampleStreams
from ddo_engine.spec import HeunSettings
from tests.numerics.golden import arrays, golden_model, tensor

NAME = "07_edm_sampler"
SEEDS = [0, 1, 5]
CHURN = HeunSettings(num_steps=6, S_churn=3, S_min=0.05, S_max=50, S_noise=1.003)
MODELS = [("uncond", "01_edm_ddpmpp_uncond"), ("cond", "02_edm_ddpmpp_cond")]
FAMILY = get_family("edm")


def no_churn():
    raise AssertionError("a sampler without churn must not draw noise")


def labels_of(prefix):
    return tensor(NAME, "cond_class_idx") if prefix == "cond" else None


@pytest.mark.parametrize(("prefix", "model_name"), MODELS)
@torch.no_grad()
def test_heun_18_steps_equals_official(prefix, model_name):
    model, labels = golden_model(model_name), labels_of(prefix)
    inputs, sigmas = [], []

    def denoise(x, sigma):
        inputs.append(x)
        sigmas.append(float(sigma[0]))
        return model.denoise(x, sigma, labels)

    images = heun(denoise, tensor(NAME, f"{prefix}_latents"), HeunSettings(), churn_noise=no_churn)
    golden = {key.removeprefix(f"{prefix}_steps18_"): value for key, value in arrays(NAME).items()}
    assert images.dtype == torch.float64
    assert {x.dtype for x in inputs} == {torch.float32}
    np.testing.assert_allclose(sigmas, golden["call_sigmas"], rtol=1e-6)
    np.testing.assert_allclose(inputs[10].numpy(), golden["x_at_call10"], rtol=0, atol=5e-5)
    np.testing.assert_allclose(images.numpy(), golden["x"], rtol=0, atol=5e-5)
    np.testing.assert_array_equal(quantise(images).numpy(), golden["uint8"])


@pytest.mark.parametrize(("prefix", "model_name"), MODELS)
@torch.no_grad()
def test_heun_with_churn_equals_official(prefix, model_name):
    model, labels = golden_model(model_name), labels_of(prefix)
    noises = iter(tensor(NAME, f"{prefix}_churn_noises"))
    images = heun(
        lambda x, sigma: model.denoise(x, sigma, labels),
        tensor(NAME, f"{prefix}_latents"),
        CHURN,
        churn_noise=lambda: next(noises),
    )
    np.testing.assert_allclose(images.numpy(), arrays(NAME)[f"{prefix}_churn_x"], rtol=0, atol=5e-5)
    assert list(noises) == []


@pytest.mark.parametrize(("S_churn", "gamma"), [(2.0, 0.2), (4.0, 0.4), (4.2, 2**0.5 - 1)])
def test_heun_with_churn_raises_the_noise_by_its_share_of_a_step_up_to_a_bound(S_churn, gamma):
    sampler = HeunSettings(num_steps=10, S_churn=S_churn, S_min=0.05, S_max=50)
    sigmas = []

    def denoise(x, sigma):
        sigmas.append(float(sigma[0]))
        return x

    heun(denoise, torch.zeros(1, 1, 1, 1), sampler, churn_noise=lambda: torch.zeros(1, 1, 1, 1))
    levels = noise_levels(sampler)[:-1].tolist()
    raised = [level * (1 + gamma) if 0.05 <= level <= 50 else level for level in levels]
    assert 0 < sum(level != above for level, above in zip(levels, raised, strict=True)) < 10
    assert sigmas[::2] == pytest.approx(raised)


@pytest.mark.parametrize(("prefix", "model_name"), MODELS)
def test_sample_from_seeds_alone_equals_official_bytes(prefix, model_name):
    model = golden_model(model_name)
    images = FAMILY.sample(model, SEEDS, None, HeunSettings())
    np.testing.assert_array_equal(images.numpy(), arrays(NAME)[f"{prefix}_steps18_uint8"])
    drawn = FAMILY.draw_labels(model, SEEDS)
    assert drawn is None if prefix == "uncond" else torch.equal(drawn, labels_of(prefix))


@pytest.mark.parametrize("num_steps", [2, 5, 18])
def test_heun_makes_two_network_calls_a_step_but_one_in_the_last(num_steps):
    calls = []
    sampler = HeunSettings(num_steps=num_steps)
    heun(lambda x, sigma: x, torch.zeros(1, 1, 1, 1), sampler, churn_noise=no_churn, on_call=calls.append)
    assert calls == list(range(1, sampler.nfe + 1))


def test_noise_levels_are_edms():
    levels = noise_levels(HeunSettings(num_steps=3, sigma_min=1.0, sigma_max=81.0, rho=4.0)).tolist()
    assert levels == pytest.approx([81.0, 16.0, 1.0, 0.0])


def gaussian_error(num_steps):
    """Error of Heun on N(0, 0.5^2) data, whose ODE has the solution x ~ sqrt(sigma^2 + 0.5^2)."""
    latents = torch.tensor([[[[1.0]]], [[[-0.3]]]])
    images = heun(
        lambda x, sigma: x * (0.25 / (0.25 + sigma.double() ** 2))[:, None, None, None],
        latents,
        HeunSettings(num_steps=num_steps, sigma_min=0.002, sigma_max=80.0),
        churn_noise=no_churn,
    )
    exact = latents.double() * 80 * 0.5 / (80**2 + 0.25) ** 0.5
    return float((images - exact).abs().max())


def test_heun_on_gaussian_data_converges_with_second_order():
    errors = [gaussian_error(num_steps) for num_steps in (16, 32, 64)]
    assert errors[0] < 0.05
    assert all(3.0 < coarse / fine < 5.5 for coarse, fine in pairwise(errors))


@pytest.mark.parametrize("sampler", [HeunSettings(num_steps=6), CHURN], ids=["plain", "churn"])
@pytest.mark.parametrize("batch_size", [1, 7])
def test_sample_of_a_seed_does_not_depend_on_its_batch(sampler, batch_size):
    # Not to the bit: matrix products of other shapes add up in another order. One grey level of 255 at most.
    model = golden_model("02_edm_ddpmpp_cond")
    seeds = list(range(100, 164))
    together = FAMILY.sample(model, seeds, None, sampler).int()
    few = seeds[:14] if batch_size == 7 else seeds[:3] + seeds[-1:]
    apart = torch.cat(
        [FAMILY.sample(model, few[i : i + batch_size], None, sampler) for i in range(0, len(few), batch_size)]
    ).int()
    difference = (apart - together[[seed - 100 for seed in few]]).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3
    # What the test would catch: images of neighbouring seeds are nothing like each other.
    assert (together[0] - together[1]).abs().float().mean() > 10


def test_sample_with_churn_differs_from_sample_without():
    model = golden_model("01_edm_ddpmpp_uncond")
    plain = FAMILY.sample(model, [3], None, CHURN.model_copy(update={"S_churn": 0.0}))
    assert (FAMILY.sample(model, [3], None, CHURN).int() - plain.int()).abs().float().mean() > 1


def test_sample_with_given_labels_uses_them_and_keeps_the_latents():
    model = golden_model("02_edm_ddpmpp_cond")
    sampler = HeunSettings(num_steps=4)
    drawn = FAMILY.draw_labels(model, SEEDS)
    assert torch.equal(FAMILY.sample(model, SEEDS, drawn, sampler), FAMILY.sample(model, SEEDS, None, sampler))
    other = FAMILY.sample(model, SEEDS, (drawn + 1) % 10, sampler)
    assert not torch.equal(other, FAMILY.sample(model, SEEDS, None, sampler))


def test_sample_streams_do_not_depend_on_their_neighbours():
    alone, together = SampleStreams([7]), SampleStreams([3, 7])
    for draw in (lambda s: s.normal((2, 2)), lambda s: s.integers(1000), lambda s: s.normal((2,), torch.float64)):
        assert torch.equal(draw(alone)[0], draw(together)[1])


def test_quantise_truncates_and_clips():
    values = torch.tensor([-1.2, -1.0, -0.001, 0.0, 0.9999, 1.0, 3.0], dtype=torch.float64)
    assert quantise(values).tolist() == [0, 0, 127, 128, 255, 255, 255]
