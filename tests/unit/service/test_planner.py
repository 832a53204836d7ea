"""What the planner puts into specs, and what it says when a job ends badly."""

from itertools import pairwise

import pytest

from ddo_engine.spec import EvaluateSpec, EvaluationSettings, FileRef, GenerateSpec, TrainSpec
from service.seeds import reference_set_seed, trial_seed
from service.statuses import JobStatus, RoundStatus, TerminationReason, UnitKind, UnitStatus
from tests.job_rows import job_spec
from tests.unit.service import planner_model
from tests.unit.service.planner_model import INPUTS, JobModel, file


def _run(job: JobModel, unit_id: str, fids: list[float] | None = None) -> None:
    job.claim(job.unit(unit_id))
    job.succeed(job.unit(unit_id), fids or [1.0])


def _to_trials(job: JobModel) -> None:
    for unit_id in ("validate-None-0", "baseline-0-0", "reference-1-0", "reference-1-1"):
        _run(job, unit_id, [10.0])


def test_plan_baseline_measures_search_and_confirm_protocol():
    job = JobModel(job_spec(confirm={"num_samples": 500, "seed": 9}))
    _run(job, "validate-None-0")

    spec = job.specs["baseline-0-0"]

    assert isinstance(spec, EvaluateSpec)
    assert [(item.num_samples, item.seed) for item in spec.evaluations] == [(50, 0), (500, 9)]


def test_plan_statistics_go_to_all_who_measure(monkeypatch):
    uri = "file:///data/statistics.npz"
    monkeypatch.setattr(planner_model, "INPUTS", INPUTS.model_copy(update={"reference_statistics": file("statistics")}))
    job = JobModel(job_spec(reference_statistics=uri, confirm={"num_samples": 500}, baselines=[{"kind": "mle"}]))
    assert job.specs["validate-None-0"].reference_statistics == FileRef(uri=uri)
    _to_trials(job)
    measuring = [spec for spec in job.specs.values() if isinstance(spec, EvaluateSpec | TrainSpec)]
    assert {spec.kind for spec in measuring} == {"evaluate", "trial"}
    assert {spec.reference_statistics for spec in measuring} == {file("statistics")}


def test_plan_reference_shards_cover_the_set_without_overlap():
    job = JobModel(job_spec())
    _run(job, "validate-None-0")

    shards = [job.specs[f"reference-1-{shard}"] for shard in range(2)]

    assert all(isinstance(shard, GenerateSpec) for shard in shards)
    seeds = [seed for shard in shards for seed in range(shard.first_seed, shard.first_seed + shard.num_samples)]
    assert seeds == list(range(seeds[0], seeds[0] + 101))


def test_plan_online_fakes_need_no_reference_units():
    online = {"kind": "online", "decode": False}
    job = JobModel(job_spec(reference_set=online, sampler={"kind": "autoregressive"}))
    _run(job, "validate-None-0")

    assert not [unit for unit in job.view.units if unit.kind is UnitKind.REFERENCE]
    assert job.view.rounds[1].status is RoundStatus.TRAINING
    trial = job.specs["trial-1-0"]
    assert isinstance(trial, TrainSpec)
    assert trial.reference_set == ()
    assert trial.online_reference_set.model_dump() == {"kind": "online", "decode": False, "batch_size": 64}


def test_reference_seeds_of_online_fakes_do_not_exist():
    with pytest.raises(ValueError, match="online"):
        reference_set_seed(job_spec(reference_set={"kind": "online"}, sampler={"kind": "autoregressive"}), 1)


def test_plan_trials_follow_the_grid():
    job = JobModel(job_spec())
    _to_trials(job)

    trials = [job.specs[f"trial-1-{position}"] for position in range(2)]

    assert all(isinstance(trial, TrainSpec) for trial in trials)
    assert [trial.objective.alpha for trial in trials] == [2.0, 4.0]
    assert trials[0].seed != trials[1].seed


@pytest.mark.parametrize("hashed", [0, 2**31 - 2**20 - 10**9, 2**64 - 1])
def test_reference_seeds_wherever_their_range_starts_meet_no_other_seed(monkeypatch, hashed):
    monkeypatch.setattr("service.seeds._hash", lambda _: hashed)
    spec = job_spec(rounds=100, reference_set={"num_samples": 10_000_000})

    assert reference_set_seed(spec, 1) > 2**31 - 1 + 1_000_000
    assert reference_set_seed(spec, 100) + 10_000_000 <= 2**32


