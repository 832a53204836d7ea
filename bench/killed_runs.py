"""Runs of the engine that are to be killed, and when."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.engine_inputs import REPOSITORY

KILLS_PER_STARTUP = 4  # of so many kills one is aimed at the start of the processes
LONGEST_RUN_SECONDS = 180.0


@dataclass
class Run:
    """One start of a command and the events that it has told so far.

    Attributes:
        process: The engine, or torchrun.
        phase: Whose first progress ends the start.
        started: When, monotonic seconds.
        events: In order.
        first_progress: When it came.
    """

    process: subprocess.Popen[str]
    phase: str
    started: float = field(default_factory=time.monotonic)
    events: list[dict[str, Any]] = field(default_factory=list)
    first_progress: float | None = None

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.endswith("\n"):
                return  # whoever wrote it was killed
            event = json.loads(line)
            if self.first_progress is None and event["type"] == "progress" and event["phase"] == self.phase:
                self.first_progress = time.monotonic()
            self.events.append(event)

    @classmethod
    def start(
        cls, command: str, spec: dict[str, Any], workdir: Path, phase: str, launcher: Sequence[str] = ()
    ) -> "Run":
        """Start or resume ``python [launcher] -m ddo_engine`` on a spec, on the CPU, one thread a process."""
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / "spec.json"
        path.write_text(json.dumps(spec))
        arguments = [command, str(path), "--workdir", str(workdir), "--device", "cpu"]
        process = subprocess.Popen(
            [sys.executable, *launcher, "-m", "ddo_engine", *arguments],
            cwd=REPOSITORY,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return cls(process, phase)

    def undisturbed(self) -> "Seconds":
        """Let it end by itself, and say how long it took."""
        assert self.finish() == 0, "the undisturbed run failed"
        ended = time.monotonic()
        assert self.first_progress is not None
        return Seconds(self.first_progress - self.started, ended - self.first_progress)

    def finish(self) -> int:
        """Wait for the end of all processes; return the exit status."""
        status = self.process.wait(LONGEST_RUN_SECONDS)
        self._reader.join(LONGEST_RUN_SECONDS)
        return status

    @property
    def ranks(self) -> list[int]:
        """Process ids of the ranks, in order; fewer while they start."""
        try:
            children = psutil.Process(self.process.pid).children()
            return [child.pid for child in sorted(children, key=lambda child: child.environ()["RANK"])]
        except (psutil.Error, KeyError, OSError):
            return []


@dataclass(frozen=True)
class Moment:
    """When to kill: in the start of the processes, or in the work that they do.

    Attributes:
        in_work: Which.
        share: Of it, in [0, 1).
    """

    in_work: bool
    share: float

    def has_come(self, run: Run, undisturbed: "Seconds") -> bool:
        """Tell whether it is time, by how long the undisturbed run took."""
        if not self.in_work:
            return time.monotonic() - run.started >= self.share * undisturbed.startup
        since = run.first_progress
        return since is not None and time.monotonic() - since >= self.share * undisturbed.work


@dataclass(frozen=True)
class Seconds:
    """How long the undisturbed run took to its first progress, and from there to its end."""

    startup: float
    work: float
