"""``torchrun -m ddo_engine``: signals, kills of any process of the family, and what stands on its standard output."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ddo_engine.files import sha256_of
from tests.engine_inputs import REPOSITORY, finish, results
from tests.integration.engine.test_process import read_until
from tests.processes import is_running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
LONG = {"training": {"kimg": 6.4, "evaluate_every_kimg": 3.2, "save_state_every_kimg": 0.16}}
ENDS_WITHIN_SECONDS = 15  # "within seconds", on a machine that tests share


STARTED = []


@pytest.fixture(autouse=True, scope="module")
def no_survivors():
    """End what a failed test leaves behind: a rank follows its torchrun."""
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.communicate(timeout=30)


def start(command, spec, workdir):
    """Start the command by two processes."""
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "spec.json"
    path.write_text(json.dumps(spec))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*torchrun, "-m", "ddo_engine", command, str(path), "--workdir", str(workdir), "--device", "cpu"],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    STARTED.append(process)
    return process


def run(command, spec, workdir):
    return finish(start(command, spec, workdir), timeout=300)


def ranks_of(process):
    """Return the process ids of the ranks, in order."""
    ranks = {child.pid: child.environ().get("RANK") for child in psutil.Process(process.pid).children()}
    return sorted((pid for pid, rank in ranks.items() if rank is not None), key=lambda pid: ranks[pid])


def has_ended(pids, seconds=ENDS_WITHIN_SECONDS):
    until = time.monotonic() + seconds
    while any(is_running(pid) for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def hashes(workdir):
    return {path.name: sha256_of(path) for path in Path(workdir).glob("*.safetensors")}


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    ended = run("train", inputs.train_spec(**LONG), folder)
    assert ended.exit_status == 0, ended.stderr
    assert [event["type"] for event in (ended.events[0], ended.events[-1])] == ["started", "finished"]
    assert ended.events[0]["device"] == "2 × cpu (1 threads)"
    return ended, hashes(folder)


def test_trial_whose_processes_are_killed_and_run_again_equals_undisturbed(inputs, tmp_path, undisturbed):
    dice = random.Random(4)
    spec, events = inputs.train_spec(**LONG), []
    for rank in (1, 0, 1):
        process = start("train", spec, tmp_path)
        events += read_until(process, lambda event: event.get("role") == "state")
        time.sleep(dice.uniform(0.0, 0.3))
        pids = ranks_of(process)
        os.kill(pids[rank], signal.SIGKILL)
        asked = time.monotonic()
        ended = finish(process)
        assert ended.exit_status != 0
        assert time.monotonic() - asked < ENDS_WITHIN_SECONDS
        assert has_ended(pids, 0)
        failed = ended.of_type("error")
        assert [event["code"] for event in failed] == (["process_lost"] if rank == 1 else []), ended.stderr
        events += [event for event in ended.events if event["type"] != "error"]
    last = run("train", spec, tmp_path)
    assert last.exit_status == 0, last.stderr
    assert last.events[0]["resumed_from_kimg"] is not None
    assert results(events + last.events) == results(undisturbed[0].events)
    assert hashes(tmp_path) == undisturbed[1]


def test_trial_told_to_stop_writes_its_state_and_run_again_equals_undisturbed(inputs, tmp_path, undisturbed):
    spec = inputs.train_spec(**LONG)
    process = start("train", spec, tmp_path)
    events = read_until(process, lambda event: event["type"] == "metric" and event["step"] >= 30)
    pids = ranks_of(process)
    process.terminate()
    stopped = finish(process)
    assert stopped.exit_status != 0  # torchrun has one status for all that is not 0
    assert (stopped.events[-1]["type"], stopped.events[-1]["code"]) == ("error", "interrupted")
    assert stopped.events[-2]["role"] == "state"
    assert has_ended(pids, 0)
    resumed = run("train", spec, tmp_path)
    assert resumed.exit_status == 0, resumed.stderr
    assert resumed.events[0]["resumed_from_kimg"] == stopped.events[-2]["kimg"]
    assert results(events + stopped.events[:-1] + resumed.events) == results(undisturbed[0].events)
    assert hashes(tmp_path) == undisturbed[1]


def test_death_of_torchrun_takes_all_processes_along(inputs, tmp_path):
    process = start("train", inputs.train_spec(**LONG), tmp_path)
    read_until(process, lambda event: event["type"] == "started")
    pids = ranks_of(process)
    assert len(pids) == 2
    process.kill()
    assert has_ended(pids)
    finish(process)


def test_process_killed_before_it_has_met_the_other_ends_the_run(inputs, tmp_path):
    process = start("train", inputs.train_spec(**LONG), tmp_path)
    until = time.monotonic() + 30
    while len(pids := ranks_of(process)) < 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(pids[0], signal.SIGKILL)
    asked = time.monotonic()
    ended = finish(process)
    assert ended.exit_status != 0
    assert time.monotonic() - asked < ENDS_WITHIN_SECONDS
    assert has_ended(pids, 0)


@pytest.mark.parametrize(
    ("command", "overrides", "code", "param"),
    [
        ("train", {"training": {"learning_rate": -1}}, "invalid_spec", "training.learning_rate"),
        ("train", {"checkpoint": "/nowhere.safetensors"}, "invalid_spec", "checkpoint"),
        ("validate", {}, "invalid_spec", "command"),
    ],
)
def test_error_of_all_processes_is_told_once(inputs, tmp_path, command, overrides, code, param):
    ended = run(command, inputs.train_spec(**overrides), tmp_path)
    assert ended.exit_status != 0
    assert [(event["code"], event["param"]) for event in ended.of_type("error")] == [(code, param)]
    assert ended.events[-1]["type"] == "error"


def test_file_command_of_several_processes_is_refused(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "ddo_engine", "convert", "a.pkl", str(tmp_path / "b.safetensors")]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert "convert runs in one process" in ended.stderr
    assert list(tmp_path.iterdir()) == []
