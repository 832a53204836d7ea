"""What ends this process when another one of the run dies: a device that waits for it would wait for ever."""

import os
import select
import threading
import time
from collections.abc import Callable, Mapping

from ddo_engine.errors import ProcessLost
from ddo_engine.log import log

GRACE_SECONDS = 2.0  # for the exchange that fails by itself, and says so in an orderly way


def watch_peers(pids: Mapping[int, int], has_ended: Callable[[int], bool]) -> None:
    """Start a thread that ends this process soon after another one has died.

    Args:
        pids: Process ids of the others on this machine, by rank.
        has_ended: Whether a rank said that it was about to end; nobody follows it then. Called in the thread.
    """
    # Linux only: a descriptor becomes readable when its process ends, whoever is its parent.
    watched = {os.pidfd_open(pid): rank for rank, pid in pids.items()}
    threading.Thread(target=_watch, args=(watched, has_ended), name="peers", daemon=True).start()


def _watch(watched: dict[int, int], has_ended: Callable[[int], bool]) -> None:
    poller = select.poll()
    for descriptor in watched:
        poller.register(descriptor, select.POLLIN)
    while watched:
        for descriptor, _ in poller.poll():
            poller.unregister(descriptor)
            os.close(descriptor)
            rank = watched.pop(descriptor)
            if not has_ended(rank):
                time.sleep(GRACE_SECONDS)
                log.error("process %d of this run died: ending this one too", rank)
                os._exit(ProcessLost.exit_status)
