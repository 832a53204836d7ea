"""Who a process is among those that torchrun started."""

import pytest

from ddo_engine.errors import InvalidSpec
from ddo_engine.parallel.launch import Launch, launch_of


def environment(**changes):
    return {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"} | changes


def test_launch_without_torchrun_is_one_process_that_leads():
    assert launch_of({}) == launch_of(environment(RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1")) == Launch(0, 1, 1)
    assert Launch().leads


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
        ({}, "convert", "convert runs in one process"),
        ({"WORLD_SIZE": "8"}, "train", "only 4 of the 8 processes are on this machine"),
    ],
)
def test_launch_of_what_several_processes_cannot_do_is_refused(changes, command, named):
    with pytest.raises(InvalidSpec, match=named):
        launch_of(environment(**changes)).check(command)
