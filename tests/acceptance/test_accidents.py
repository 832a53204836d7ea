"""Accidents that must change nothing: a worker killed in the middle of a trial, the queue wiped."""

import time

import psutil
import pytest

from ddo_client import Client
from deploy.local.stack import LocalStack
from tests.acceptance.conftest import StartStack, TinyJob, client_of, wait_for, wait_for_end

# one trial of 1,000 steps, long enough to be hit in its middle, with 20 states
_LONG_TRIAL = {
    "grid": {"alpha": [2.0], "beta": [0.5]},
    "training": {
        "kimg": 16.0,
        "evaluate_every_kimg": 4.0,
        "save_state_every_kimg": 0.8,
        "ema_half_life_kimg": 1.6,
        # so long a trial on so few images learns them by heart, and would be ended for that
        "stop_when_saturated": False,
    },
}


def _attempts(client: Client, job_id: str) -> int:
    return client.rounds(job_id)[1].trials[0].attempt


def _saved_states(client: Client, job_id: str) -> int:
    return sum(event.type == "unit.state_saved" for event in client.events(job_id))


def _numbers(client: Client, job_id: str) -> list[tuple[float, float]]:
    return [(measured.kimg, measured.fid) for measured in client.metrics(job_id, 1, 0).evaluations]


def _weights(client: Client, job_id: str) -> dict[tuple[int, float], str]:
    return {(each.round_index, each.kimg): each.sha256 for each in client.checkpoints(job_id)}


def _engine_of(worker_pid: int) -> psutil.Process | None:
    return next((each for each in psutil.Process(worker_pid).children() if "ddo_engine" in each.cmdline()), None)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_worker_killed_in_the_middle_of_a_trial_changes_no_bit_of_the_result(
    start_stack: StartStack, tiny_job: TinyJob
) -> None:
    body = tiny_job.body(**_LONG_TRIAL)
    # production's leases: the promise of 30 s is made for them
    leases = {"DDO_LEASE_SECONDS": "20", "DDO_HEARTBEAT_SECONDS": "5", "DDO_RECONCILE_SECONDS": "5"}
    with start_stack(settings=leases) as stack, client_of(stack) as client:
        undisturbed = wait_for_end(stack, client, client.submit(body).id, 180)
        assert undisturbed.status == "succeeded"

        job_id = client.submit(body).id
        wait_for(stack, "a saved state", lambda: _saved_states(client, job_id) > 0)
        engine = _engine_of(stack.workers[0].pid)
        assert engine is not None
        stack.workers[0].kill()
        killed_at = time.monotonic()
        stack.workers[0].wait(5)
        psutil.wait_procs([engine], timeout=5)
        assert not engine.is_running()

        stack.start_worker()
        wait_for(stack, "a new attempt", lambda: _attempts(client, job_id) == 2)
        assert time.monotonic() - killed_at < 30
        disturbed = wait_for_end(stack, client, job_id, 180)
        assert disturbed.status == "succeeded"
        resumed = [
            event.data.get("resumed_from_kimg") for event in client.events(job_id) if event.type == "unit.started"
        ]
        assert 0 < max(kimg or 0 for kimg in resumed) < 16

        assert len(_numbers(client, job_id)) == 4
        assert _numbers(client, job_id) == _numbers(client, undisturbed.id)
        weights = _weights(client, job_id)
        assert weights == _weights(client, undisturbed.id)
        assert any(kimg > max(kimg or 0 for kimg in resumed) for _, kimg in weights), "nothing was kept after the kill"
        assert client.best(job_id).sha256 == client.best(undisturbed.id).sha256
        assert client.best(job_id).fid == client.best(undisturbed.id).fid
        assert not [event for event in client.events(job_id) if event.type == "unit.replay_mismatch"]


def _wipe(stack: LocalStack) -> None:
    with stack.valkey.connect() as broker:
        assert broker.dbsize() > 0, "nothing was queued: the test would prove nothing"
    stack.valkey.process.kill()
    stack.valkey.process.wait(5)
    stack.valkey.start()
    with stack.valkey.connect() as broker:
        assert broker.dbsize() == 0


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_queue_wiped_while_twenty_units_wait_every_unit_runs_once(start_stack: StartStack, tiny_job: TinyJob) -> None:
    # a job on a damaged dataset is one unit: it ends with the validation
    damaged = tiny_job.inputs.folder / "cut-short.zip"
    damaged.write_bytes(tiny_job.inputs.dataset.read_bytes()[:1000])
    with start_stack(num_workers=0) as stack, client_of(stack) as client:
        jobs = [client.submit(tiny_job.body(dataset={"uri": damaged.as_uri()}, name=str(index))) for index in range(20)]
        _wipe(stack)
        for _ in range(2):
            stack.start_worker()
        for job in jobs:
            ended = wait_for_end(stack, client, job.id, 240)
            assert (ended.status, ended.termination_reason) == ("failed", "invalid_dataset")
            types = [event.type for event in client.events(job.id)]
            assert types.count("unit.running") == types.count("unit.started") == types.count("unit.failed") == 1
        for process in (stack.api, *stack.workers):
            process.ensure_running()
