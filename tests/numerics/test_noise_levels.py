"""Settings that a job may have give noise levels that can be sampled at, or are refused before anything is drawn."""

from itertools import pairwise, product

import pytest
from pydantic import ValidationError

from ddo_engine.errors import InvalidSpec
from ddo_engine.families import get_family
from ddo_engine.families.diffusion.heun import noise_levels
from ddo_engine.spec import DPMSolverSettings, HeunSettings

EXTREMES = [1e-320, 1e-6, 1e-3, 0.5, 1.0, 80.0, 1e3, 1e6, 1e300]


def settings(kind, **values):
    try:
        return kind(**values)
    except ValidationError:
        return None


@pytest.mark.parametrize("state_dtype", ["float32", "float64"])
@pytest.mark.parametrize("num_steps", [2, 18, 1000])
def test_levels_fall_from_step_to_step_or_are_refused(state_dtype, num_steps):
    num_accepted = 0
    for low, high, rho in product(EXTREMES, EXTREMES, EXTREMES):
        values = {"sigma_min": low, "sigma_max": high, "rho": rho}
        sampler = settings(HeunSettings, num_steps=num_steps, state_dtype=state_dtype, **values)
        if sampler is None:
            continue
        try:
            levels = noise_levels(sampler).tolist()
        except InvalidSpec:
            continue
        num_accepted += 1
        assert all(1e7 > above > below >= 0 for above, below in pairwise(levels)), sampler
    assert num_accepted > 10


@pytest.mark.parametrize("kind", [HeunSettings, DPMSolverSettings])
def test_sampler_of_any_settings_is_checked_without_another_error(kind):
    family = get_family("edm")
    model = family.build({"class_name": "MLPPrecond", "img_resolution": 2, "img_channels": 1, "width": 4})
    outcomes = set()
    for low, high, rho in product(EXTREMES, EXTREMES, EXTREMES):
        sampler = settings(kind, num_steps=20, sigma_min=low, sigma_max=high, rho=rho)
        if sampler is None:
            continue
        try:
            family.check_sampler(model, None, sampler)
        except InvalidSpec:
            outcomes.add("refused")
        else:
            outcomes.add("accepted")
    assert outcomes == {"accepted", "refused"}
