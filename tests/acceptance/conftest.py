"""The whole service as processes, and a job small enough to run through it in seconds.

Tests take ``start_stack`` and ``tiny_job``::

    def test_…(start_stack: StartStack, tiny_job: TinyJob) -> None:
        with start_stack(num_workers=2) as stack, client_of(stack) as client:
            job = client.submit(tiny_job.body())
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from ddo_client import Client
from ddo_client.models import Job
from deploy.local.stack import LocalStack
from tests.engine_inputs import EngineInputs, make_inputs, merged
from tests.servers.s3 import Bucket

# leases short enough to see a worker's death noticed, long enough for a busy machine
FAST_LEASES = {"DDO_LEASE_SECONDS": "6", "DDO_HEARTBEAT_SECONDS": "1", "DDO_RECONCILE_SECONDS": "1"}


class StartStack(Protocol):
    """Starts nothing yet: ``with`` does."""

    def __call__(self, *, num_workers: int = 1, settings: Mapping[str, str] | None = None) -> LocalStack: ...


@dataclass(frozen=True)
class TinyJob:
    """Inputs of a job on 4×4 images, and its body."""

    inputs: EngineInputs

    def body(self, **changes: Any) -> dict[str, Any]:
        """Return the body of ``POST /jobs``: one round of two trials of 8 steps; ``...`` removes a field."""
        body = {
            "base_checkpoint": self.inputs.checkpoint.as_uri(),
            "dataset": {"uri": self.inputs.dataset.as_uri()},
            "feature_network": self.inputs.feature_network.as_uri(),
            "rounds": 1,
            "grid": {"alpha": [2.0, 4.0], "beta": [0.5]},
            "training": {
                "kimg": 0.128,
                "batch_size": 16,
                "learning_rate": 1e-2,
                "ema_half_life_kimg": 0.032,
                "evaluate_every_kimg": 0.064,
            },
            "sampler": {"num_steps": 3, "batch_size": 64},
            "reference_set": {"num_samples": 64},
            "evaluation": {"num_samples": 48},
            "seed": 3,
        }
        return merged(body, changes)


def client_of(stack: LocalStack) -> Client:
    """Return a client of a running stack."""
    return Client(stack.url, stack.api_key)


def wait_for(stack: LocalStack, what: str, condition: Callable[[], bool], timeout_seconds: float = 60) -> None:
    """Wait until ``condition()``; on the way, fail with the log of the API if it ended."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        stack.api.ensure_running()
        assert time.monotonic() < deadline, f"{what}: not within {timeout_seconds:g} s; logs are in {stack.logs}"
        time.sleep(0.1)


def wait_for_end(stack: LocalStack, client: Client, job_id: str, timeout_seconds: float = 90) -> Job:
    """Wait until a job has ended and return it."""
    wait_for(stack, f"end of {job_id}", lambda: client.job(job_id).has_ended, timeout_seconds)
    return client.job(job_id)


@pytest.fixture(scope="session")
def tiny_job(tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    """A job that takes seconds; its inputs lie in a folder from which every stack may read."""
    return TinyJob(make_inputs(tmp_path_factory.mktemp("inputs")))


@pytest.fixture(params=["local"])
def storage(request: pytest.FixtureRequest) -> str:
    """Where the stack keeps objects; ``@pytest.mark.parametrize("storage", ["local", "swift"], indirect=True)``."""
    return str(request.param)


@pytest.fixture
def start_stack(request: pytest.FixtureRequest, tiny_job: TinyJob, storage: str) -> Iterator[StartStack]:
    """Start the whole service as processes, on one engine thread a worker."""
    bucket: Bucket | None = request.getfixturevalue("swift") if storage == "swift" else None

    def start(*, num_workers: int = 1, settings: Mapping[str, str] | None = None) -> LocalStack:
        common = {"DDO_ENGINE_THREADS": "1", **FAST_LEASES, **(bucket.environment() if bucket else {})}
        return LocalStack(
            num_workers=num_workers,
            input_roots=[Path(tiny_job.inputs.folder)],
            settings={**common, **(settings or {})},
        )

    return start
