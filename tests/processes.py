"""Whether processes that a test did not start itself, and so cannot wait for, still run."""

import psutil


def is_running(pid: int) -> bool:
    """Whether the process exists and has not ended; one that nobody has waited for yet, a zombie, has ended."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except (psutil.NoSuchProcess, ProcessLookupError):
        # psutil lets the latter through where the process ends between the opening and the reading of its /proc file
        return False
