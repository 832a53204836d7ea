"""How this process was started: alone, or by torchrun as one of several. Imports no torch."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from ddo_engine.errors import EngineError, InvalidSpec
from ddo_engine.interruption import StopRequest

_PR_SET_PDEATHSIG = 1
_LONGEST_START_SECONDS = 60.0
_LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Launch:
    """Which of the run's processes this is.

    Attributes:
        rank: 0 … size − 1; 0 tells events, writes files and decides what the others ask it.
        size: Number of processes.
        size_here: Number of them on this machine.
    """

    rank: int = 0
    size: int = 1
    size_here: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that tells and writes."""
        return self.rank == 0

    def check(self, command: str) -> None:
        """Refuse what several processes cannot do.

        Raises:
            InvalidSpec: They are on several machines, or the command is one for a single process.
        """
        if self.size > 1 and command not in ("train", "generate", "evaluate"):
            raise InvalidSpec(f"{command} runs in one process: start it without torchrun", param="command")
        if self.size != self.size_here:
            raise InvalidSpec(
                f"only {self.size_here} of the {self.size} processes are on this machine: a run has one node, start "
                "torchrun with --standalone --nproc-per-node",
                param="command",
            )


def launch_of(environment: Mapping[str, str]) -> Launch:
    """Return what torchrun says in the environment; one process where it did not start this one.

    A cluster may set some of the variables for purposes of its own; torchrun sets them all.
    """
    if not {"RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"} <= environment.keys():
        return Launch()
    return Launch(int(environment["RANK"]), int(environment["WORLD_SIZE"]), int(environment["LOCAL_WORLD_SIZE"]))


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the process that started this one dies. Linux only; elsewhere nothing happens.

    Torchrun starts every process in a session of its own, where no signal to a process group finds it.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


@contextmanager
def told_by_leader(launch: Launch, stop: StopRequest) -> Iterator[None]:
    """Before processes have met, let the one that leads come to an error of all first, and tell it.

    Torchrun ends the others as soon as one has failed, and the one that leads may have hardly started by then. Where
    only this process fails, the others wait for it in vain, and it ends after a minute.

    Args:
        launch: Which of them this is.
        stop: Torchrun requests it once the other has ended.
    """
    try:
        yield
    except EngineError:
        give_up_at = time.monotonic() + _LONGEST_START_SECONDS
        while not (launch.leads or stop.requested or time.monotonic() > give_up_at):
            time.sleep(_LOOK_SECONDS)
        raise
