"""Trials whose networks compute by other kernels: resumed to the bit, never taken up as plain ones, files alike."""

import pytest
import torch

from ddo_engine import compiler
from ddo_engine.checkpoint import read_manifest
from ddo_engine.errors import IncompatibleInputs, InvalidSpec
from ddo_engine.state_file import read_state
from tests.disturbed_trials import stopped_after_step
from tests.engine_inputs import results, run_in_process
from tests.var_inputs import make_var_inputs, train_spec

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


@pytest.fixture
def compiled_spec(tmp_path, monkeypatch):
    """A trial with fakes drawn beside each batch, so that the number of rows changes; its blocks are only traced."""
    monkeypatch.setattr(compiler, "BACKEND", "eager")
    monkeypatch.setattr(compiler, "_version_for", lambda device: "none")
    training = {"compile": True, "micro_batch_size": 6, "kimg": 0.048, "evaluate_every_kimg": 0.048}
    online = {"reference_set": ..., "online_reference_set": {"kind": "online"}}
    return train_spec(make_var_inputs(tmp_path / "inputs"), training=training, **online)


def test_compiled_trial_stopped_and_run_again_equals_undisturbed_and_is_not_taken_up_by_a_plain_one(
    compiled_spec, tmp_path
):
    undisturbed = run_in_process("train", compiled_spec, tmp_path / "undisturbed")
    assert any(event["type"] == "progress" and event["phase"] == "compiling" for event in undisturbed)
    first = next(event["values"] for event in undisturbed if event["type"] == "metric")
    assert first["ratio_real_std"] == first["ratio_fake_std"] == first["ratio_real_mean"] == 0.0
    events = stopped_after_step(compiled_spec, tmp_path / "stopped", 2)
    plain = compiled_spec | {"training": compiled_spec["training"] | {"compile": False}}
    with pytest.raises(IncompatibleInputs, match=r"training\.compile is True there and False"):
        run_in_process("train", plain, tmp_path / "stopped")
    resumed = run_in_process("train", compiled_spec, tmp_path / "stopped")
    assert results(events + resumed) == results(undisturbed)
    one, other = (read_state(tmp_path / run / "state.safetensors") for run in ("undisturbed", "stopped"))
    assert one.header.numerics["compiler"] == "none"
    assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())
    assert not any("_orig_mod" in name for name in one.tensors)
    [written] = [event for event in undisturbed if event["type"] == "file" and event["role"] == "checkpoint"]
    assert read_manifest(written["path"]).provenance["training"]["compile"] is True


def test_compiled_trial_with_weights_in_rows_is_refused_by_name(compiled_spec, tmp_path):
    with pytest.raises(InvalidSpec, match=r"training\.compile: not with weights in rows"):
        run_in_process("train", compiled_spec, tmp_path, shard_weights=True)
