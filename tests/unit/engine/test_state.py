"""Taking a training state down and up again."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from ddo_engine.ema import update_ema
from ddo_engine.errors import CorruptCheckpoint, IncompatibleInputs
from ddo_engine.families import get_family
from ddo_engine.spec import TrainingSettings
from ddo_engine.state import TrainingState
from ddo_engine.state_file import SavedState, read_state, write_state
from ddo_engine.state_identity import check_belongs_to, numerics_of

TRAINING = TrainingSettings(kimg=1, batch_size=4, learning_rate=0.01, ema_half_life_kimg=0.01, evaluate_every_kimg=1)
IDENTITY = {"seed": 3, "training": {"learning_rate": 0.01, "kimg": 1}, "reference_set_sha256": ["ab"]}


def base_model(width=5):
    torch.manual_seed(0)
    # An unused parameter has no gradient and no entry in the optimizer's state; a buffer is no parameter.
    model = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 1)).eval()
    model.register_parameter("unused", nn.Parameter(torch.ones(2)))
    return model


def fresh(width=5):
    return TrainingState.fresh(get_family("edm"), base_model(width), TRAINING, ("loss", "accuracy"))


def advance(state, steps):
    for _ in range(steps):
        images = torch.randn(4, 3, generator=torch.Generator().manual_seed(state.step))
        state.optimizer.zero_grad()
        loss = state.target_model(images).square().sum()
        loss.backward()
        state.optimizer.step()
        update_ema(state.ema_model, state.target_model, 0.7)
        state.window.add(torch.stack([loss.detach(), loss.detach() / 3]).double())
        state.step += 1
    return state


def assert_same(one, other):
    left, right = one.save(IDENTITY, 1.0), other.save(IDENTITY, 1.0)
    assert left.header == right.header
    assert left.tensors.keys() == right.tensors.keys()
    for name, tensor in left.tensors.items():
        assert torch.equal(tensor, right.tensors[name]), name


@pytest.mark.parametrize(
    ("patched", "value"),
    [("torch.backends.cpu.get_cpu_capability", "VSX"), ("torch.get_num_threads", 61), ("ENGINE_VERSION", "0.0")],
)
def test_numerics_tell_machines_and_engines_apart_that_may_give_other_bits(monkeypatch, patched, value):
    here = numerics_of(torch.device("cpu"))
    monkeypatch.setattr(f"ddo_engine.state_identity.{patched}", value if patched == "ENGINE_VERSION" else lambda: value)
    assert numerics_of(torch.device("cpu")) != here


def test_fresh_state_has_target_and_average_equal_to_the_base():
    base = base_model()
    state = TrainingState.fresh(get_family("edm"), base, TRAINING, ("loss", "accuracy"))
    for model in (state.target_model, state.ema_model):
        assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in base.state_dict().items())
        assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in state.target_model.parameters())
    assert not any(parameter.requires_grad for parameter in state.ema_model.parameters())
    advance(state, 1)
    assert torch.equal(base[0].weight, base_model()[0].weight)


def test_five_steps_equal_two_and_a_restore_and_three_to_the_bit(tmp_path):
    path = tmp_path / "state.safetensors"
    interrupted = advance(fresh(), 2)
    interrupted.best_fid, interrupted.evaluated_step = 0.1 + 0.2, 1
    write_state(path, interrupted.save(IDENTITY, 0.008))
    resumed = fresh()
    resumed.restore(read_state(path))
    assert_same(resumed, interrupted)
    undisturbed = advance(fresh(), 5)
    undisturbed.best_fid, undisturbed.evaluated_step = 0.1 + 0.2, 1
    assert_same(advance(resumed, 3), undisturbed)


def test_restore_keeps_the_settings_of_this_run():
    saved = advance(fresh(), 1).save(IDENTITY, 0.004)
    resumed = fresh()
    resumed.restore(saved)
    assert resumed.optimizer.param_groups[0]["betas"] == TRAINING.adam_betas
    assert resumed.optimizer.param_groups[0]["fused"] is True
    assert resumed.optimizer.param_groups[0]["params"][0] is next(resumed.target_model.parameters())


def test_window_means_are_taken_once():
    state = advance(fresh(), 3)
    means = state.window.take_means()
    assert means["loss"] == pytest.approx(3 * means["accuracy"])
    assert (state.window.num_steps, state.window.sums_K.tolist()) == (0, [0.0, 0.0])


@pytest.mark.parametrize("damage", ["another width", "missing tensor", "odd optimizer entry"])
def test_restore_of_tensors_of_another_model_is_refused(damage):
    saved = advance(fresh(7 if damage == "another width" else 5), 1).save(IDENTITY, 0.004)
    tensors = dict(saved.tensors)
    if damage == "missing tensor":
        del tensors["ema.0.weight"]
    if damage == "odd optimizer entry":
        tensors["optimizer.zero"] = torch.ones(1)
    with pytest.raises(CorruptCheckpoint, match="not those of this model"):
        fresh().restore(replace(saved, tensors=tensors))


def test_state_of_the_same_run_belongs_to_it():
    check_belongs_to(fresh().save(IDENTITY, 0.0), deepcopy(IDENTITY))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 4}, "seed is 3 there and 4"),
        ({"training": {"learning_rate": 0.02, "kimg": 1}}, r"training\.learning_rate is 0\.01 there and 0\.02"),
        ({"reference_set_sha256": ["ab", "cd"]}, "reference_set_sha256"),
        ({"more": 1}, "more is None there and 1"),
    ],
)
def test_state_of_another_run_is_refused_naming_what_differs(change, named):
    saved: SavedState = fresh().save(IDENTITY, 0.0)
    with pytest.raises(IncompatibleInputs, match=named) as caught:
        check_belongs_to(saved, IDENTITY | change)
    assert caught.value.param == "state"
