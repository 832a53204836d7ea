"""Starts an engine that cannot outlive its worker: ``python launcher.py PARENT_PID PROGRAM ARGUMENTS…``.

A file of its own, run by a fresh interpreter: code between fork and exec would run in a copy of a process with many
threads. Linux only, like the signal it asks for. The standard library is all it needs.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for SIGKILL when the parent dies, then become the program."""
    parent = int(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606  (this is the point)


if __name__ == "__main__":
    main()