def test_reference_seeds_follow_the_seed_of_the_job():
    assert len({reference_set_seed(job_spec(seed=seed), 1) for seed in range(10)}) == 10


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1])
def test_reference_seeds_of_the_largest_job_meet_no_other_seed(seed):
    spec = job_spec(seed=seed, rounds=100, reference_set={"num_samples": 10_000_000})

    firsts = [reference_set_seed(spec, index) for index in range(1, 101)]

    assert all(after - before == 10_000_000 for before, after in pairwise(firsts))
    assert firsts[0] > 2**31 - 1 + 1_000_000  # largest evaluation seed plus largest num_samples
    assert firsts[-1] + 10_000_000 <= 2**32


def test_trial_seeds_are_distinct_and_stay():
    spec = job_spec(seed=3)

    seeds = [trial_seed(spec, index, position) for index in range(1, 25) for position in range(20)]

    assert len(set(seeds)) == len(seeds)
    assert trial_seed(spec, 1, 0) == 405664147
    assert trial_seed(job_spec(seed=4), 1, 0) != seeds[0]


@pytest.mark.parametrize("kind", ["validate", "baseline", "reference", "confirm"])
def test_plan_failure_of_an_indispensable_unit_fails_the_job(kind):
    job = JobModel(job_spec(confirm={"num_samples": 500}))
    if kind != "validate":
        _run(job, "validate-None-0")
    if kind == "confirm":
        _run(job, "baseline-0-0")
        for unit_id in ("reference-1-0", "reference-1-1", "trial-1-0", "trial-1-1"):
            _run(job, unit_id)
    unit = next(unit for unit in job.with_status(UnitStatus.QUEUED) if unit.kind == kind)
    job.claim(unit)

    job.fail(unit, "out_of_memory", [])

    (end,) = job.ends
    assert (job.view.status, end.reason) == (JobStatus.FAILED, TerminationReason.OUT_OF_MEMORY)
    assert end.error["message"].endswith("it failed.")
    failed = [item.index for item in job.view.rounds if item.status is RoundStatus.FAILED]
    assert failed == ([] if unit.round_index is None else [unit.round_index])


def test_plan_one_failed_trial_is_tolerated_and_its_checkpoints_count():
    job = JobModel(job_spec(rounds=1))
    _to_trials(job)
    _run(job, "trial-1-0", [9.0])
    job.claim(job.unit("trial-1-1"))

    job.fail(job.unit("trial-1-1"), "diverged", [3.0])

    assert job.view.status is JobStatus.SUCCEEDED
    assert job.ends[0].best_checkpoint_id == "trial-1-1-0"


def test_plan_all_trials_failed_gives_the_reason_of_the_first():
    job = JobModel(job_spec())
    _to_trials(job)
    for position, code in ((1, "out_of_memory"), (0, "diverged")):
        unit = job.unit(f"trial-1-{position}")
        job.claim(unit)
        job.fail(unit, code, [])

    assert (job.view.status, job.ends[0].reason) == (JobStatus.FAILED, TerminationReason.DIVERGED)
    assert job.ends[0].error["message"] == "round 1, trial 0: it failed."
    assert job.view.rounds[1].status is RoundStatus.FAILED


def test_plan_differing_protocols_are_never_ranked():
    job = JobModel(job_spec(rounds=1))
    _to_trials(job)
    for position in range(2):
        unit = job.unit(f"trial-1-{position}")
        job.claim(unit)
        if position == 1:
            other = EvaluationSettings(num_samples=999)  # another number of samples: another fingerprint
            job._add_evaluation(unit, "base", 0.0, other, 1.0)
        job.succeed(job.unit(unit.id), [5.0])

    assert (job.view.status, job.ends[0].reason) == (JobStatus.FAILED, TerminationReason.ENGINE_ERROR)
    assert "more than one protocol" in job.ends[0].error["message"]


def test_plan_equal_fids_are_decided_by_the_grid_not_by_the_race():
    for order in ((0, 1), (1, 0)):
        job = JobModel(job_spec(rounds=1))
        _to_trials(job)
        for position in order:
            _run(job, f"trial-1-{position}", [4.0, 4.0])
        assert job.ends[0].best_checkpoint_id == "trial-1-0-0"


