"""A hash of tensors sees every bit of them, and where it is."""

import pytest
import torch

from ddo_engine.parallel import fingerprint as module
from ddo_engine.parallel.fingerprint import fingerprint


def tensors():
    generator = torch.Generator().manual_seed(3)
    return {
        "weight": torch.randn(7, 5, generator=generator),
        "moment": torch.randn(11, generator=generator, dtype=torch.float64),
        "half": torch.randn(6, generator=generator).half(),
        "step": torch.tensor(4.0),
        "flag": torch.tensor([True, False]),
        "empty": torch.zeros(0),
    }


def test_fingerprint_of_equal_tensors_is_equal_in_whatever_order_and_layout():
    same = dict(reversed(tensors().items()))
    same["weight"] = same["weight"].t().contiguous().t()
    assert fingerprint(tensors()) == fingerprint(same)


@pytest.mark.parametrize("name", ["weight", "moment", "half", "step", "flag"])
def test_fingerprint_sees_one_bit(name):
    changed = tensors()
    bits = changed[name].view(-1).view(torch.uint8)
    bits[-1] ^= 1
    assert fingerprint(changed) != fingerprint(tensors())


def test_fingerprint_sees_values_that_change_places():
    changed = tensors()
    changed["weight"] = changed["weight"].flip(0)
    assert fingerprint(changed) != fingerprint(tensors())


def test_fingerprint_sees_names_shapes_and_types():
    one = fingerprint({"a": torch.zeros(4)})
    others = [{"b": torch.zeros(4)}, {"a": torch.zeros(2, 2)}, {"a": torch.zeros(4, dtype=torch.int32)}]
    assert one not in [fingerprint(other) for other in others]


def test_fingerprint_does_not_depend_on_the_size_of_its_chunks(monkeypatch):
    whole = fingerprint(tensors())
    monkeypatch.setattr(module, "_CHUNK", 4)
    assert fingerprint(tensors()) == whole
