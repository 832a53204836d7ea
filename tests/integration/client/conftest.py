"""A running API whose jobs are done by rows alone, and the ``ddo`` command as people start it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session, sessionmaker

from ddo_client import Client
from deploy.local.stack import LocalStack
from tests.job_rows import RowWorker


@dataclass(frozen=True)
class Service:
    """The API, a client of it, and a worker without an engine."""

    stack: LocalStack
    client: Client
    inputs: Path
    sessions: sessionmaker[Session]

    def worker(self) -> RowWorker:
        """Return a worker that claims what waits; trials get better with every round, the base has FID 9."""
        return RowWorker(
            self.sessions, lambda round_, trial, kimg, samples: 9.0 if trial < 0 else 8.0 - round_ - kimg / 10
        )

    def body(self, **changes: object) -> dict[str, object]:
        """Return a valid job of two rounds with two trials each."""
        body: dict[str, object] = {
            "name": "digits [red]",
            "base_checkpoint": (self.inputs / "base.safetensors").as_uri(),
            "dataset": {"uri": (self.inputs / "data.zip").as_uri()},
            "feature_network": (self.inputs / "features.safetensors").as_uri(),
            "rounds": 2,
            "grid": {"alpha": [2.0, 4.0], "beta": [0.5]},
            "training": {
                "kimg": 2.0,
                "batch_size": 100,
                "learning_rate": 1e-3,
                "ema_half_life_kimg": 1.0,
                "evaluate_every_kimg": 1.0,
            },
            "reference_set": {"num_samples": 100},
            "evaluation": {"num_samples": 50},
        }
        return body | changes

    def environment(self) -> dict[str, str]:
        """Return the environment of the command line."""
        return os.environ | {"DDO_API_URL": self.stack.url, "DDO_API_KEY": self.stack.api_key, "COLUMNS": "80"}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``ddo ARGUMENTS``."""
        command = [sys.executable, "-c", "from ddo_client.cli import app; app()", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, env=self.environment(), text=True, **pipes)  # type: ignore[call-overload,no-any-return]

    def ddo(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``ddo ARGUMENTS`` to its end."""
        process = self.start(*arguments)
        stdout, stderr = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    inputs = tmp_path_factory.mktemp("inputs")
    for name in ("base.safetensors", "data.zip", "features.safetensors"):
        (inputs / name).write_bytes(b"never read: no worker is there")
    with LocalStack(num_workers=0, input_roots=[inputs]) as stack, Client(stack.url, stack.api_key) as client:
        engine = create_engine(stack.environment["DDO_DATABASE_URL"])
        yield Service(stack, client, inputs, sessionmaker(engine, expire_on_commit=False))
        engine.dispose()
