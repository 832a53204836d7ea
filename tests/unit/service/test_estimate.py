"""The plan of a dry run counts what the engine's own schedule does."""

import pytest

from ddo_engine.schedule import Schedule
from ddo_engine.spec import JobSpec, TrainingSettings
from service.api.jobs.estimate import estimate, unit_cost
from service.api.jobs.step_costs import num_evaluations
from tests.job_rows import job_spec


@pytest.mark.parametrize(
    ("kimg", "batch_size", "every"),
    [
        (51.2, 256, 25.6),
        (76.8, 256, 25.6),
        (2.0, 100, 1.0),
        (2.0, 100, 0.3),
        (2.0, 100, 0.1),
        (2.0, 100, 0.01),
        (2.0, 100, 50.0),
        (1.0, 100, 0.99),
        (1.05, 100, 0.3),
        (1500, 512, 50),
        (0.7, 100, 0.7),
    ],
)
def test_num_evaluations_is_what_the_engine_does(kimg, batch_size, every) -> None:
    training = TrainingSettings(
        kimg=kimg, batch_size=batch_size, learning_rate=1e-3, ema_half_life_kimg=1.0, evaluate_every_kimg=every
    )
    schedule = Schedule(training)
    expected = sum(schedule.evaluates_at(step) for step in range(1, training.num_steps + 1))
    assert num_evaluations(training) == expected


def test_estimate_of_the_papers_trial_finds_evaluation_to_cost_most() -> None:
    spec = job_spec(
        rounds=1,
        grid={"alpha": [1.0], "beta": [0.05]},
        training={
            "kimg": 1500,
            "batch_size": 500,
            "learning_rate": 1.5e-4,
            "ema_half_life_kimg": 250,
            "evaluate_every_kimg": 50,
        },
        reference_set={"num_samples": 50_000},
        evaluation={"num_samples": 50_000},
    )
    cost = unit_cost(spec, 1)
    # training 12 M, evaluation 30 x 50 k x 35 = 52.5 M, reference set 1.75 M forward passes
    assert cost.trial == 12_000_000 + 52_500_000
    assert cost.reference == 1_750_000
    assert estimate(spec, checkpoint_bytes=10).network_evaluations == 12_000_000 + 52_500_000 + 2 * 1_750_000


def test_estimate_counts_no_more_finalists_than_trials() -> None:
    spec: JobSpec = job_spec(confirm={"num_samples": 80, "finalists": 16})
    assert estimate(spec, checkpoint_bytes=0).units["confirm"] == 2 * 2


def test_estimate_counts_online_fakes_in_the_trials_that_draw_them() -> None:
    changes = {
        "grid": {"alpha": [10.0], "beta": [0.02]},
        "sampler": {"kind": "autoregressive", "num_scales": 10, "guidance_scale": 1.5},
        "evaluation": {"num_samples": 50},
    }
    stored = job_spec(**changes, reference_set={"num_samples": 100})
    drawn = job_spec(**changes, reference_set={"kind": "online"})
    # 2000 images, each with a fake of ten scales without guidance
    assert unit_cost(drawn, 1).trial == unit_cost(stored, 1).trial + 2000 * 10
    assert (unit_cost(drawn, 1).reference, unit_cost(stored, 1).reference) == (0, 100 * 10)
    plan = estimate(drawn, checkpoint_bytes=0)
    assert plan.units["reference"] == 0
    assert plan.generated_images == estimate(stored, checkpoint_bytes=0).generated_images - 2 * 100 + 2 * 2000


def test_estimate_counts_rounds_with_their_own_settings() -> None:
    """Round 3 has half the trials, each of twice the length."""
    later = {"from_round": 3, "grid": {"alpha": [1.0], "beta": [0.5]}, "training": {"kimg": 4.0}}
    short, long = job_spec(rounds=2), job_spec(rounds=1, grid=later["grid"], training=_twice_as_long())
    both = estimate(job_spec(rounds=3, round_overrides=[later]), checkpoint_bytes=3)

    assert both.units == {"validate": 1, "baseline": 1, "reference": 6, "trial": 5, "confirm": 0}
    parts = [estimate(spec, checkpoint_bytes=3) for spec in (short, long)]
    assert both.trained_images == sum(part.trained_images for part in parts) == 4 * 2000 + 4000
    assert both.generated_images == sum(part.generated_images for part in parts) - 50
    assert both.network_evaluations == sum(part.network_evaluations for part in parts) - 50 * 35
    assert both.checkpoints == 1 + 4 * 2 + 4
    assert [(phase.first_round, phase.last_round, phase.trials) for phase in both.phases] == [(1, 2, 4), (3, 3, 1)]


# 20 steps of 100 images make a trial of ``job_spec``; its probe takes 16 of them, each row 8 forward passes
_PROBE = 1600 * 8


