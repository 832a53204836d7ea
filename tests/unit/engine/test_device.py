"""Choice of the device and failures of its memory."""

import pytest
import torch

from ddo_engine.device import out_of_memory_blames, pick_device
from ddo_engine.errors import InvalidSpec, NonFiniteLoss, OutOfMemory


def test_cpu_is_picked_when_asked_for():
    assert pick_device("cpu") == torch.device("cpu")


def test_auto_picks_cuda_exactly_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")


def test_cuda_where_there_is_none_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InvalidSpec, match="no CUDA device"):
        pick_device("cuda")


def test_allocation_that_cannot_succeed_blames_the_setting():
    with (
        pytest.raises(OutOfMemory, match=r"lower training\.batch_size") as caught,
        out_of_memory_blames("training.batch_size"),
    ):
        torch.empty(2**60, dtype=torch.uint8)
    assert caught.value.param == "training.batch_size"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory.\nTried"), MemoryError()])
def test_allocation_failures_of_the_device_and_of_python_blame_the_setting(error):
    with pytest.raises(OutOfMemory) as caught, out_of_memory_blames("sampler.batch_size"):
        raise error
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), NonFiniteLoss("x"), OutOfMemory("y", param="z")])
def test_other_errors_pass_through(error):
    with pytest.raises(type(error)) as caught, out_of_memory_blames("sampler.batch_size"):
        raise error
    assert caught.value is error
