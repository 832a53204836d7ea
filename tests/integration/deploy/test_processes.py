"""Nothing outlives its starter, however that ends; and what ends by itself is named."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.local import processes
from deploy.local.processes import (
    Process,
    ProcessEnded,
    StartTimeout,
    signals_as_exceptions,
    signals_held_back,
    start_on_free_port,
)
from tests.processes import is_running

# a program with a child in a session of its own, as a worker has an engine; all three tell their pids
_FAMILY = """
import os, subprocess, sys, time
grandchild = "import os, time; print(os.getpid(), flush=True); time.sleep(300)"
child = f"import os, subprocess, sys, time; print(os.getpid(), flush=True); " \\
        f"subprocess.Popen([sys.executable, '-c', {grandchild!r}], start_new_session=True); time.sleep(300)"
print(os.getpid(), flush=True)
subprocess.Popen([sys.executable, "-c", child])
time.sleep(300)
"""

_STARTER = """
import sys, time
from pathlib import Path
from typing import Any
from deploy.local.processes import Process, signals_as_exceptions
log = Path(sys.argv[1])
with signals_as_exceptions(), Process("family", [sys.executable, "-c", sys.argv[2]], log=log):
    while len(log.read_text().split()) < 3:
        time.sleep(0.01)
    print("started", flush=True)
    if sys.argv[3] == "raise":
        raise ValueError("broken")
    if sys.argv[3] == "wait":
        time.sleep(300)
"""


def _wait_until_gone(pids: list[int], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while alive := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < deadline, f"still running: {alive}"
        time.sleep(0.02)


def _start_family(tmp_path: Path, then: str) -> tuple[subprocess.Popen[str], list[int]]:
    log = tmp_path / "family.log"
    starter = subprocess.Popen(
        [sys.executable, "-c", _STARTER, log, _FAMILY, then], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert starter.stdout
    assert starter.stdout.readline() == "started\n"
    pids = [int(pid) for pid in log.read_text().split()]
    assert len(pids) == 3
    return starter, pids


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_process_starter_gets_a_signal_leaves_no_descendant(
    tmp_path: Path, number: signal.Signals, exit_code: int
) -> None:
    starter, pids = _start_family(tmp_path, "wait")
    starter.send_signal(number)
    starter.communicate(timeout=20)
    assert starter.returncode == exit_code
    _wait_until_gone(pids)


@pytest.mark.parametrize(("then", "exit_code"), [("return", 0), ("raise", 1)])
def test_process_starter_ends_leaves_no_descendant(tmp_path: Path, then: str, exit_code: int) -> None:
    starter, pids = _start_family(tmp_path, then)
    starter.communicate(timeout=20)
    assert starter.returncode == exit_code
    _wait_until_gone(pids, seconds=0)


def test_process_guard_killed_takes_the_program_with_it(tmp_path: Path) -> None:
    with Process("sleep", ["sleep", "300"], log=tmp_path / "log") as process:
        psutil.Process(process.pid).parent().kill()  # type: ignore[union-attr]
        assert process.wait(10) == -signal.SIGKILL
        _wait_until_gone([process.pid])


def test_process_ignoring_the_stop_signal_is_killed_after_its_grace(tmp_path: Path) -> None:
    script = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    process = Process("stubborn", ["sh", "-c", script], log=tmp_path / "log", grace_seconds=0.5)
    process.wait_until(lambda: "ready" in process.log.read_text(), 10)
    began = time.monotonic()
    assert process.stop() == -signal.SIGKILL
    assert 0.5 <= time.monotonic() - began < 8
    _wait_until_gone([process.pid])


def test_process_stopped_is_asked_with_its_signal(tmp_path: Path) -> None:
    script = "trap 'echo asked; exit 7' USR1; echo ready; while :; do sleep 0.05; done"
    process = Process("polite", ["sh", "-c", script], log=tmp_path / "log", stop_signal=signal.SIGUSR1)
    process.wait_until(lambda: "ready" in process.log.read_text(), 10)
    assert process.poll() is None
    assert process.stop() == 7
    assert process.stop() == 7
    assert process.log.read_text() == "ready\nasked\n"


def test_process_that_ended_before_it_was_looked_at_is_seen_to_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = subprocess.Popen

    def start_and_dawdle(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started = start(*arguments, **options)
        time.sleep(1)
        return started

    monkeypatch.setattr(processes.subprocess, "Popen", start_and_dawdle)
    with Process("hasty", ["sh", "-c", "exit 3"], log=tmp_path / "log") as process:
        assert process.wait(5) == 3


def test_process_ended_by_itself_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Process("baker", ["sh", "-c", "echo out of flour; exit 3"], log=tmp_path / "log") as process:
        with pytest.raises(ProcessEnded, match=r"baker ended with exit code 3(?s:.*)out of flour"):
            process.wait_until(lambda: False, 10)
        assert process.wait(1) == 3


def test_process_killed_is_named_with_the_signal(tmp_path: Path) -> None:
    with Process("baker", ["sleep", "300"], log=tmp_path / "log") as process:
        process.ensure_running()
        process.kill()
        process.wait(5)
        with pytest.raises(ProcessEnded, match="baker was killed by SIGKILL"):
            process.ensure_running()


def test_process_never_ready_is_a_timeout(tmp_path: Path) -> None:
    with (
        Process("slow", ["sleep", "300"], log=tmp_path / "log") as process,
        pytest.raises(StartTimeout, match="slow was not ready after"),
    ):
        process.wait_until(lambda: False, 0.1)


def test_process_of_a_missing_program_raises(tmp_path: Path) -> None:
    with pytest.raises(ProcessEnded, match=r"could not be started(?s:.*)no-such-program"):
        Process("ghost", ["no-such-program"], log=tmp_path / "log")


def test_start_on_free_port_lost_race_takes_another_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(port: int) -> Process:
        command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
        return Process("server", command, log=tmp_path / "log")

    def answers(port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    with socket.socket() as winner:
        winner.bind(("127.0.0.1", 0))
        taken, free = winner.getsockname()[1], processes.free_port()
        ports = iter([taken, free])
        monkeypatch.setattr(processes, "free_port", lambda: next(ports))
        process, port = start_on_free_port(serve, answers)
        process.stop()
    assert port == free
    assert "Address already in use" in process.log.read_text()


@pytest.mark.parametrize(
    ("first", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (signal.SIGHUP, SystemExit)]
)
def test_signals_as_exceptions_second_signal_does_not_break_the_cleanup(
    first: signal.Signals, raised: type[BaseException]
) -> None:
    steps = []

    def work() -> None:
        with signals_as_exceptions():
            try:
                signal.raise_signal(first)
            finally:
                for again in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.raise_signal(again)
                    steps.append(again)

    with pytest.raises(raised):
        work()
    assert len(steps) == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_signals_held_back_act_after_the_cleanup() -> None:
    steps = []

    def clean_up() -> None:
        with signals_held_back():
            signal.raise_signal(signal.SIGINT)
            steps.append("cleaned up")
        steps.append("never")

    with pytest.raises(KeyboardInterrupt):
        clean_up()
    assert steps == ["cleaned up"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
