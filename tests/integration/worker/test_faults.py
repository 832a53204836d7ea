"""What kills, freezes or deafens workers, with real processes."""

import os
import signal
import time

import psutil
import pytest
from sqlalchemy import func, select

from deploy.local.valkey import ValkeyServer
from service.models import Checkpoint, Event, TrainingMetric
from tests.job_rows import job_spec

ONE_TRIAL = {"alpha": [2.0], "beta": [0.5]}
TWO_TRIALS = {"alpha": [2.0, 666.0], "beta": [0.5]}


def _engine_pid(workplace, name: str) -> int:
    return int(next(line for line in reversed(workplace.runs) if line.startswith(name)).split()[-1])


def _has_state(workplace, kimg: float = 1.0) -> bool:
    (trial,) = workplace.units(kind="trial") or [None]
    return trial is not None and trial.state_kimg is not None and trial.state_kimg >= kimg


def _events(workplace, job_id: str) -> list[Event]:
    with workplace.sessions() as session:
        return list(session.scalars(select(Event).where(Event.job_id == job_id).order_by(Event.id)))


def _hashes(workplace, job_id: str) -> list[str]:
    with workplace.sessions() as session:
        statement = select(Checkpoint.sha256).where(Checkpoint.job_id == job_id)
        return sorted(session.scalars(statement))


@pytest.mark.slow
def test_worker_killed_mid_trial_successor_resumes_to_the_same_bytes(workplace):
    workplace.script(trial={"steps": 6})
    workplace.start_worker()
    undisturbed = workplace.submit(workplace.spec(grid=ONE_TRIAL))
    workplace.wait_for_end(undisturbed)
    workplace.script(trial={"steps": 6, "step_seconds": 0.5})
    disturbed = workplace.submit(workplace.spec(grid=ONE_TRIAL))
    workplace.wait_until(lambda: any(unit.state_kimg for unit in workplace.units(kind="trial", job_id=disturbed)))
    engine = psutil.Process(_engine_pid(workplace, "trial"))

    workplace.workers[0].kill()
    killed_at = time.monotonic()
    workplace.workers[0].wait()
    engine.wait(2)
    assert not engine.is_running()
    workplace.start_worker()
    workplace.wait_until(lambda: workplace.units(kind="trial", job_id=disturbed)[0].attempt == 2)
    requeued_after = time.monotonic() - killed_at
    workplace.wait_for_end(disturbed)

    assert requeued_after < 4.0 + 0.5 + 5.0  # lease, reconciler's interval, start of the successor
    assert int(workplace.runs[-1].split()[3]) > 0, "did not resume"
    assert _hashes(workplace, disturbed) == _hashes(workplace, undisturbed)
    types = [event.type for event in _events(workplace, disturbed)]
    assert types.count("job.succeeded") == 1
    assert "unit.replay_mismatch" not in types
    with workplace.sessions() as session:
        unit_id = workplace.units(kind="trial", job_id=disturbed)[0].id
        counted = session.scalar(select(func.count()).where(TrainingMetric.unit_id == unit_id))
    assert counted == 6


@pytest.mark.slow
def test_worker_terminated_hands_unit_back_at_no_cost_and_exits(workplace):
    workplace.script(trial={"steps": 8, "step_seconds": 0.3})
    worker = workplace.start_worker()
    job_id = workplace.submit(workplace.spec(grid=ONE_TRIAL))
    workplace.wait_until(lambda: _has_state(workplace))

    worker.terminate()
    asked_at = time.monotonic()
    assert worker.wait(10) == 0
    took = time.monotonic() - asked_at

    assert took < 5
    (trial,) = workplace.units(kind="trial")
    assert (trial.status, trial.crashes, trial.attempt) == ("queued", 0, 1)
    saved = trial.state_kimg
    assert not list((workplace.folder / "work" / "attempts").iterdir())
    workplace.start_worker()
    job = workplace.wait_for_end(job_id)
    assert job.status == "succeeded"
    assert workplace.runs[-1].startswith("trial 2.0 from " + str(int(saved)))
    requeued = [event for event in _events(workplace, job_id) if event.type == "unit.queued"]
    assert [event.data["reason"] for event in requeued] == ["preempted"]