def test_plan_cancel_waits_for_running_units_only():
    job = JobModel(job_spec())
    _run(job, "validate-None-0")
    job.claim(job.unit("baseline-0-0"))

    job.cancel()

    assert job.view.status is JobStatus.CANCELLING
    assert job.unit("baseline-0-0").cancel_requested
    assert job.unit("reference-1-0").status is UnitStatus.CANCELLED
    job.stop(job.unit("baseline-0-0"))
    assert (job.view.status, job.ends[0].reason) == (JobStatus.CANCELLED, TerminationReason.CANCELLED_BY_USER)
    assert {unit.kind for unit in job.view.units} == {UnitKind.VALIDATE, UnitKind.BASELINE, UnitKind.REFERENCE}


CURVE = {"num_samples": 50, "guidance_scales": [2.0]}


def _with_curves(rank_by: str, at_two: dict[float, float]) -> JobModel:
    """A job of one round whose trials are next, which gives each FID the one of the table at a scale of 2."""
    job = JobModel(job_spec(rounds=1, evaluation={**CURVE, "rank_by": rank_by}))
    job.at_scale = lambda fid, scale: at_two[fid]
    _to_trials(job)
    return job


@pytest.mark.parametrize(("rank_by", "best"), [("sampler_scale", "trial-1-0-0"), ("best_scale", "trial-1-1-0")])
def test_plan_ranks_by_the_samplers_scale_or_by_the_best(rank_by: str, best: str):
    job = _with_curves(rank_by, {10.0: 9.0, 5.0: 8.0, 6.0: 4.0})
    _run(job, "trial-1-0", [5.0])
    _run(job, "trial-1-1", [6.0])

    assert job.ends[0].best_checkpoint_id == best


def test_plan_best_scale_of_the_base_is_what_a_round_must_beat():
    job = _with_curves("best_scale", {10.0: 3.0, 5.0: 8.0, 6.0: 4.0})
    _run(job, "trial-1-0", [5.0])
    _run(job, "trial-1-1", [6.0])

    assert job.ends[0].reason is TerminationReason.NO_IMPROVEMENT
    assert job.ends[0].message == "The last round did not bring the FID below 3."


@pytest.mark.parametrize(("rank_by", "best"), [("sampler_scale", "trial-1-1-0"), ("best_scale", "trial-1-0-0")])
def test_plan_checkpoint_without_its_whole_curve_is_ranked_at_the_samplers_scale_only(rank_by: str, best: str):
    """The second trial diverges before it has measured at 2."""
    job = _with_curves(rank_by, {10.0: 9.0, 5.0: 8.0, 3.0: 2.0})
    _run(job, "trial-1-0", [5.0])
    job.claim(job.unit("trial-1-1"))
    job.fail(job.unit("trial-1-1"), "diverged", [3.0])

    assert job.ends[0].best_checkpoint_id == best


def test_plan_measures_curves_everywhere_but_the_noise_only_where_it_ranks():
    def scales(rank_by: str) -> list[tuple[float, ...]]:
        spec = job_spec(evaluation={**CURVE, "rank_by": rank_by}, confirm={"num_samples": 500}, stop={"noise_seeds": 2})
        job = JobModel(spec)
        _to_trials(job)
        assert job.specs["trial-1-0"].evaluation == spec.evaluation
        return [each.guidance_scales for each in job.specs["baseline-0-0"].evaluations]

    assert scales("sampler_scale") == [(2.0,), (2.0,), (), ()]
    assert scales("best_scale") == [(2.0,)] * 4


def test_plan_baselines_of_another_sampler_have_one_scale_and_trained_ones_the_curve():
    baselines = [{"kind": "mle"}, {"kind": "guidance", "scales": [3.0]}]
    job = JobModel(job_spec(evaluation=CURVE, baselines=baselines))
    _to_trials(job)

    assert job.specs["baseline_trial-b0-0"].evaluation.guidance_scales == (2.0,)
    (evaluation,) = job.specs["baseline_evaluation-b1-0"].evaluations
    assert (evaluation.num_samples, evaluation.guidance_scales) == (50, ())
