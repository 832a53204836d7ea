"""A process that waits for a dead one, as on a device, is ended; one that waits for nobody is not."""

import subprocess
import sys
import time

import pytest

from ddo_engine.errors import ProcessLost

CODE = """
import sys, time
from ddo_engine.parallel.peers import watch_peers
watch_peers({1: int(sys.argv[1])}, lambda rank: sys.argv[2] == "ended")
print("watching", flush=True)
time.sleep(float(sys.argv[3]))
"""


def watching(pid, how, seconds):
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, str(pid), how, str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "watching\n"
    return process


@pytest.mark.parametrize("how", ["died", "ended"])
def test_process_ends_soon_after_a_peer_that_died_and_not_after_one_that_ended(how):
    with subprocess.Popen(["/bin/sleep", "60"]) as peer:
        watcher = watching(peer.pid, how, 60.0 if how == "died" else 4.0)
        assert watcher.poll() is None
        peer.kill()
    killed = time.monotonic()
    _, said = watcher.communicate(timeout=30)
    if how == "died":
        assert watcher.returncode == ProcessLost.exit_status
        assert "process 1 of this run died" in said
        assert time.monotonic() - killed < 10
    else:
        assert (watcher.returncode, said) == (0, "")
