"""Heun with EDM2's settings and its two kinds of guidance equals the official sampler."""

import numpy as np
import pytest
import torch

from ddo_engine.errors import InvalidSpec
from ddo_engine.families import get_family
from ddo_engine.families.diffusion.guidance import guided
from ddo_engine.families.diffusion.heun import heun, noise_levels
from ddo_engine.families.diffusion.space import quantise
from ddo_engine.families.diffusion.streams import SampleStreams
from ddo_engine.spec import HeunSettings
from tests.numerics.golden import arrays, golden_model, tensor

NAME, NET, GUIDE = "11_edm2_sampler", "08_edm2_cond", "09_edm2_guide"
SEEDS = [3, 4]


def run(sampler, guide=None):
    calls = []
    with torch.no_grad():
        images = heun(
            guided(golden_model(NET, "edm2"), guide, tensor(NAME, "class_idx"), sampler),
            tensor(NAME, "noise"),
            sampler,
            churn_noise=lambda: pytest.fail("no churn was asked for"),
            on_call=calls.append,
        )
    return images, len(calls)


@pytest.mark.parametrize("num_steps", [8, 32])
def test_heun_in_float32_equals_official(num_steps):
    images, calls = run(HeunSettings(num_steps=num_steps, state_dtype="float32"))
    golden = arrays(NAME)
    assert images.dtype == torch.float32
    assert calls == golden[f"plain{num_steps}_calls"]
    np.testing.assert_allclose(images.numpy(), golden[f"plain{num_steps}_x"], rtol=0, atol=5e-5)
    if num_steps == 32:
        assert np.abs(quantise(images).numpy().astype(int) - golden["plain32_uint8_rgb"]).max() <= 1
        np.testing.assert_array_equal(quantise(images).numpy(), golden["plain32_uint8_rgb"])


@pytest.mark.parametrize("num_steps", [8, 18, 32])
def test_noise_levels_in_float32_equal_official_ones_to_the_bit(num_steps):
    levels = noise_levels(HeunSettings(num_steps=num_steps, state_dtype="float32"))
    np.testing.assert_array_equal(levels.numpy(), arrays(NAME)[f"t_steps_{num_steps}"])


def test_autoguidance_equals_official():
    guide = golden_model(GUIDE, "edm2")
    images, _ = run(HeunSettings(num_steps=8, state_dtype="float32", guidance_scale=1.7), guide)
    np.testing.assert_allclose(images.numpy(), arrays(NAME)["autog_1p7_x"], rtol=0, atol=5e-5)
    images, _ = run(HeunSettings(num_steps=8, guidance_scale=2.0), guide)
    np.testing.assert_allclose(images.numpy(), arrays(NAME)["autog_2p0_f64_x"], rtol=0, atol=5e-5)


def test_classifier_free_guidance_by_the_null_label_equals_official():
    settings = HeunSettings(num_steps=8, state_dtype="float32", guidance_scale=1.4, guide_sees_labels=False)
    for guide in (None, golden_model(NET, "edm2")):
        np.testing.assert_allclose(run(settings, guide)[0].numpy(), arrays(NAME)["cfg_style_1p4_x"], rtol=0, atol=5e-5)


def test_streams_draw_the_official_latents_and_labels():
    streams = SampleStreams(SEEDS)
    assert torch.equal(streams.normal((3, 16, 16)), tensor(NAME, "noise"))
    assert torch.equal(streams.integers(10), tensor(NAME, "class_idx"))


def test_guidance_without_a_guide_is_refused_naming_the_setting():
    with pytest.raises(InvalidSpec, match="nothing to guide with") as refusal:
        run(HeunSettings(num_steps=2, guidance_scale=2.0))
    assert refusal.value.param == "sampler.guidance_scale"


def test_guide_of_another_shape_is_refused():
    other = golden_model("10_edm2_uncond", "edm2")
    with pytest.raises(InvalidSpec, match="guide") as refusal:
        run(HeunSettings(num_steps=2, guidance_scale=2.0), other)
    assert refusal.value.param == "guide"


def test_family_samples_with_its_official_default():
    family = get_family("edm2")
    model = golden_model(NET, "edm2")
    images = family.sample(model, SEEDS, None, family.default_sampler)
    assert family.default_sampler.nfe == 63
    np.testing.assert_array_equal(images.numpy(), arrays(NAME)["plain32_uint8_rgb"])
