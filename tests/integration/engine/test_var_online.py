"""DDO trials of a VAR as in the paper: fakes drawn beside the batch, dropped labels, mixed precision, AdamW."""

import math

import pytest
import torch

from ddo_engine.checkpoint import load_checkpoint, read_manifest
from ddo_engine.errors import InvalidSpec, NonFiniteLoss
from ddo_engine.families.var.family import VARFamily
from ddo_engine.loss_scale import INITIAL_SCALE
from ddo_engine.state_file import read_state
from ddo_engine.trial import Trial
from tests.disturbed_trials import stopped_after_step
from tests.engine_inputs import EngineInputs, results, run_in_process
from tests.var_inputs import make_var_inputs, train_spec

PAPERS = {
    "micro_batch_size": 5,
    "adam_betas": [0.9, 0.95],
    "weight_decay": 0.05,
    "final_weight_decay": 0.08,
    "max_gradient_norm": 2.0,
    "schedule": {"kind": "var"},
    "warmup_kimg": 0.016,
    "final_learning_rate_factor": 0.1,
}


@pytest.fixture(scope="module")
def var_inputs(tmp_path_factory) -> EngineInputs:
    return make_var_inputs(tmp_path_factory.mktemp("var-inputs"))


def online_spec(inputs, *, training=None, online=None, **overrides):
    return train_spec(
        inputs,
        reference_set=...,
        online_reference_set={"kind": "online"} | (online or {}),
        training=PAPERS | (training or {}),
        **({"objective": {"kind": "ddo", "alpha": 20.0, "beta": 0.02}} | overrides),
    )


def metrics(events):
    return [event["values"] for event in events if event["type"] == "metric"]


def state_of(folder):
    return read_state(folder / "state.safetensors")


VARIANTS = {
    "as in the paper": {},
    "no average": {"training": {"ema_half_life_kimg": 0.0}},
    "power-function average": {"training": {"ema_half_life_kimg": None, "ema_std": 0.05}},
    "tokens as drawn": {"online": {"decode": False, "batch_size": 3}},
    "mle rows": {"training": {"unconditional_rows": "mle", "label_dropout": 0.3}},
    "bfloat16": {"training": {"precision": "bfloat16"}},
    "float16": {"training": {"precision": "float16"}},
    "beta found by a probe": {"objective": {"kind": "ddo", "alpha": 20.0, "beta": "auto"}},
}


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_online_trial_stopped_and_run_again_equals_undisturbed_to_the_bit(var_inputs, tmp_path, variant, step):
    spec = online_spec(var_inputs, **VARIANTS[variant])
    undisturbed = run_in_process("train", spec, tmp_path / "undisturbed")
    events = stopped_after_step(spec, tmp_path / "stopped", step)
    resumed = run_in_process("train", spec, tmp_path / "stopped")
    assert resumed[0]["resumed_from_kimg"] == pytest.approx(step * 0.016)
    assert results(events + resumed) == results(undisturbed)
    one, other = (state_of(tmp_path / run) for run in ("undisturbed", "stopped"))
    assert one.header == other.header
    assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


def test_online_trial_starts_at_ratio_0_with_half_its_rows_against_fakes(var_inputs, tmp_path):
    first = metrics(run_in_process("train", online_spec(var_inputs), tmp_path))[0]
    kept = round((first["loss"] * 20 / math.log(2) - 1) / 20 * 16)
    assert 0 < kept < 16
    assert first["loss"] == pytest.approx((1 + 20 * kept / 16) * math.log(2) / 20, rel=1e-6)
    assert first["ratio_real_std"] == first["ratio_fake_std"] == 0.0


def test_online_trial_in_micro_batches_draws_the_same_fakes_and_takes_the_same_steps(var_inputs, tmp_path, monkeypatch):
    drawn, original = {}, VARFamily.draw_fakes

    def watched(self, model, seeds, labels_B, online, training):
        images = original(self, model, seeds, labels_B, online, training)
        drawn[name].update(zip(seeds, images.flatten(1).tolist(), strict=True))
        return images

    monkeypatch.setattr(VARFamily, "draw_fakes", watched)
    for name, size in (("whole", None), ("pieces", 5), ("single rows", 1)):
        drawn[name] = {}
        run_in_process("train", online_spec(var_inputs, training={"micro_batch_size": size}), tmp_path / name)
    assert len(drawn["whole"]) > 16
    assert drawn["pieces"] == drawn["single rows"] == drawn["whole"]
    whole, pieces, rows = (state_of(tmp_path / name).tensors for name in drawn)
    for name, tensor in whole.items():
        torch.testing.assert_close(pieces[name], tensor, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rows[name], tensor, rtol=1e-4, atol=1e-5)


def test_online_fakes_of_a_later_round_are_those_of_its_reference(var_inputs, tmp_path):
    """The reference stays the base while the target moves away from it."""
    training = {"kimg": 0.48, "evaluate_every_kimg": 0.48, "learning_rate": 3e-3}
    events = run_in_process("train", online_spec(var_inputs, training=training), tmp_path)
    values = metrics(events)[-1]
    assert values["ratio_real_mean"] > values["ratio_fake_mean"]
    assert values["loss"] < metrics(events)[0]["loss"]


