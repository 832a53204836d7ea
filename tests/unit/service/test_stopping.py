"""When a job ends before its last round, what it starts from after a round that brought nothing, and what it says."""

import pytest

from ddo_engine.spec import EvaluateSpec, JobSpec
from service.statuses import JobStatus, TerminationReason
from service.stopping import noise_protocols
from tests.job_rows import job_spec
from tests.unit.service.planner_model import JobModel


def _played(spec: JobSpec, *fids: float, base: tuple[float, ...] = (10.0,)) -> JobModel:
    """A job whose rounds end in these FIDs."""
    job = JobModel(spec)
    for unit_id in ("validate-None-0", "baseline-0-0"):
        _run(job, unit_id, base)
    for index, fid in enumerate(fids, start=1):
        for kind, position in (("reference", 0), ("reference", 1), ("trial", 0), ("trial", 1)):
            _run(job, f"{kind}-{index}-{position}", (fid + position,))
    return job


def _run(job: JobModel, unit_id: str, fids: tuple[float, ...]) -> None:
    job.claim(job.unit(unit_id))
    job.succeed(job.unit(unit_id), list(fids))


def _references(job: JobModel) -> list[str | None]:
    return [item.reference_id for item in job.view.rounds[1:]]


def test_stop_by_default_is_after_the_first_round_that_brings_nothing() -> None:
    job = _played(job_spec(rounds=5), 9.0, 9.0)

    (end,) = job.ends
    assert (end.target, end.reason) == (JobStatus.SUCCEEDED, TerminationReason.NO_IMPROVEMENT)
    assert end.best_checkpoint_id == "trial-1-0-0"
    assert end.message == "The last round did not bring the FID below 9."


def test_stop_with_patience_goes_on_from_the_best_so_far() -> None:
    job = _played(job_spec(rounds=5, stop={"patience_rounds": 2}), 9.0, 9.5, 8.0)

    assert job.ends == []
    assert _references(job) == ["base", "trial-1-0-0", "trial-1-0-0", "trial-3-0-0"]


def test_stop_patience_counts_rounds_in_a_row() -> None:
    job = _played(job_spec(rounds=9, stop={"patience_rounds": 2}), 9.0, 9.5, 8.0, 8.5, 8.0)

    assert job.ends[0].reason is TerminationReason.NO_IMPROVEMENT
    assert job.ends[0].best_checkpoint_id == "trial-3-0-0"
    assert job.ends[0].message == "The last 2 rounds did not bring the FID below 8."


def test_stop_a_gain_below_the_least_does_not_count_but_is_kept() -> None:
    job = _played(job_spec(rounds=5, stop={"min_improvement": 0.5}), 9.6)

    assert job.ends[0].reason is TerminationReason.NO_IMPROVEMENT
    assert job.ends[0].best_checkpoint_id == "trial-1-0-0"
    assert job.ends[0].message == "The last round did not bring the FID below 10 by more than 0.5; the lowest is 9.6."


def test_stop_small_gains_add_up_until_they_count() -> None:
    job = _played(job_spec(rounds=9, stop={"min_improvement": 0.5, "patience_rounds": 2}), 9.7, 9.4, 9.1, 8.8)

    assert job.ends == []
    assert _references(job)[-1] == "trial-4-0-0"


@pytest.mark.parametrize(("fid", "goes_on"), [(9.8, False), (9.7, True)])
def test_stop_a_gain_must_exceed_twice_the_given_noise(fid: float, goes_on: bool) -> None:
    job = _played(job_spec(rounds=5, stop={"evaluation_noise": 0.11}), fid)

    assert (job.ends == []) is goes_on
    if not goes_on:
        assert "more than 0.22, twice the given noise of the evaluation" in job.ends[0].message


@pytest.mark.parametrize(("fid", "goes_on"), [(9.81, False), (9.79, True)])
def test_stop_noise_is_measured_on_the_base(fid: float, goes_on: bool) -> None:
    # 10, 10.1 and 9.9 have a standard deviation of 0.1
    job = _played(job_spec(rounds=5, stop={"noise_seeds": 2}), fid, base=(10.0, 10.1, 9.9))

    spec = job.specs["baseline-0-0"]
    assert isinstance(spec, EvaluateSpec)
    assert [protocol.seed for protocol in spec.evaluations] == [0, 50, 100]
    assert (job.ends == []) is goes_on


def test_noise_protocols_are_the_deciding_one_on_latents_of_their_own() -> None:
    confirm = {"num_samples": 1_000_000, "seed": 2**31 - 1}
    protocols = noise_protocols(job_spec(confirm=confirm, stop={"noise_seeds": 3}))

    assert [(item.num_samples, item.seed) for item in protocols] == [
        (1_000_000, 999_999),
        (1_000_000, 1_999_999),
        (1_000_000, 2_999_999),
    ]
    assert noise_protocols(job_spec()) == []


def test_job_that_plays_all_rounds_says_where_the_fid_has_come_to() -> None:
    job = _played(job_spec(rounds=2), 9.0, 8.25)

    assert (job.ends[0].reason, job.ends[0].message) == (
        TerminationReason.COMPLETED,
        "All 2 rounds done: the FID has come to 8.25.",
    )