@pytest.mark.slow
def test_worker_frozen_past_its_lease_writes_nothing_more(workplace):
    """SIGSTOP the worker alone: its engine goes on talking, a successor takes the unit, then the worker wakes up."""
    workplace.script(trial={"steps": 10, "step_seconds": 0.4})
    zombie = workplace.start_worker()
    job_id = workplace.submit(workplace.spec(grid=ONE_TRIAL))
    workplace.wait_until(lambda: _has_state(workplace))
    old_engine = psutil.Process(_engine_pid(workplace, "trial"))
    zombie.send_signal(signal.SIGSTOP)
    workplace.start_worker()
    workplace.wait_until(lambda: workplace.units(kind="trial")[0].attempt == 2)

    zombie.send_signal(signal.SIGCONT)

    old_engine.wait(5)
    job = workplace.wait_for_end(job_id)
    assert job.status == "succeeded"
    events = [event for event in _events(workplace, job_id) if event.unit_id == workplace.units(kind="trial")[0].id]
    taken_at = next(e.id for e in events if e.type == "unit.running" and e.data["attempt"] == 2)
    assert "'how': 'gone'" in workplace.log(0) or '"how": "gone"' in workplace.log(0)
    with workplace.sessions() as session:
        keys = session.scalars(select(Checkpoint.object_key).where(Checkpoint.unit_id.is_not(None))).all()
    late = [e for e in events if e.id > taken_at and e.type == "unit.started"]
    assert [e.data["attempt"] for e in late] == [2]
    assert [key for key in keys if "/attempt-1/" in key] == [
        f"{key}" for key in keys if float(key.split("checkpoint-")[1].split("-")[0]) <= _state_before(events, taken_at)
    ]


def _state_before(events: list[Event], event_id: int) -> float:
    return max(e.data["kimg"] for e in events if e.type == "unit.state_saved" and e.id < event_id)


@pytest.mark.slow
def test_queue_wiped_while_twenty_units_wait_all_run_once(workplace, valkey):
    job_ids = [workplace.submit(workplace.spec(grid=ONE_TRIAL), ring=True) for _ in range(20)]
    with valkey.connect() as client:
        assert client.llen("ddo-units") == 20
        client.flushall()

    for _ in range(2):  # with leases that a busy test machine cannot outlast
        workplace.start_worker(DDO_LEASE_SECONDS="30")
    for job_id in job_ids:
        assert workplace.wait_for_end(job_id, 90).status == "succeeded"

    units = workplace.units()
    assert len(units) == 20 * 4
    requeued = [event.data for job_id in job_ids for event in _events(workplace, job_id) if event.type == "unit.queued"]
    assert requeued == []
    assert {unit.attempt for unit in units} == {1}
    assert len(workplace.runs) == len(units)


@pytest.mark.slow
def test_broker_killed_running_unit_goes_on_and_waiting_ones_run(workplace):
    with ValkeyServer() as broker:
        workplace.script(trial={"steps": 8, "step_seconds": 0.3})
        worker = workplace.start_worker(DDO_BROKER_URL=broker.url(), DDO_LEASE_SECONDS="30")
        first = workplace.submit(workplace.spec(grid=ONE_TRIAL), ring=False)
        workplace.wait_until(lambda: _has_state(workplace))
        broker.process.kill()

        second = workplace.submit(workplace.spec(grid=ONE_TRIAL), ring=False)
        assert workplace.wait_for_end(first).status == "succeeded"
        assert workplace.wait_for_end(second).status == "succeeded"
        worker.terminate()
        assert worker.wait(10) == 0

    assert {unit.attempt for unit in workplace.units()} == {1}


