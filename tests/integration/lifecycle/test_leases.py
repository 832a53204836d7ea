"""Claims, fences and budgets, with many hands at once."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, text, update

from ddo_engine.spec import (
    BetaFound,
    EvaluationSettings,
    FileRole,
    Metric,
    Performance,
    Progress,
    Started,
    TrainingWarning,
)
from service import leases, reports
from service.keys import object_file
from service.lifecycle import cancel_job
from service.models import Artifact, Evaluation, Event, Job, TrainingMetric, Trial, WorkUnit
from service.statuses import UnitKind
from service.transitions import LeaseLostError
from tests.job_rows import RowWorker, create_job, evaluated, file_written, job_spec

SEARCH = EvaluationSettings(num_samples=50)
GRID = {"alpha": [float(index) for index in range(1, 9)], "beta": [0.5]}


def _trial(sessions, spec=None) -> leases.Claim:
    """Claim the first trial of a new job."""
    create_job(sessions, spec)
    worker = RowWorker(sessions, lambda *_: 1.0)
    while (claimed := worker.claim()) is not None and claimed.kind is not UnitKind.TRIAL:
        worker.do(claimed)
    assert claimed is not None
    return claimed


def _unit(sessions, claimed) -> WorkUnit:
    with sessions() as session:
        return session.get_one(WorkUnit, claimed.unit_id)


def _do(sessions, call, *arguments, **named):
    with sessions.begin() as session:
        return call(session, *arguments, **named)


def test_claim_of_one_unit_by_a_hundred_deliveries_succeeds_once(sessions):
    create_job(sessions)
    with sessions() as session:
        unit_id = session.scalars(select(WorkUnit.id)).one()

    with ThreadPoolExecutor(16) as pool:
        claims = list(pool.map(lambda n: _do(sessions, leases.claim, f"w{n}", 30, unit_id), range(100)))

    (claimed,) = [claimed for claimed in claims if claimed is not None]
    assert claimed.attempt == 1


def test_claims_of_many_workers_never_share_a_unit(sessions):
    create_job(sessions, job_spec(grid=GRID))
    worker = RowWorker(sessions, lambda *_: 1.0)
    for _ in range(4):
        worker.step()

    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda n: _do(sessions, leases.claim, f"w{n}", 30), range(30)))

    taken = [claimed.unit_id for claimed in claims if claimed is not None]
    assert len(taken) == len(set(taken)) == 8


def test_claim_takes_turns_between_tenants(sessions):
    create_job(sessions, job_spec(grid=GRID), tenant="large")
    worker = RowWorker(sessions, lambda *_: 1.0)
    for _ in range(4):
        worker.step()
    small = create_job(sessions, tenant="small")

    first, second = _do(sessions, leases.claim, "a", 30), _do(sessions, leases.claim, "b", 30)

    assert first is not None
    assert first.job_id != small
    assert second is not None
    assert second.job_id == small


@pytest.mark.parametrize("status", ["paused", "cancelling", "failed", "cancelled"])
def test_claim_leaves_units_of_jobs_that_do_not_work(sessions, status):
    create_job(sessions)
    with sessions.begin() as session:
        session.execute(update(Job).values(status=status))
        unit_id = session.scalars(select(WorkUnit.id)).one()

    assert _do(sessions, leases.claim, "w", 30) is None
    assert _do(sessions, leases.claim, "w", 30, unit_id) is None


WARNING = TrainingWarning(code="discriminator_idle", message="raise beta", step=1, kimg=1.0)
STALE_WRITES = {
    "heartbeat": lambda session, old: leases.heartbeat(session, old, 30),
    "finish": leases.finish,
    "fail": lambda session, old: leases.fail(session, old, {"code": "diverged", "message": "late"}),
    "crash": lambda session, old: leases.crash(session, old, {"code": "x", "message": "late"}, max_crashes=3),
    "lose": lambda session, old: leases.lose(session, old, {"code": "x", "message": "late"}, max_crashes=3),
    "release": leases.release,
    "stop": leases.stop,
    "started": lambda session, old: reports.record_started(
        session, old, Started(command="train", device="cpu", torch_version="0")
    ),
    "progress": lambda session, old: reports.record_progress(session, old, Progress(phase="x", done=1, total=2)),
    "metric": lambda session, old: reports.record_metric(session, old, Metric(step=1, kimg=1, values={"loss": 1.0})),
    "evaluation": lambda session, old: reports.record_evaluation(session, old, evaluated(1.0, 0.1, SEARCH)),
    "checkpoint": lambda session, old: reports.record_checkpoint(
        session, old, file_written(FileRole.CHECKPOINT, "late", 1.0), "late"
    ),
    "state": lambda session, old: reports.record_state(
        session, old, file_written(FileRole.STATE, "late", 9.0), object_file("late", sha256="0" * 64, size_bytes=1)
    ),
    "beta": lambda session, old: reports.record_beta(session, old, BetaFound(beta=2.0, ratio_std=0.5, num_steps=1)),
    "warning": lambda session, old: reports.record_warning(session, old, WARNING),
    "performance": lambda session, old: reports.record_performance(
        session,
        old,
        Performance(step=1, kimg=1.0, images_per_second=5.0, peak_memory_bytes=7, memory="device"),
    ),
    "drop_state": lambda session, old: reports.drop_state(session, old, "late"),
    "artifact": lambda session, old: reports.record_artifact(
        session, old, file_written(FileRole.REFERENCE_SET, "late"), "late"
    ),
}


@pytest.mark.parametrize("write", STALE_WRITES)
@pytest.mark.parametrize("successor", ["running", "queued", "ended"])
def test_write_of_a_lost_attempt_is_rejected_and_changes_nothing(sessions, write, successor):
    old = _trial(sessions)
    with sessions.begin() as session:
        session.execute(update(WorkUnit).values(lease_expires_at=text("clock_timestamp() - interval '1 s'")))
    _do(sessions, leases.expire, old.unit_id, old.attempt, max_crashes=3)
    if successor != "queued":
        new = _do(sessions, leases.claim, "successor", 30, old.unit_id)
        assert new.attempt == 2
        if successor == "ended":
            _do(sessions, leases.finish, new)
    with sessions() as session:
        events = session.scalar(select(func.count()).select_from(Event))
        before = {name: value for name, value in vars(_unit(sessions, old)).items() if name[0] != "_"}

    with pytest.raises(LeaseLostError):
        _do(sessions, STALE_WRITES[write], old)

    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Event)) == events
        assert {name: value for name, value in vars(_unit(sessions, old)).items() if name[0] != "_"} == before


def test_expire_leaves_a_lease_that_was_renewed(sessions):
    claimed = _trial(sessions)

    with pytest.raises(LeaseLostError):
        _do(sessions, leases.expire, claimed.unit_id, claimed.attempt, max_crashes=3)

    assert _unit(sessions, claimed).status == "running"


def test_crashes_without_progress_exhaust_attempts_with_growing_pauses(sessions):
    claimed = _trial(sessions)
    error = {"code": "engine_killed", "message": "killed"}
    for crashes in (1, 2):
        _do(sessions, leases.crash, claimed, error, max_crashes=3)
        unit = _unit(sessions, claimed)
        assert (unit.status, unit.crashes) == ("queued", crashes)
        assert _do(sessions, leases.claim, "w", 30, claimed.unit_id) is None, "the pause was not kept"
        _do(sessions, lambda session: session.execute(update(WorkUnit).values(run_after=func.clock_timestamp())))
        claimed = _do(sessions, leases.claim, "w", 30, claimed.unit_id)

    _do(sessions, leases.crash, claimed, error, max_crashes=3)

    unit = _unit(sessions, claimed)
    assert (unit.status, unit.error["code"], unit.attempt) == ("failed", "attempts_exhausted", 3)


def test_saved_progress_restores_the_budget_and_repeated_progress_does_not(sessions):
    claimed = _trial(sessions)
    error = {"code": "engine_killed", "message": "killed"}

    def crash_after_state(kimg):
        nonlocal claimed
        event = file_written(FileRole.STATE, f"state {kimg}", kimg)
        file = object_file(f"state-{kimg}", sha256=event.sha256, size_bytes=1)
        _do(sessions, reports.record_state, claimed, event, file)
        _do(sessions, leases.crash, claimed, error, max_crashes=3)
        _do(sessions, lambda session: session.execute(update(WorkUnit).values(run_after=func.clock_timestamp())))
        claimed = _do(sessions, leases.claim, "w", 30, claimed.unit_id)
        return _unit(sessions, claimed).crashes if claimed else None

    assert [crash_after_state(kimg) for kimg in (1.0, 1.0, 2.0, 3.0, 3.0, 3.0)] == [1, 2, 1, 1, 2, None]


def test_progress_repeated_after_its_state_was_dropped_does_not_restore_the_budget(sessions):
    claimed = _trial(sessions)
    error = {"code": "engine_killed", "message": "killed"}
    attempts = 0
    while claimed is not None and attempts < 10:
        attempts += 1
        event = file_written(FileRole.STATE, f"state of attempt {attempts}", 1.0)
        file = object_file(f"state-{attempts}", sha256=event.sha256, size_bytes=1)
        _do(sessions, reports.record_state, claimed, event, file)
        _do(sessions, reports.drop_state, claimed, "unreadable")
        assert _unit(sessions, claimed).state is None
        _do(sessions, leases.crash, claimed, error, max_crashes=3)
        _do(sessions, lambda session: session.execute(update(WorkUnit).values(run_after=func.clock_timestamp())))
        claimed = _do(sessions, leases.claim, "w", 30, claimed.unit_id)

    assert attempts == 3


def test_lost_workers_are_given_two_attempts_more_than_crashes(sessions):
    claimed = _trial(sessions)
    attempts = 0
    while claimed is not None:
        attempts += 1
        _do(sessions, leases.lose, claimed, {"code": "disk_full", "message": "full"}, max_crashes=3)
        _do(sessions, lambda session: session.execute(update(WorkUnit).values(run_after=func.clock_timestamp())))
        claimed = _do(sessions, leases.claim, "w", 30, claimed.unit_id)

    assert attempts == 5


def test_release_costs_nothing_however_often(sessions):
    claimed = _trial(sessions)
    for _ in range(10):
        assert _do(sessions, leases.release, claimed) == [claimed.unit_id]
        claimed = _do(sessions, leases.claim, "w", 30, claimed.unit_id)

    assert _unit(sessions, claimed).crashes == 0


@pytest.mark.parametrize("end", ["release", "crash", "lose", "stop"])
def test_cancelled_unit_never_returns_to_the_queue(sessions, end):
    claimed = _trial(sessions)
    _do(sessions, cancel_job, claimed.job_id)
    assert _do(sessions, leases.heartbeat, claimed, 30) is True
    error = {"error": {"code": "x", "message": "x"}, "max_crashes": 3} if end in ("crash", "lose") else {}

    _do(sessions, getattr(leases, end), claimed, **error)

    assert _unit(sessions, claimed).status == "cancelled"
    with sessions() as session:
        job = session.get_one(Job, claimed.job_id)
        assert (job.status, job.termination_reason) == ("cancelled", "cancelled_by_user")
        cancelled = session.scalar(select(func.count()).where(Event.type == "job.cancelled"))
        assert cancelled == 1


def test_cancel_job_twice_or_after_its_end_changes_nothing(sessions):
    job_id = create_job(sessions, job_spec(rounds=1))
    RowWorker(sessions, lambda index, *_: 2.0 - index).run()

    _do(sessions, cancel_job, job_id)

    with sessions() as session:
        assert session.get_one(Job, job_id).status == "succeeded"


def test_replayed_reports_are_stored_once_and_differences_are_noted(sessions):
    claimed = _trial(sessions)
    metric = Metric(step=5, kimg=0.5, values={"loss": 1.0})
    checkpoint = file_written(FileRole.CHECKPOINT, "weights", 1.0)
    for _ in range(2):
        _do(sessions, reports.record_metric, claimed, metric)
        _do(sessions, reports.record_evaluation, claimed, evaluated(1.0, 3.0, SEARCH))
        _do(sessions, reports.record_checkpoint, claimed, checkpoint, "key")
    with sessions() as session:
        assert session.scalar(select(func.count()).where(Event.type == "unit.replay_mismatch")) == 0
        (stored,) = session.scalars(select(Evaluation).where(Evaluation.unit_id == claimed.unit_id)).all()
        assert stored.checkpoint_id is not None

    _do(sessions, reports.record_metric, claimed, metric.model_copy(update={"values": {"loss": 2.0}}))
    _do(sessions, reports.record_evaluation, claimed, evaluated(1.0, 4.0, SEARCH))
    _do(sessions, reports.record_checkpoint, claimed, file_written(FileRole.CHECKPOINT, "other", 1.0), "key 2")

    with sessions() as session:
        told = session.scalars(select(Event.data).where(Event.type == "unit.replay_mismatch")).all()
        assert [data["what"].split()[0] for data in told] == ["metric", "evaluation", "checkpoint"]
        assert session.get_one(TrainingMetric, (claimed.unit_id, 5)).values == {"loss": 1.0}
        (stored,) = session.scalars(select(Evaluation).where(Evaluation.unit_id == claimed.unit_id)).all()
        assert stored.metrics["fid"] == 3.0


def test_beta_and_warnings_of_a_trial_are_stored_once_and_differences_are_noted(sessions):
    claimed = _trial(sessions)
    found = BetaFound(beta=2.0, ratio_std=0.5, num_steps=3)
    other = TrainingWarning(code="loss_on_data_doubled", message="lower alpha", step=2, kimg=2.0)
    for _ in range(2):
        _do(sessions, reports.record_beta, claimed, found)
        _do(sessions, reports.record_warning, claimed, WARNING)
        _do(sessions, reports.record_warning, claimed, other)
    _do(sessions, reports.record_beta, claimed, found.model_copy(update={"beta": 3.0}))
    _do(sessions, reports.record_warning, claimed, WARNING.model_copy(update={"step": 9}))

    with sessions() as session:
        trial = session.scalars(select(Trial).where(Trial.unit_id == claimed.unit_id)).one()
        assert trial.found_beta == 2.0
        unit = session.get_one(WorkUnit, claimed.unit_id)
        assert [warning["code"] for warning in unit.warnings] == ["discriminator_idle", "loss_on_data_doubled"]
        assert unit.warnings[0]["step"] == 1
        for type_, count in (("trial.beta_found", 1), ("trial.warning", 2), ("unit.replay_mismatch", 2)):
            assert session.scalar(select(func.count()).where(Event.type == type_)) == count


def test_snapshots_of_a_trial_are_stored_by_name_and_are_no_reference_set(sessions):
    claimed = _trial(sessions)
    for name in ("snapshot-0.05-1.000.safetensors", "snapshot-0.1-1.000.safetensors"):
        for _ in range(2):
            _do(sessions, reports.record_artifact, claimed, file_written(FileRole.SNAPSHOT, name, 1.0), f"key/{name}")
    _do(sessions, leases.finish, claimed)
    with sessions() as session:
        stored = session.scalars(select(Artifact).where(Artifact.unit_id == claimed.unit_id).order_by(Artifact.name))
        assert [row.name for row in stored] == ["snapshot-0.05-1.000.safetensors", "snapshot-0.1-1.000.safetensors"]
        assert session.scalar(select(func.count()).where(Event.type == "unit.replay_mismatch")) == 0


def test_cancel_racing_claims_and_ends_leaves_nothing_open(sessions):
    """No deadlock, no unit left behind, exactly one end, whoever wins."""
    for _ in range(5):
        job_id = create_job(sessions, job_spec(grid=GRID))
        worker = RowWorker(sessions, lambda *_: 1.0)
        for _ in range(4):
            worker.step()

        def work(_):
            own = RowWorker(sessions, lambda *_: 1.0)
            while (claimed := own.claim()) is not None:
                try:
                    own.do(claimed)
                except LeaseLostError:
                    continue

        with ThreadPoolExecutor(6) as pool:
            working = [pool.submit(work, n) for n in range(5)]
            cancelling = pool.submit(_do, sessions, cancel_job, job_id)
            for done in [*working, cancelling]:
                done.result(30)
        with sessions() as session:
            statuses = set(session.scalars(select(WorkUnit.status).where(WorkUnit.job_id == job_id)))
            assert statuses <= {"succeeded", "cancelled"}
            ends = select(func.count()).where(Event.job_id == job_id)
            ends = ends.where(Event.type.in_(["job.succeeded", "job.failed", "job.cancelled"]))
            assert session.scalar(ends) == 1


def _baselines(sessions, count: int) -> list[leases.Claim]:
    """Do all of a job but its baselines, and claim these: continued training, and one evaluation."""
    baselines = [{"kind": "mle", "kimg": 1.0 + index} for index in range(count)]
    create_job(sessions, job_spec(rounds=1, baselines=[*baselines, {"kind": "guidance", "scales": [2.0]}]))
    worker = RowWorker(sessions, lambda *_: 1.0)
    while (claimed := worker.claim()) is not None and claimed.baseline_index is None:
        worker.do(claimed)
    assert claimed is not None
    return [claimed, *(claimed for _ in range(count) if (claimed := worker.claim()) is not None)]


def _waited(sessions, seconds: int) -> None:
    with sessions.begin() as session:
        ago = func.clock_timestamp() - text(f"interval '{seconds} seconds'")
        session.execute(update(WorkUnit).where(WorkUnit.status == "queued").values(run_after=ago))


def test_baseline_is_claimed_last_whoever_it_is_of(sessions):
    """Another tenant's job that came later goes first."""
    create_job(sessions, job_spec(rounds=1, baselines=[{"kind": "mle"}]))
    worker = RowWorker(sessions, lambda *_: 1.0)
    worker.step()
    create_job(sessions, job_spec(rounds=1), tenant="later")

    done = worker.run()

    assert done[-1].kind is UnitKind.BASELINE_TRIAL
    assert len({claimed.job_id for claimed in done}) == 2


def test_training_of_baselines_gives_way_to_as_many_units_of_rounds_as_wait(sessions):
    claims = _baselines(sessions, 3)

    def giving_way() -> list[UnitKind]:
        return [claimed.kind for claimed in claims if _do(sessions, leases.shall_give_way, claimed)]

    assert giving_way() == []
    for count in (1, 2):
        create_job(sessions, job_spec(rounds=1))
        assert len(giving_way()) == count - 1  # a worker without work would take it at once
        _waited(sessions, 60)
        assert giving_way() == [UnitKind.BASELINE_TRIAL] * count
    for _ in range(4):
        create_job(sessions, job_spec(rounds=1))
    _waited(sessions, 60)
    assert giving_way() == [UnitKind.BASELINE_TRIAL] * 3  # an evaluation would start anew


def test_units_of_rounds_and_baselines_that_wait_move_no_unit_of_rounds(sessions):
    claimed = _trial(sessions, job_spec(baselines=[{"kind": "mle"}]))
    create_job(sessions, job_spec(rounds=1))
    _waited(sessions, 60)
    assert not _do(sessions, leases.shall_give_way, claimed)
