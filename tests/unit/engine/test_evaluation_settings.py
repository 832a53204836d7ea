"""Guidance scales of an evaluation: which are measured, which rank, what they cost, which are refused."""

import pytest
from pydantic import ValidationError

from ddo_engine.spec import AutoregressiveSettings, EvaluateSpec, EvaluationSettings, HeunSettings
from tests.job_rows import job_spec

VAR_JOB = {"sampler": {"kind": "autoregressive"}, "reference_set": {"kind": "online"}}


def test_own_scale_comes_first_and_ranks_alone_unless_the_best_shall() -> None:
    settings = EvaluationSettings(num_samples=50, guidance_scales=(1.5, 0.5))
    sampler = AutoregressiveSettings()
    assert settings.scales(sampler) == (0.0, 1.5, 0.5)
    assert settings.ranking_scales(sampler) == (0.0,)
    best = settings.model_copy(update={"rank_by": "best_scale"})
    assert best.ranking_scales(sampler) == best.scales(sampler)
    assert best.at_one_scale() == EvaluationSettings(num_samples=50)


def test_guided_scales_cost_twice() -> None:
    settings = EvaluationSettings(num_samples=50, guidance_scales=(1.5, 0.5))
    assert settings.network_evaluations(AutoregressiveSettings(num_scales=10)) == 50 * (10 + 20 + 20)
    of_edm = EvaluationSettings(num_samples=50, guidance_scales=(1.0, 2.0))
    assert of_edm.network_evaluations(HeunSettings(num_steps=18, guidance_scale=1.5)) == 50 * (70 + 35 + 70)
    assert settings.generated_images() == 150


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"guidance_scales": [1.5, 1.5]}, "values repeat"),
        ({"guidance_scales": [-1.0]}, "greater than or equal to 0"),
        ({"guidance_scales": [2.0, 1.0]}, r"evaluation.guidance_scales\[1\]: 1 is sampler.guidance_scale"),
        ({"rank_by": "best_scale"}, "give guidance_scales"),
    ],
)
def test_scales_that_make_no_curve_are_refused(evaluation: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        job_spec(evaluation={"num_samples": 50, **evaluation})


def test_no_guidance_is_another_scale_for_a_var_than_for_a_diffusion_model() -> None:
    def scales(value: float, **job: object) -> tuple[float, ...]:
        return job_spec(evaluation={"num_samples": 50, "guidance_scales": [value]}, **job).evaluation.guidance_scales

    assert (scales(0.0), scales(1.0, **VAR_JOB)) == ((0.0,), (1.0,))
    with pytest.raises(ValidationError, match="without it"):
        scales(1.0)
    with pytest.raises(ValidationError, match="without it"):
        scales(0.0, **VAR_JOB)


def test_unit_refuses_the_scale_of_its_sampler_too() -> None:
    evaluations = [{"num_samples": 50}, {"num_samples": 60, "guidance_scales": [1.0]}]
    files = {"checkpoint": "base", "dataset": "data", "feature_network": "features"}
    with pytest.raises(ValidationError, match=r"evaluations\[1\].guidance_scales\[0\]"):
        EvaluateSpec.model_validate({**files, "evaluations": evaluations})


def test_guidance_baseline_at_a_scale_of_the_curve_is_refused() -> None:
    curve = {"num_samples": 50, "guidance_scales": [1.5]}
    guidance = {"kind": "guidance", "scales": [2.0, 1.5]}
    with pytest.raises(ValidationError, match=r"baselines\[0\].scales\[1\]: round 0 measures the base so already"):
        job_spec(evaluation=curve, baselines=[guidance], **VAR_JOB)
    # the curve of this job is that of its guide, the baseline that of the model itself without labels
    sampler = {"guide_sees_labels": False}
    job_spec(evaluation=curve, baselines=[guidance], sampler=sampler, guide="file:///inputs/guide.pkl")
    with pytest.raises(ValidationError, match="round 0 measures the base so already"):
        job_spec(evaluation=curve, baselines=[guidance], sampler=sampler)
