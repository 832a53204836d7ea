"""The file of a training state: exact, deterministic, and refused when anything in it has changed."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ddo_engine.errors import CorruptCheckpoint
from ddo_engine.state_file import SavedState, StateHeader, read_state, write_state

HEADER = StateHeader(
    identity={"seed": 3, "training": {"kimg": 0.1}},
    step=7,
    kimg=0.07,
    evaluated_step=5,
    best_fid=0.1 + 0.2,
    window_steps=2,
    numerics={"device": "cpu"},
)
TENSORS = {
    "target.weight": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)),
    "optimizer.0.step": torch.tensor(7.0),
    "window": torch.tensor([1 / 3, 2 / 3], dtype=torch.float64),
    "target.count": torch.tensor(4),
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "state.safetensors"
    write_state(path, SavedState(HEADER, TENSORS))
    return path


def test_state_comes_back_to_the_bit(path):
    state = read_state(path)
    assert state.header == HEADER
    assert state.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert state.tensors[name].dtype == tensor.dtype
        assert torch.equal(state.tensors[name], tensor)


def test_equal_states_are_equal_bytes(path, tmp_path):
    again = tmp_path / "again.safetensors"
    write_state(again, SavedState(HEADER, dict(reversed(TENSORS.items()))))
    assert again.read_bytes() == path.read_bytes()


def test_file_is_what_the_library_writes_of_the_same_content(path, tmp_path):
    with safe_open(path, framework="pt") as file:
        save_file(TENSORS, tmp_path / "theirs.safetensors", file.metadata())
    assert path.read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_state_with_any_byte_changed_is_refused(path):
    original = path.read_bytes()
    for position in range(len(original)):
        changed = bytearray(original)
        changed[position] ^= 1 << (position % 8)
        path.write_bytes(changed)
        with pytest.raises(CorruptCheckpoint, match=r"state\.safetensors is not an undamaged training state"):
            read_state(path)


def test_state_with_another_spelling_of_the_same_number_is_refused(path):
    original = path.read_bytes()
    assert original.count(b"0.30000000000000004") == 1
    path.write_bytes(original.replace(b"0.30000000000000004", b"0.30000000000000005"))
    with pytest.raises(CorruptCheckpoint, match="does not match its SHA-256"):
        read_state(path)


def test_state_cut_short_anywhere_is_refused(path):
    original = path.read_bytes()
    for length in range(0, len(original), 7):
        path.write_bytes(original[:length])
        with pytest.raises(CorruptCheckpoint):
            read_state(path)


def test_state_with_bytes_added_is_refused(path):
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CorruptCheckpoint):
        read_state(path)


@pytest.mark.parametrize("metadata", [None, {"ddo_state": "{"}, {"ddo_state": "[]"}, {"ddo_state": '{"header": {}}'}])
def test_file_that_is_no_state_is_refused(tmp_path, metadata):
    path = tmp_path / "other.safetensors"
    save_file(TENSORS, path, metadata)
    with pytest.raises(CorruptCheckpoint, match="header"):
        read_state(path)


def test_pickle_in_the_place_of_a_state_is_refused_and_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "state.safetensors"
    torch.save(Payload(), path)
    with pytest.raises(CorruptCheckpoint):
        read_state(path)
    assert not (tmp_path / "ran").exists()


def test_state_that_is_missing_is_refused(tmp_path):
    with pytest.raises(CorruptCheckpoint):
        read_state(tmp_path / "state.safetensors")
