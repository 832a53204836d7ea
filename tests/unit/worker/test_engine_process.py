"""Processes that end, hang, have children or lose their parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import worker.launcher
from tests.processes import is_running
from worker.engine_process import EngineProcess


def _start(tmp_path: Path, code: str, lines: list[bytes] | None = None) -> EngineProcess:
    return EngineProcess(
        [sys.executable, "-ISc", code],
        folder=tmp_path,
        environment={"PATH": os.environ["PATH"]},
        log=tmp_path / "log",
        on_line=(lines if lines is not None else []).append,
    )


def _wait(condition, seconds=10.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_engine_lines_log_and_status_arrive(tmp_path):
    lines: list[bytes] = []
    engine = _start(
        tmp_path, "import sys; print('one'); print('two'); print('why', file=sys.stderr); sys.exit(7)", lines
    )

    _wait(engine.has_ended)

    assert engine.close() == 7
    assert lines == [b"one\n", b"two\n"]
    assert engine.log_tail == "why\n"
    assert (tmp_path / "log").read_text() == "why\n"


def test_engine_log_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("worker.engine_process._MAX_LOG_BYTES", 1000)
    engine = _start(tmp_path, "import sys; [print('x' * 99, file=sys.stderr) for _ in range(500)]")

    engine_status = _wait(engine.has_ended) or engine.close()

    assert engine_status == 0
    assert (tmp_path / "log").stat().st_size <= 1200
    assert len(engine.log_tail) == 40 * 100


def test_engine_end_takes_its_children_along(tmp_path):
    lines: list[bytes] = []
    code = "import subprocess, sys; c = subprocess.Popen(['sleep', '60']); print(c.pid, flush=True)"
    engine = _start(tmp_path, code, lines)
    _wait(engine.has_ended)

    assert engine.close() == 0

    child = int(lines[0])
    _wait(lambda: not is_running(child))


def test_engine_that_ignores_sigterm_is_killed(tmp_path):
    lines: list[bytes] = []
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    engine = _start(tmp_path, code, lines)
    _wait(lambda: lines)
    engine.terminate()
    time.sleep(0.2)
    assert not engine.has_ended()

    assert engine.close() == -signal.SIGKILL


def test_engine_dies_with_a_worker_that_is_killed(tmp_path):
    code = f"""
import sys, time
from pathlib import Path
from worker.engine_process import EngineProcess
e = EngineProcess([sys.executable, '-ISc', 'import time; time.sleep(60)'], folder=Path({str(tmp_path)!r}),
                  environment={{}}, log=Path({str(tmp_path / "log")!r}), on_line=print)
print(e.pid, flush=True)
time.sleep(60)
"""
    root = str(Path(worker.launcher.__file__).parents[1])
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env={"PYTHONPATH": root})
    assert parent.stdout is not None
    engine = psutil.Process(int(parent.stdout.readline()))
    _wait(lambda: "time.sleep" in " ".join(engine.cmdline()[-1:]))  # past the launcher

    parent.kill()
    parent.wait()
    parent.stdout.close()

    engine.wait(3)
    assert not engine.is_running()


def test_launcher_of_a_parent_that_died_already_starts_nothing(tmp_path):
    somebody_else = "1" if os.getpid() != 1 else "2"
    touch = ["/bin/touch", str(tmp_path / "ran")]

    done = subprocess.run([sys.executable, worker.launcher.__file__, somebody_else, *touch], check=False)

    assert done.returncode == 1
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_engine_signals_after_its_end_reach_nobody(tmp_path, number):
    engine = _start(tmp_path, "pass")
    _wait(engine.has_ended)

    engine.terminate() if number is signal.SIGTERM else engine.kill()

    assert engine.close() == 0
