"""Units that two processes do together, and a worker that dies in the middle of one."""

import psutil
import pytest

from ddo_client import Client
from tests.acceptance.conftest import StartStack, TinyJob, client_of, wait_for, wait_for_end
from tests.processes import is_running

_TRIAL = {
    "grid": {"alpha": [2.0], "beta": [0.5]},
    "training": {
        "kimg": 16.0,
        "evaluate_every_kimg": 8.0,
        "save_state_every_kimg": 0.8,
        "ema_half_life_kimg": 1.6,
        "stop_when_saturated": False,
    },
}


def _saved_states(client: Client, job_id: str) -> int:
    return sum(event.type == "unit.state_saved" for event in client.events(job_id))


def _engine_processes(worker_pid: int) -> list[int]:
    return [each.pid for each in psutil.Process(worker_pid).children(recursive=True) if "ddo_engine" in each.cmdline()]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_job_of_a_worker_with_two_processes_survives_the_death_of_the_worker(
    start_stack: StartStack, tiny_job: TinyJob
) -> None:
    with start_stack(settings={"DDO_PROCESSES_PER_UNIT": "2"}) as stack, client_of(stack) as client:
        job_id = client.submit(tiny_job.body(**_TRIAL)).id
        wait_for(stack, "a saved state", lambda: _saved_states(client, job_id) > 0, 180)
        engine = _engine_processes(stack.workers[0].pid)
        assert len(engine) == 3, "torchrun and two ranks"

        stack.workers[0].kill()
        stack.workers[0].wait(5)
        wait_for(stack, "the end of all processes", lambda: not any(map(is_running, engine)), 10)

        stack.start_worker()
        ended = wait_for_end(stack, client, job_id, 180)
        assert ended.status == "succeeded", ended.error
        started = [event.data for event in client.events(job_id) if event.type == "unit.started"]
        assert max(data.get("resumed_from_kimg") or 0 for data in started) > 0
        assert len(client.metrics(job_id, 1, 0).evaluations) == 2
