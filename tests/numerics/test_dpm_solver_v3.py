"""DPM-Solver-v3 equals the one of the authors' sampling script, and is exact where it must be."""

import numpy as np
import pytest
import torch

from ddo_engine.errors import InvalidSpec
from ddo_engine.families.diffusion.dpm_solver_v3 import NUM_INTERVALS, StepGrid, dpm_solver_v3
from ddo_engine.families.diffusion.guidance import guided
from ddo_engine.spec import DPMSolverSettings
from tests.numerics.golden import arrays, golden_model, tensor

NAME = "18_dpmsolver_v3"
NET, GUIDE, INPUTS = "08_edm2_cond", "09_edm2_guide", "11_edm2_sampler"


@pytest.mark.parametrize(
    ("num_steps", "scale", "tag"), [(8, 1.0, "steps8"), (25, 1.0, "steps25"), (8, 1.5, "steps8_g1p5")]
)
@torch.no_grad()
def test_dpm_solver_v3_equals_the_authors_script(num_steps, scale, tag):
    sampler = DPMSolverSettings(num_steps=num_steps, guidance_scale=scale)
    denoise = guided(golden_model(NET, "edm2"), golden_model(GUIDE, "edm2"), tensor(INPUTS, "class_idx"), sampler)
    calls = []
    images = dpm_solver_v3(denoise, tensor(INPUTS, "noise"), sampler, on_call=calls.append)
    assert calls == list(range(1, num_steps + 1))
    assert images.dtype == torch.float64
    np.testing.assert_allclose(images.numpy(), arrays(NAME)[f"{tag}_x"], rtol=0, atol=5e-5)


@pytest.mark.parametrize(("num_steps", "tag"), [(8, "steps8"), (25, "steps25"), (8, "steps8_g1p5")])
def test_step_grid_equals_the_authors_script(num_steps, tag):
    grid = StepGrid.of(DPMSolverSettings(num_steps=num_steps))
    assert list(grid.indexes) == arrays(NAME)[f"{tag}_indexes"].tolist()
    times = np.exp([-grid.lambdas[index] for index in grid.indexes])
    # The script has its grid in float32, ours is in float64.
    np.testing.assert_allclose(times, arrays(NAME)[f"{tag}_timesteps"], rtol=1e-6)


def test_integrals_converge_to_the_closed_form():
    grid = StepGrid.of(DPMSolverSettings())
    start, stop = 10, 60
    h = grid.lambdas[stop] - grid.lambdas[start]
    assert grid.integral(start, stop, 0) == pytest.approx(np.expm1(h), rel=1e-3)
    assert grid.integral(start, stop, 1) == pytest.approx((h - 1) * np.exp(h) + 1, rel=1e-3)


def test_dpm_solver_v3_keeps_an_image_that_the_model_always_predicts():
    image = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    sampler = DPMSolverSettings(num_steps=30)
    out = dpm_solver_v3(lambda x, sigma: image, torch.randn(2, 3, 4, 4), sampler)
    # exact but for the trapezoid rule: 1e-3 of the image
    torch.testing.assert_close(out.float(), image, rtol=0, atol=2e-2)


def test_steps_that_fall_on_one_node_of_the_grid_are_refused():
    with pytest.raises(InvalidSpec, match="num_steps"):
        dpm_solver_v3(lambda x, sigma: x, torch.zeros(1, 1, 1, 1), DPMSolverSettings(num_steps=NUM_INTERVALS - 1))
