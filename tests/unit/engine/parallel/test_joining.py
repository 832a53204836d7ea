"""How processes come together, and part."""

import json
import time

import pytest
import torch

from ddo_engine.errors import InvalidSpec
from ddo_engine.parallel.joining import device_of
from ddo_engine.parallel.launch import Launch
from tests.rank_cases import run_ranks

CODE = """
import json, os, sys, time, torch
from ddo_engine.errors import EngineError, InvalidDataset
from ddo_engine.interruption import StopRequest
from ddo_engine.parallel.joining import joined
from ddo_engine.parallel.launch import launch_of

launch = launch_of(os.environ)
try:
    with joined(launch, torch.device("cpu"), StopRequest()) as ranks:
        if not ranks.leads:
            {what}
        ranks.wait()
        ranks.wait()
except (EngineError, KeyError) as error:
    print(json.dumps([getattr(error, name, None) for name in ("code", "message", "param", "exit_status")]))
os._exit(0)
"""


def test_error_of_another_process_is_told_by_the_one_that_leads():
    ended = run_ranks(["-c", CODE.format(what="raise InvalidDataset('only here', param='dataset')")], 2)
    expected = ["invalid_dataset", "only here", "dataset", 65]
    assert [json.loads(each.stdout) for each in ended] == [expected, expected], ended


def test_defect_in_another_process_is_told_by_the_one_that_leads():
    leader, other = run_ranks(["-c", CODE.format(what="raise KeyError('oh')")], 2)
    code, message, _, exit_status = json.loads(leader.stdout)
    assert (code, exit_status) == ("engine_error", 70)
    assert "process 1 failed unexpectedly (KeyError: 'oh')" in message
    assert json.loads(other.stdout) == [None] * 4


def test_death_of_another_process_is_a_lost_process():
    started = time.monotonic()
    leader, other = run_ranks(["-c", CODE.format(what="os.kill(os.getpid(), 9)")], 2)
    assert other.returncode == -9
    assert json.loads(leader.stdout)[0] == "process_lost"
    assert time.monotonic() - started < 60


def test_processes_that_end_one_after_the_other_end_well():
    ended = run_ranks(["-c", CODE.format(what="pass")], 3)
    assert [(each.returncode, each.stdout) for each in ended] == [(0, "")] * 3, ended


def test_process_of_several_has_the_gpu_of_its_rank(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert device_of(Launch(1, 2, 2), torch.device("cuda")) == torch.device("cuda", 1)
    assert chosen == [torch.device("cuda", 1)]
    assert device_of(Launch(1, 2, 2), torch.device("cpu")) == torch.device("cpu")
    assert device_of(Launch(), torch.device("cuda")) == torch.device("cuda")
    with pytest.raises(InvalidSpec, match="3 processes need a GPU each, torch sees 2") as error:
        device_of(Launch(1, 3, 3), torch.device("cuda"))
    assert error.value.param == "device"
