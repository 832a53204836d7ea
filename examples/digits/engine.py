"""Run the engine's command line as anyone would: a process, a spec file, events on its standard output."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from ddo_engine.spec import ENGINE_EVENT, EngineEvent, Evaluated, Failed, FileRole, FileWritten, Settings

COMMAND_OF_KIND = {
    "validate": "validate",
    "reference": "generate",
    "trial": "train",
    "evaluate": "evaluate",
    "discriminator": "discriminator",
}


def run_engine(
    spec: Settings,
    workdir: Path,
    *,
    threads: int = 1,
    cache: Path | None = None,
    on_event: Callable[[EngineEvent], None] | None = None,
) -> list[EngineEvent]:
    """Run ``python -m ddo_engine`` on one spec and return its events.

    Args:
        spec: One of the unit specs; its kind decides the command.
        workdir: Where spec, log and results go; made if missing.
        threads: CPU threads of the process.
        cache: Folder for statistics that several runs share.
        on_event: Called with each event as it comes.

    Raises:
        RuntimeError: The engine failed; the message is its own.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    spec_file = workdir / "spec.json"
    spec_file.write_text(spec.model_dump_json(indent=1))
    command = [sys.executable, "-m", "ddo_engine", COMMAND_OF_KIND[spec.model_dump()["kind"]], str(spec_file)]
    command += ["--workdir", str(workdir), "--threads", str(threads), "--device", "cpu"]
    if cache is not None:
        command += ["--cache", str(cache)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    events: list[EngineEvent] = []
    with (
        (workdir / "log.txt").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            events.append(ENGINE_EVENT.validate_json(line))
            if on_event is not None:
                on_event(events[-1])
    if process.returncode != 0:
        reasons = [event.message for event in events if isinstance(event, Failed)]
        raise RuntimeError(f"the engine ended with {process.returncode}: {' '.join(reasons) or workdir / 'log.txt'}")
    return events


def files_of(events: Iterable[EngineEvent], role: FileRole) -> dict[float, Path]:
    """Return the files of one role that a run wrote, by their kimg (0 where the event has none)."""
    return {
        event.kimg or 0.0: Path(event.path) for event in events if isinstance(event, FileWritten) and event.role == role
    }


def evaluations_of(events: Iterable[EngineEvent]) -> list[Evaluated]:
    """Return the evaluations of a run in their order."""
    return [event for event in events if isinstance(event, Evaluated)]