@pytest.mark.slow
def test_database_away_for_longer_than_a_lease_engine_stops_itself_and_job_goes_on(workplace, postgres):
    workplace.script(trial={"steps": 12, "step_seconds": 0.3})
    workplace.start_worker()
    job_id = workplace.submit(workplace.spec(grid=ONE_TRIAL))
    workplace.wait_until(lambda: _has_state(workplace))
    engine = psutil.Process(_engine_pid(workplace, "trial"))

    postgres.stop()
    stopped_at = time.monotonic()
    try:
        engine.wait(10)
        stopped_itself_after = time.monotonic() - stopped_at
        time.sleep(max(0.0, 5.0 - stopped_itself_after))
    finally:
        postgres.start()
    job = workplace.wait_for_end(job_id)

    assert stopped_itself_after < 4.0, "the engine ran on after its lease"
    assert job.status == "succeeded"
    assert int(workplace.runs[-1].split()[3]) > 0, "did not resume"
    assert "unit.replay_mismatch" not in [event.type for event in _events(workplace, job_id)]


@pytest.mark.slow
def test_baseline_gives_way_to_a_job_that_comes_and_goes_on_where_it_was(workplace):
    workplace.script(mle={"steps": 200, "step_seconds": 0.2})
    workplace.start_worker()
    first = workplace.submit(workplace.spec(grid=ONE_TRIAL, baselines=[{"kind": "mle"}]))
    workplace.wait_until(lambda: any(unit.state_kimg for unit in workplace.units(kind="baseline_trial")))
    workplace.script(mle={"steps": 200})

    assert workplace.wait_for_end(workplace.submit(workplace.spec(grid=ONE_TRIAL))).status == "succeeded"

    assert workplace.wait_for_end(first).status == "succeeded"
    (unit,) = workplace.units(kind="baseline_trial")
    assert (unit.attempt, unit.crashes) == (2, 0)
    starts = [line.split()[2] for line in workplace.runs if line.startswith("mle")]
    assert starts[0] == "0"
    assert int(starts[1]) > 0, "did not resume"
    requeued = [event.data["reason"] for event in _events(workplace, first) if event.type == "unit.queued"]
    assert requeued == ["preempted"]
    assert "unit.replay_mismatch" not in {event.type for event in _events(workplace, first)}


@pytest.mark.slow
def test_poison_unit_fails_after_three_crashes_while_neighbours_finish(workplace):
    workplace.script(**{"trial 666.0": {"end": "abort"}})
    workplace.start_worker()
    job = workplace.wait_for_end(workplace.submit(workplace.spec(grid=TWO_TRIALS)))

    assert job.status == "succeeded"
    poison = next(unit for unit in workplace.units(kind="trial") if unit.position == 1)
    assert (poison.status, poison.attempt, poison.error["code"]) == ("failed", 3, "attempts_exhausted")
    assert "SIGABRT" in poison.error["message"]
    assert "about to abort" in poison.error["log_tail"]
    assert sum(run.startswith("trial 666.0") for run in workplace.runs) == 3


def test_poison_validation_fails_the_job(workplace):
    workplace.script(validate={"end": "silent_exit"})
    workplace.start_worker()
    job = workplace.wait_for_end(workplace.submit())

    assert (job.status, job.termination_reason) == ("failed", "attempts_exhausted")
    assert job.error["code"] == "attempts_exhausted"


@pytest.mark.parametrize("reason", ["diverged", "out_of_memory"])
def test_engine_error_that_cannot_pass_fails_at_once(workplace, reason):
    workplace.script(trial={"end": "diverge" if reason == "diverged" else "out_of_memory"})
    workplace.start_worker()
    job = workplace.wait_for_end(workplace.submit(workplace.spec(grid=ONE_TRIAL)))

    assert (job.status, job.termination_reason, job.error["code"]) == ("failed", reason, reason)
    assert job.error["message"].startswith("round 1, trial 0: ")
    assert [unit.attempt for unit in workplace.units(kind="trial")] == [1]


def test_engine_speaking_of_files_elsewhere_is_refused(workplace):
    workplace.script(trial={"end": "garbage", "only_attempts": 1})
    workplace.start_worker()
    job = workplace.wait_for_end(workplace.submit(workplace.spec(grid=ONE_TRIAL)))

    assert job.status == "succeeded"
    (trial,) = workplace.units(kind="trial")
    assert trial.attempt == 2
    requeued = [event.data for event in _events(workplace, job.id) if event.type == "unit.queued"]
    assert "outside its folder" in requeued[0]["message"]


