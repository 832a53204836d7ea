"""The paper's VAR runs as presets: they are whole, what they plan is what the paper did, and a body overrides them."""

import pytest

from ddo_engine.learning_rate import learning_rate_at, weight_decay_at
from ddo_engine.schedule import Schedule
from ddo_engine.spec import JobSpec
from service.api.jobs.estimate import estimate

VARS = pytest.mark.parametrize("preset", ["var-d16", "var-d30"])
BODY = {
    "base_checkpoint": "s3://models/var.pth",
    "autoencoder": "s3://models/vqvae.pth",
    "dataset": {"uri": "s3://data/imagenet.zip"},
    "feature_network": "s3://models/inception.safetensors",
}


def job(preset: str, **changes: object) -> JobSpec:
    return JobSpec.model_validate(BODY | {"preset": preset} | changes)


@VARS
def test_var_preset_with_a_minimal_body_is_a_job_of_the_papers_size(preset: str) -> None:
    spec = job(preset)
    plan = estimate(spec, checkpoint_bytes=10)
    assert plan.units == {"validate": 1, "baseline": 1, "reference": 0, "trial": 20, "confirm": 0}
    assert spec.training.num_steps == 80
    assert plan.trained_images == 20 * 80 * 1024
    assert spec.sampler.nfe == 10


@VARS
def test_var_preset_evaluates_after_every_fourth_step(preset: str) -> None:
    schedule = Schedule(job(preset).training)
    assert [step for step in range(1, 81) if schedule.evaluates_at(step)] == list(range(4, 81, 4))


@VARS
def test_var_preset_samples_every_class_of_imagenet_50_times(preset: str) -> None:
    spec = job(preset)
    assert (spec.sampler.labels, spec.evaluation.seed % 1000, spec.evaluation.num_samples) == ("balanced", 0, 50 * 1000)


@VARS
def test_var_preset_evaluates_without_guidance_which_ranks_and_at_one_more_scale(preset: str) -> None:
    spec = job(preset)
    assert spec.evaluation.scales(spec.sampler) == (0.0, 1.5)
    assert spec.evaluation.ranking_scales(spec.sampler) == (0.0,)
    assert spec.evaluation.network_evaluations(spec.sampler) == 50_000 * (10 + 20)


@pytest.mark.parametrize(("preset", "last_share", "last_decay"), [("var-d16", 0.1, 0.05), ("var-d30", 0.01, 0.08)])
def test_var_preset_follows_vars_schedule(preset: str, last_share: float, last_decay: float) -> None:
    training = job(preset).training
    rates = [learning_rate_at(step, training) for step in range(80)]
    assert rates[0] == pytest.approx(0.005 * 4e-6)
    assert max(rates) == 4e-6
    assert rates[-1] == pytest.approx(last_share * 4e-6)
    assert [weight_decay_at(step, training) for step in (0, 79)] == pytest.approx([0.05, last_decay])


@VARS
def test_var_preset_gives_way_to_what_a_body_says(preset: str) -> None:
    stored = {"kind": "offline", "num_samples": 50_000}
    spec = job(preset, reference_set=stored, training={"precision": "bfloat16", "label_dropout": 0.1})
    assert spec.reference_set.model_dump() == stored | {"shards": 1}
    assert (spec.training.precision, spec.training.label_dropout) == ("bfloat16", 0.1)
    assert spec.training.batch_size == 1024