@pytest.mark.parametrize(
    ("known", "searched"),
    [([0.5], ["auto"]), ([0.5, 1.0], [0.5, "auto"]), ([0.1, 0.5, 1.0], ["auto", 0.5, 1.0])],
)
def test_estimate_counts_the_probe_of_every_trial_that_looks_for_its_beta(known, searched) -> None:
    plain, probed = (
        estimate(job_spec(grid={"alpha": [2.0, 4.0], "beta": beta}), checkpoint_bytes=0) for beta in (known, searched)
    )
    assert probed.network_evaluations - plain.network_evaluations == 2 * 2 * _PROBE
    # nothing of it is evaluated, kept, or part of the trial
    same = ("units", "trained_images", "generated_images", "checkpoints")
    assert [getattr(probed, name) for name in same] == [getattr(plain, name) for name in same]


def test_estimate_counts_a_probe_in_the_rounds_that_have_one_and_as_long_as_it_is_there() -> None:
    grid = {"alpha": [2.0, 4.0], "beta": ["auto"]}
    later = [{"from_round": 2, "grid": grid}, {"from_round": 3, "training": {"probe_kimg": 0.45}}]
    (plain,) = estimate(job_spec(rounds=1), checkpoint_bytes=0).phases
    phases = estimate(job_spec(rounds=3, round_overrides=later), checkpoint_bytes=0).phases
    more = [phase.network_evaluations - plain.network_evaluations for phase in phases]
    assert more == [0, 2 * _PROBE, 2 * 500 * 8]


def test_estimate_counts_the_fakes_that_a_probe_draws() -> None:
    changes = {
        "sampler": {"kind": "autoregressive", "num_scales": 10, "guidance_scale": 1.5},
        "reference_set": {"kind": "online"},
    }
    plain, probed = (
        estimate(job_spec(**changes, grid={"alpha": [2.0], "beta": beta}), checkpoint_bytes=0)
        for beta in ([0.5], ["auto"])
    )
    assert probed.network_evaluations - plain.network_evaluations == 2 * (_PROBE + 1600 * 10)
    assert probed.generated_images - plain.generated_images == 2 * 1600


def test_estimate_counts_what_averages_take_where_there_are_any() -> None:
    """From round 2 on, two trials a round write two averages at each of two evaluations, and hold them in the state."""
    later = {"from_round": 2, "training": {"ema_snapshot_stds": [0.05, 0.1]}}
    plain = estimate(job_spec(rounds=3), checkpoint_bytes=3)
    more = estimate(job_spec(rounds=3, round_overrides=[later]), checkpoint_bytes=3)
    assert (plain.snapshot_bytes, more.snapshot_bytes) == (0, 4 * 2 * 2 * 3)
    assert plain.state_bytes == 6 * 4 * 3
    assert more.state_bytes - plain.state_bytes == 4 * 2 * 3
    assert (more.checkpoints, more.checkpoint_bytes) == (plain.checkpoints, plain.checkpoint_bytes)


def _twice_as_long() -> dict[str, object]:
    return job_spec().training.model_dump() | {"kimg": 4.0}


def test_estimate_leaves_out_rounds_that_the_job_does_not_reach() -> None:
    spec = job_spec(round_overrides=[{"from_round": 3, "training": {"kimg": 400.0}}])
    assert estimate(spec, checkpoint_bytes=3) == estimate(job_spec(), checkpoint_bytes=3)


def test_estimate_counts_the_evaluations_that_measure_the_noise() -> None:
    plain, measured = (estimate(job_spec(stop=stop), checkpoint_bytes=0) for stop in ({}, {"noise_seeds": 4}))
    assert measured.network_evaluations - plain.network_evaluations == 4 * 50 * 35
    assert measured.generated_images - plain.generated_images == 4 * 50


def test_estimate_counts_every_guidance_scale_with_its_own_cost() -> None:
    def of(scales: list[float]) -> tuple[int, int]:
        spec = job_spec(
            rounds=1,
            evaluation={"num_samples": 50, "guidance_scales": scales},
            confirm={"num_samples": 80},
            stop={"noise_seeds": 2},
            baselines=[{"kind": "mle"}, {"kind": "guidance", "scales": [3.0]}],
        )
        size = estimate(spec, checkpoint_bytes=0)
        return size.generated_images, size.network_evaluations

    (images, passes), (more_images, more_passes) = of([]), of([2.0])
    # the base; two trials with two evaluations each, and a finalist; the baseline that trains, which is twice as long
    extra = (50 + 80) + 2 * 2 * 50 + 80 + 4 * 50 + 80
    assert (more_images - images, more_passes - passes) == (extra, extra * 2 * 35)
