"""Runs one program and ends it, with all its descendants, when the guard's own input ends.

Started by ``deploy.local.processes``; standard library only, so that it starts in some 20 ms. Standard input is a
pipe whose other end the starter holds: it closes when the starter asks for the stop and just as well when the starter
is killed with SIGKILL, so nothing outlives it. What the guard has to tell, ``{"pid": …}`` and ``{"code": …}``, are
lines on its standard output.
"""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LINUX = sys.platform == "linux"


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _tell(**facts: Any) -> None:
    with suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()


def _start(order: dict[str, Any]) -> int:
    guard = os.getpid()

    def die_with_guard() -> None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:
            os._exit(1)

    unprivileged: dict[str, Any] = {}
    if order["uid"] is not None:
        unprivileged = {"user": order["uid"], "group": order["gid"], "extra_groups": []}
    with Path(order["log"]).open("ab") as log:
        # the guard has one thread: preexec_fn is safe here, and Linux resets the signal on a change of user before it
        program = subprocess.Popen(  # noqa: S603
            order["command"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=order["cwd"],
            start_new_session=True,
            preexec_fn=die_with_guard if _LINUX else None,  # noqa: PLW1509
            **unprivileged,
        )
    pid = program.pid
    program.returncode = 0  # reaped below by waitpid(-1), never by Popen
    return pid


def _descendants() -> list[int]:
    """Return the living processes below the guard; orphans of the program count, as the guard is their subreaper."""
    parent_of: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, ppid = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parent_of[int(stat.parent.name)] = int(ppid)
    found = [os.getpid()]
    for ancestor in found:
        found += [pid for pid, parent in parent_of.items() if parent == ancestor]
    return found[1:]


def _kill_rest(program: int) -> None:
    while True:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(program, signal.SIGKILL)
        rest = _descendants() if _LINUX else []
        for pid in rest:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not rest:
            return
        time.sleep(0.01)


def main() -> None:
    """Run the order given as JSON in the first argument."""
    order = json.loads(sys.argv[1])
    if _LINUX:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    asked_to_stop: list[int] = []
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: asked_to_stop.append(received))

    program = _start(order)
    _tell(pid=program)
    code: int | None = None
    deadline: float | None = None
    inputs = [0, wake_read]
    while True:
        ready, _, _ = select.select(inputs, [], [], None if deadline is None else max(0.0, deadline - time.monotonic()))
        if wake_read in ready:
            os.read(wake_read, 4096)
        with suppress(ChildProcessError):
            while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
                if reaped[0] == program:
                    code = os.waitstatus_to_exitcode(reaped[1])
                    _tell(code=code)
        if deadline is None and (asked_to_stop or (0 in ready and not os.read(0, 4096))):
            deadline = time.monotonic() + order["grace_seconds"]
            inputs = [wake_read]
            if code is None:
                os.kill(program, order["stop_signal"])
        if deadline is not None and (code is not None or time.monotonic() >= deadline):
            break
    _kill_rest(program)
    if code is None:
        _tell(code=-signal.SIGKILL)


if __name__ == "__main__":
    main()
