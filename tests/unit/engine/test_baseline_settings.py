"""What baselines are told: round 1's settings without what is DDO's alone, and the job's sampler but for one thing."""

import pytest

from ddo_engine.spec import AutoregressiveSettings, HeunSettings, JobSpec
from tests.job_rows import job_spec

VAR_JOB = {"sampler": {"kind": "autoregressive", "top_k": 5}, "reference_set": {"kind": "online"}}


def of_var(*baselines: dict[str, object], **changes: object) -> JobSpec:
    return job_spec(**VAR_JOB, baselines=list(baselines), **changes)


def test_trained_baselines_see_as_many_images_as_one_trial_of_every_round() -> None:
    """Rounds 1 and 2 have 2,000 real images, round 3 has 45 batches of 100; MLE sees as many again for the fakes."""
    later = {"from_round": 3, "training": {"kimg": 4.45}}
    spec = of_var({"kind": "mle"}, {"kind": "cca", "alpha": 1.0, "beta": 0.1}, rounds=3, round_overrides=[later])
    mle, cca = (spec.baseline_training(baseline) for baseline in spec.baselines)
    assert (mle.num_steps * 100, cca.num_steps * 100) == (2 * 8500, 8500)
    assert spec.baseline_training(spec.baselines[0].model_copy(update={"kimg": 1.5})).kimg == 1.5


def test_trained_baselines_have_round_1s_settings_without_what_is_of_ddo_alone() -> None:
    of_ddo = {"label_dropout": 0.5, "ema_snapshot_stds": [0.1], "probe_kimg": 1.0}
    training = job_spec().training.model_dump() | of_ddo
    grid = {"alpha": [1.0], "beta": ["auto"]}
    spec = of_var({"kind": "mle"}, training=training, grid=grid)
    told = spec.baseline_training(spec.baselines[0])
    assert (told.label_dropout, told.ema_snapshot_stds, told.probe_kimg) == (None, (), None)
    changed = {"kimg": spec.training.kimg, **{name: getattr(spec.training, name) for name in of_ddo}}
    assert told.model_copy(update=changed) == spec.training


def test_guidance_changes_the_jobs_sampler_in_nothing_else() -> None:
    guidance = {"kind": "guidance", "scales": [1.5, 2.0]}
    var, edm = of_var(guidance), job_spec(baselines=[guidance])
    assert var.baselines[0].samplers(var.sampler) == tuple(
        AutoregressiveSettings(top_k=5, guidance_scale=scale) for scale in (1.5, 2.0)
    )
    assert edm.baselines[0].samplers(edm.sampler) == tuple(
        HeunSettings(guidance_scale=scale, guide_sees_labels=False) for scale in (1.5, 2.0)
    )


@pytest.mark.parametrize(
    ("scale", "guide", "is_taken"),
    [(1.5, None, False), (2.0, None, True), (1.5, "file:///other.pkl", True), (1.0, None, True)],
)
def test_autoguidance_at_the_scale_of_the_jobs_sampler_needs_another_guide(
    scale: float, guide: str | None, is_taken: bool
) -> None:
    def spec() -> JobSpec:
        return job_spec(
            guide="file:///guide.pkl",
            sampler={"guidance_scale": 1.5},
            baselines=[{"kind": "autoguidance", "scales": [scale], "guide": guide}],
        )

    if is_taken:
        assert spec().baseline_guide == guide
        return
    with pytest.raises(ValueError, match=r"baselines\[0\].scales\[0\]: round 0"):
        spec()
