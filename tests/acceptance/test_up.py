"""``python -m deploy.local up`` as people use it: two at once, stopped in every way, and nothing left behind."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from tests.processes import is_running

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class _Up:
    process: subprocess.Popen[str]
    url: str
    key: str
    folder: Path

    def jobs(self) -> httpx.Response:
        return httpx.get(f"{self.url}/jobs", headers={"Authorization": f"Bearer {self.key}"})

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def find(self, *words: str) -> psutil.Process:
        (found,) = [
            each
            for each in self.family()
            if all(word in each.cmdline() for word in words) and "guard.py" not in " ".join(each.cmdline())
        ]
        return found


def _start(*options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "deploy.local", "up", *options]
    return subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _wait_until_up(process: subprocess.Popen[str]) -> _Up:
    assert process.stdout
    told = ""
    while "Logs: " not in told:
        line = process.stdout.readline()
        assert line, f"ended with {process.wait()}: {process.stderr.read() if process.stderr else ''}"
        told += line
    url, key, logs = (re.findall(pattern, told)[0] for pattern in (r"URL=(\S+)", r"KEY=(\S+)", r"Logs: (\S+)"))
    return _Up(process, url, key, Path(logs).parent)


@pytest.fixture
def up() -> Iterator[_Up]:
    process = _start()
    yield _wait_until_up(process)
    process.kill()
    process.communicate()


def _assert_gone(family: list[psutil.Process], seconds: float = 30) -> None:
    _, alive = psutil.wait_procs(family, timeout=seconds)
    assert not alive


def _stop_by_signal(up: _Up, number: signal.Signals, exit_code: int) -> None:
    family = up.family()
    # five servers, each under a guard
    assert len(family) >= 8
    up.process.send_signal(number)
    up.process.communicate(timeout=60)
    assert up.process.returncode == exit_code
    assert not [each for each in family if is_running(each.pid)]
    assert not up.folder.exists()


@pytest.mark.slow
def test_up_stopped_by_control_c_leaves_nothing(up: _Up) -> None:
    assert up.jobs().json()["data"] == []
    _stop_by_signal(up, signal.SIGINT, 0)


@pytest.mark.slow
def test_up_twice_at_once_keeps_apart_and_however_one_ends_nothing_of_it_is_left(up: _Up) -> None:
    other = _wait_until_up(_start())
    try:
        assert other.url != up.url
        assert other.folder != up.folder
        assert other.jobs().status_code == up.jobs().status_code == 200
        assert httpx.get(f"{other.url}/jobs", headers={"Authorization": f"Bearer {up.key}"}).status_code == 401
    finally:
        _stop_by_signal(other, signal.SIGTERM, 143)
    assert up.jobs().status_code == 200

    third = _start("--port", up.url.rpartition(":")[2])
    _, stderr = third.communicate(timeout=60)
    assert third.returncode == 1
    assert "address already in use" in stderr

    family = up.family()
    up.process.kill()
    up.process.communicate()
    _assert_gone(family)


@pytest.mark.slow
def test_up_whose_worker_dies_says_so_and_ends(up: _Up) -> None:
    family = up.family()
    up.find("-m", "worker").kill()
    _, stderr = up.process.communicate(timeout=60)
    assert up.process.returncode == 1
    assert stderr.startswith("error: worker-1 was killed by SIGKILL\n")
    assert "worker-1.log" in stderr
    assert "Traceback" not in stderr
    _assert_gone(family)


@pytest.mark.slow
def test_up_with_a_kept_folder_keeps_key_and_data_and_refuses_a_second_user(public_folder: Path) -> None:
    first = _wait_until_up(_start("--folder", str(public_folder)))
    second = _start("--folder", str(public_folder))
    _, stderr = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "another stack is using" in stderr
    first.process.send_signal(signal.SIGINT)
    first.process.communicate(timeout=60)

    again = _wait_until_up(_start("--folder", str(public_folder)))
    assert again.key == first.key
    assert again.jobs().status_code == 200
    again.process.send_signal(signal.SIGINT)
    again.process.communicate(timeout=60)
    assert (public_folder / "secrets.json").stat().st_mode & 0o077 == 0