def test_manifest_of_an_online_trial_says_so(var_inputs, tmp_path):
    events = run_in_process("train", online_spec(var_inputs, online={"decode": False}), tmp_path)
    written = [event for event in events if event["type"] == "file" and event["role"] == "checkpoint"][-1]
    provenance = read_manifest(written["path"]).provenance
    assert provenance["online_reference_set"] == {"kind": "online", "decode": False, "batch_size": 64}
    assert provenance["reference_set_sha256"] == []


def test_state_of_other_online_settings_is_not_taken_up(var_inputs, tmp_path):
    run_in_process("train", online_spec(var_inputs), tmp_path)
    with pytest.raises(Exception, match=r"online_reference_set\.decode"):
        run_in_process("train", online_spec(var_inputs, online={"decode": False}), tmp_path)


def test_online_fakes_of_a_diffusion_model_are_refused(inputs, tmp_path):
    spec = inputs.train_spec(reference_set=..., online_reference_set={"kind": "online"})
    with pytest.raises(InvalidSpec, match="generate a reference set") as error:
        run_in_process("train", spec, tmp_path)
    assert error.value.param == "online_reference_set"


def test_cca_trial_needs_no_fakes_and_starts_at_ratio_0(var_inputs, tmp_path):
    spec = train_spec(
        var_inputs,
        reference_set=...,
        objective={"kind": "cca", "alpha": 2.0, "beta": 0.02},
        training={"label_dropout": 0.0, "normalise_by_alpha": False},
    )
    values = metrics(run_in_process("train", spec, tmp_path))
    assert values[0]["loss"] == pytest.approx(3 * math.log(2), rel=1e-6)
    assert values[-1]["ratio_real_std"] > 0


def test_cca_of_a_diffusion_model_is_refused(inputs, tmp_path):
    spec = inputs.train_spec(objective={"kind": "cca", "alpha": 2.0, "beta": 0.02}, reference_set=...)
    with pytest.raises(InvalidSpec, match="class-conditional VAR") as error:
        run_in_process("train", spec, tmp_path)
    assert error.value.param == "objective.kind"


def with_gradients(monkeypatch, of_step):
    """Let the trial's gradient be infinite in the steps that ``of_step`` says."""
    original = Trial._backward

    def backward(self):
        values = original(self)
        if of_step(self.state.step):
            next(iter(self.state.target_model.parameters())).grad.view(-1)[0] = torch.inf
        return values

    monkeypatch.setattr(Trial, "_backward", backward)


def test_float16_step_whose_gradient_overflows_is_skipped_and_counted(var_inputs, tmp_path, monkeypatch):
    with_gradients(monkeypatch, lambda step: step == 1)
    training = {"precision": "float16", "kimg": 0.032, "evaluate_every_kimg": 0.032}
    events = run_in_process("train", online_spec(var_inputs, training=training), tmp_path)
    assert [values["skipped_steps"] for values in metrics(events)] == [0.0, 1.0]
    assert [values["gradient_norm"] > 0 for values in metrics(events)] == [True, False]
    state = state_of(tmp_path)
    assert (state.header.step, state.header.loss_scale["scale"]) == (2, INITIAL_SCALE / 2)
    steps_of_adam = {float(tensor) for name, tensor in state.tensors.items() if name.endswith(".step")}
    assert steps_of_adam == {1.0}


def test_float16_gradients_that_overflow_at_every_scale_end_the_trial(var_inputs, tmp_path, monkeypatch):
    with_gradients(monkeypatch, lambda step: True)
    training = {"precision": "float16", "kimg": 0.32, "evaluate_every_kimg": 0.32}
    events = []
    with pytest.raises(NonFiniteLoss, match="the gradient is not finite after 11 steps"):
        run_in_process(
            "train",
            online_spec(var_inputs, training=training),
            tmp_path,
            lambda event, _: events.append(event),
        )
    assert [values["skipped_steps"] for values in metrics(events)] == [1.0] * 11


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gradient_that_is_not_finite_ends_other_trials_at_once(var_inputs, tmp_path, monkeypatch, precision):
    with_gradients(monkeypatch, lambda step: step == 1)
    with pytest.raises(NonFiniteLoss, match="the gradient is not finite after 1 steps"):
        run_in_process("train", online_spec(var_inputs, training={"precision": precision}), tmp_path)


def test_weight_decay_shrinks_the_matrices_of_a_var_and_nothing_else(var_inputs, tmp_path, monkeypatch):
    original = Trial._backward

    def no_gradient(self):
        values = original(self)
        for parameter in self.state.target_model.parameters():
            parameter.grad.zero_()
        return values

    monkeypatch.setattr(Trial, "_backward", no_gradient)
    training = {"kimg": 0.016, "evaluate_every_kimg": 0.016, "learning_rate": 0.5, "warmup_kimg": 0.0}
    training |= {"final_weight_decay": None, "micro_batch_size": None}
    run_in_process("train", online_spec(var_inputs, training=training), tmp_path)
    before = load_checkpoint(var_inputs.checkpoint).model.state_dict()
    after = state_of(tmp_path).tensors
    shrunk = {name for name in before if not torch.equal(after[f"target.{name}"], before[name])}
    for name in shrunk:
        torch.testing.assert_close(after[f"target.{name}"], before[name] * (1 - 0.5 * 0.05))
    block = {f"blocks.0.{name}.weight" for name in ("attn.mat_qkv", "attn.proj", "ffn.fc1", "ffn.fc2", "ada_lin.1")}
    assert shrunk == block | {"word_embed.weight", "class_emb.weight", "head.weight", "head_nm.ada_lin.1.weight"}