@pytest.mark.parametrize("deaf", [False, True])
def test_cancel_running_job_stops_engine_within_ten_seconds(workplace, deaf):
    from service.lifecycle import cancel_job

    workplace.script(trial={"steps": 1000, "step_seconds": 0.2, "end": "hang" if deaf else None})
    workplace.start_worker()
    job_id = workplace.submit(workplace.spec(grid=TWO_TRIALS))
    workplace.wait_until(lambda: any(run.startswith("trial") for run in workplace.runs))
    engine = psutil.Process(_engine_pid(workplace, "trial"))

    cancelled_at = time.monotonic()
    with workplace.sessions.begin() as session:
        cancel_job(session, job_id)
    job = workplace.wait_for_end(job_id, 10)

    assert time.monotonic() - cancelled_at < 10
    assert (job.status, job.termination_reason) == ("cancelled", "cancelled_by_user")
    assert not engine.is_running()
    assert {unit.status for unit in workplace.units(kind="trial")} == {"cancelled"}


def test_silent_engine_is_ended(workplace):
    workplace.script(trial={"end": "hang", "only_attempts": 1})
    workplace.start_worker(DDO_STALL_SECONDS="1.5")
    job = workplace.wait_for_end(workplace.submit(workplace.spec(grid=ONE_TRIAL)))

    assert job.status == "succeeded"
    requeued = [event.data["reason"] for event in _events(workplace, job.id) if event.type == "unit.queued"]
    assert requeued == ["engine_stalled"]


@pytest.mark.slow
def test_damaged_state_in_store_starts_the_trial_anew(workplace):
    workplace.script(trial={"steps": 6, "step_seconds": 0.4})
    worker = workplace.start_worker()
    job_id = workplace.submit(workplace.spec(grid=ONE_TRIAL))
    workplace.wait_until(lambda: _has_state(workplace))
    worker.terminate()
    worker.wait(10)
    (trial,) = workplace.units(kind="trial")
    stored = workplace.folder / "store" / trial.state["uri"].removeprefix("object:")
    stored.chmod(0o600)
    stored.write_text("not what was saved")
    workplace.start_worker()

    job = workplace.wait_for_end(job_id)

    assert job.status == "succeeded"
    assert "unit.state_dropped" in [event.type for event in _events(workplace, job_id)]
    assert workplace.runs[-1].startswith("trial 2.0 from 0 ")


def test_input_damaged_in_the_store_is_replaced_by_the_next_job_that_brings_it(workplace):
    workplace.start_worker()
    assert workplace.wait_for_end(workplace.submit()).status == "succeeded"
    stored = list((workplace.folder / "store").glob("t/*/inputs/*"))
    original = {path: path.read_bytes() for path in stored}
    assert len(original) == 3
    for path in stored:
        path.chmod(0o600)
        path.write_bytes(b"damaged")

    assert workplace.wait_for_end(workplace.submit()).status == "succeeded"
    assert {path: path.read_bytes() for path in stored} == original


def test_missing_input_fails_validation_with_a_message(workplace):
    missing = job_spec(base_checkpoint=f"file://{workplace.folder}/inputs/none.safetensors")
    workplace.start_worker()

    job = workplace.wait_for_end(workplace.submit(missing))

    assert (job.status, job.termination_reason) == ("failed", "invalid_checkpoint")
    assert job.error["param"] == "base_checkpoint"
    assert not workplace.runs


def test_engine_gets_no_secrets(workplace):
    workplace.script(trial={"steps": 4, "step_seconds": 0.3})
    workplace.start_worker(AWS_SECRET_ACCESS_KEY="canary")
    workplace.submit(workplace.spec(grid=ONE_TRIAL))
    workplace.wait_until(lambda: any(run.startswith("trial") for run in workplace.runs))

    environment = psutil.Process(_engine_pid(workplace, "trial")).environ()

    assert not [name for name in environment if name.startswith(("DDO_", "AWS_"))]
    assert environment["LOG"] == os.fspath(workplace.folder / "runs.log")
