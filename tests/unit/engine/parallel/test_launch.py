"""Who a process is among those that torchrun started."""

import pytest

from ddo_engine.errors import InvalidSpec
from ddo_engine.interruption import StopRequest
from ddo_engine.parallel import launch as module
from ddo_engine.parallel.launch import Launch, launch_of, told_by_leader


def environment(**changes):
    return {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"} | changes


def test_launch_without_torchrun_is_one_process_that_leads():
    assert launch_of({}) == launch_of(environment(RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1")) == Launch(0, 1, 1)
    assert Launch().leads


@pytest.mark.parametrize("missing", ["RANK", "LOCAL_WORLD_SIZE"])
def test_launch_with_variables_of_somebody_else_is_one_process(missing):
    assert launch_of({name: value for name, value in environment().items() if name != missing}) == Launch(0, 1, 1)


def test_launch_under_torchrun_is_one_of_several():
    launch = launch_of(environment())
    assert launch == Launch(1, 4, 4)
    assert not launch.leads
    for command in ("train", "generate", "evaluate"):
        launch.check(command)


@pytest.mark.parametrize(
    ("changes", "command", "named"),
    [
        ({}, "validate", "validate runs in one process"),
        ({}, "discriminator", "discriminator runs in one process"),
        ({}, "convert", "convert runs in one process"),
        ({"WORLD_SIZE": "8"}, "train", "only 4 of the 8 processes are on this machine"),
    ],
)
def test_launch_of_what_several_processes_cannot_do_is_refused(changes, command, named):
    with pytest.raises(InvalidSpec, match=named):
        launch_of(environment(**changes)).check(command)


@pytest.mark.parametrize("rank", [0, 1])
def test_error_before_the_meeting_waits_for_the_process_that_leads(rank, monkeypatch):
    """Until torchrun, whose other process has ended, asks it to stop."""
    stop, looks = StopRequest(), []

    def look(_):
        looks.append(stop.requested)
        stop.requested = len(looks) == 3

    monkeypatch.setattr(module.time, "sleep", look)
    with pytest.raises(InvalidSpec, match="bad"), told_by_leader(Launch(rank, 2, 2), stop):
        raise InvalidSpec("bad")
    assert len(looks) == (0 if rank == 0 else 3)


def test_error_before_the_meeting_of_this_process_alone_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(module, "_LONGEST_START_SECONDS", 0.0)
    with pytest.raises(InvalidSpec, match="bad"), told_by_leader(Launch(1, 2, 2), StopRequest()):
        raise InvalidSpec("bad")
