"""Trials that are stopped or killed and run again: what they told until then, and afterwards."""

from pathlib import Path
from typing import Any

import pytest

from ddo_engine.errors import Interrupted
from ddo_engine.interruption import StopRequest
from tests.engine_inputs import Killed, results, run_in_process

Events = list[dict[str, Any]]


def stopped_after_step(spec: dict[str, Any], workdir: Path, step: int) -> Events:
    """Run a trial, ask it to stop once it reports a step (1-based), and return its events."""
    events: Events = []

    def stop_after_step(event: dict[str, Any], stop: StopRequest) -> None:
        events.append(event)
        stop.requested = stop.requested or (event["type"] == "metric" and event["step"] == step)

    with pytest.raises(Interrupted):
        run_in_process("train", spec, workdir, stop_after_step)
    return events


def killed_after_each_event(spec: dict[str, Any], folder: Path) -> list[Events]:
    """Kill a trial after each of its events in turn and run it again, which has the results of one left alone.

    Returns:
        The events of the second runs.
    """
    undisturbed = run_in_process("train", spec, folder / "undisturbed")
    second_runs = []
    for index, last in enumerate(undisturbed):
        events: Events = []

        def die(event: dict[str, Any], _: StopRequest, events: Events = events, index: int = index) -> None:
            events.append(event)
            if len(events) > index:
                raise Killed

        workdir = folder / f"killed-{index}"
        with pytest.raises(Killed):
            run_in_process("train", spec, workdir, die)
        second_runs.append(run_in_process("train", spec, workdir))
        assert results(events + second_runs[-1]) == results(undisturbed), f"killed after {last}"
    return second_runs
