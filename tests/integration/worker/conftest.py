"""Worker processes with a scripted engine, on real Postgres and Valkey and a local store."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from ddo_engine.spec import JobSpec
from service.database import create_database_engine, create_session_factory
from service.doorbell import Doorbell
from service.models import Job, WorkUnit
from service.settings import ServiceSettings
from tests.job_rows import create_job, job_spec

LEASE_SECONDS = 4.0


@dataclass
class Workplace:
    """Everything that a worker needs, and the workers started on it."""

    folder: Path
    settings: ServiceSettings
    sessions: sessionmaker[Session]
    doorbell: Doorbell
    environment: dict[str, str]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def script(self, **todo: object) -> None:
        """Tell the scripted engine what to do from now on."""
        (self.folder / "script.json").write_text(json.dumps(todo))

    @property
    def runs(self) -> list[str]:
        """What the scripted engine ran: ``trial 2.0 from 0 pid 123``."""
        log = self.folder / "runs.log"
        return log.read_text().splitlines() if log.exists() else []

    def spec(self, **changes: object) -> JobSpec:
        inputs = self.folder / "inputs"
        return job_spec(
            **{
                "base_checkpoint": f"file://{inputs}/base.safetensors",
                "dataset": {"uri": f"file://{inputs}/data.zip"},
                "feature_network": f"file://{inputs}/features.safetensors",
                "rounds": 1,
                "reference_set": {"num_samples": 10},
            }
            | changes
        )

    def submit(self, spec: JobSpec | None = None, *, tenant: str = "tenant", ring: bool = True) -> str:
        job_id = create_job(self.sessions, spec or self.spec(), tenant=tenant)
        if ring:
            with self.sessions() as session:
                self.doorbell.ring([unit.id for unit in session.query(WorkUnit).filter_by(job_id=job_id)])
        return job_id

    def start_worker(self, **environment: str) -> subprocess.Popen[bytes]:
        number = len(self.workers)
        with (self.folder / f"worker-{number}.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "worker"],
                cwd=self.folder,
                env={**self.environment, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.workers.append(worker)
        return worker

    def log(self, number: int = 0) -> str:
        return (self.folder / f"worker-{number}.log").read_text()

    def job(self, job_id: str) -> Job:
        with self.sessions() as session:
            return session.get_one(Job, job_id)

    def units(self, **criteria: object) -> list[WorkUnit]:
        with self.sessions() as session:
            return session.query(WorkUnit).filter_by(**criteria).order_by(WorkUnit.created_at, WorkUnit.id).all()

    def wait_for_end(self, job_id: str, seconds: float = 40) -> Job:
        ended = ("succeeded", "failed", "cancelled")
        self.wait_until(lambda: self.job(job_id).status in ended, seconds)
        return self.job(job_id)

    def wait_until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                units = [(unit.kind, unit.status, unit.attempt, unit.error) for unit in self.units()]
                raise AssertionError(f"not within {seconds} s; {units}; {self.log()[-3000:]}")
            time.sleep(0.05)


@pytest.fixture
def workplace(database_url: str, valkey_url: str, tmp_path: Path) -> Iterator[Workplace]:
    program = tmp_path / "engine"
    source = Path(__file__).with_name("scripted_engine.py").read_text()
    program.write_text(f"#!{sys.executable} -IS\n{source}")
    program.chmod(0o755)
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for name in ("base.safetensors", "data.zip", "features.safetensors"):
        (inputs / name).write_text(name)
    settings = {
        "database_url": database_url,
        "broker_url": valkey_url,
        "storage_url": f"file://{tmp_path}/store",
        "input_roots": str(inputs),
        "work_folder": str(tmp_path / "work"),
        "engine_python": str(program),
        "lease_seconds": str(LEASE_SECONDS),
        "heartbeat_seconds": "0.5",
        "reconcile_seconds": "0.5",
        "poll_seconds": "0.2",
        "grace_seconds": "10",
    }
    ddo = {f"DDO_{name.upper()}": value for name, value in settings.items()}
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        **ddo,
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "SCRIPT": str(tmp_path / "script.json"),
        "LOG": str(tmp_path / "runs.log"),
    }
    parsed = ServiceSettings.model_validate(
        settings | {"database_url": SecretStr(database_url), "broker_url": SecretStr(valkey_url)}
    )
    engine: Engine = create_database_engine(parsed)
    doorbell = Doorbell(parsed)
    place = Workplace(tmp_path, parsed, create_session_factory(engine), doorbell, environment)
    place.script()
    yield place
    for worker in place.workers:
        if worker.poll() is None:
            worker.send_signal(signal.SIGCONT)
            worker.kill()
        worker.wait()
    doorbell.close()
    engine.dispose()
