"""An EDM2 network in a trial: weights that stay normalised, whatever they were stored as."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from ddo_engine.checkpoint import CheckpointManifest, load_checkpoint, save_checkpoint
from ddo_engine.conversion import convert
from ddo_engine.families import get_family
from ddo_engine.families.edm2.layers import MPConv
from ddo_engine.state_file import SavedState, read_state
from ddo_engine.training_loss import DDOTrainingLoss
from tests.disturbed_trials import stopped_after_step
from tests.engine_inputs import EngineInputs, make_inputs, results, run_in_process
from tests.official_pickles import edm2_file, write
from tests.tiny_families import EDM2, randomised

TRAINING = {"learning_rate": 3e-2, "warmup_kimg": 0.0, "kimg": 0.064, "evaluate_every_kimg": 0.064}
EPS = 1e-4  # what normalising adds to a magnitude before it divides by it


@pytest.fixture(scope="module")
def edm2_inputs(tmp_path_factory) -> EngineInputs:
    """Inputs whose checkpoint was converted from a pickle, in float16, with weights of all magnitudes."""
    inputs = make_inputs(tmp_path_factory.mktemp("edm2-inputs"))
    model = randomised("edm2", EDM2, seed=1)
    with torch.no_grad():
        for factor, layer in enumerate(layers(model), start=1):
            layer.weight.mul_(0.1 * factor)
    arguments = {name: value for name, value in EDM2.items() if name != "class_name"}
    convert(write(inputs.folder / "base.pkl", edm2_file(arguments, model.state_dict())), inputs.checkpoint)
    return inputs


def layers(model: nn.Module) -> list[MPConv]:
    return [module for module in model.modules() if isinstance(module, MPConv)]


def magnitudes(model: nn.Module) -> torch.Tensor:
    """Root mean squares of all rows of all weights."""
    return torch.cat([layer.weight.detach().float().flatten(1).square().mean(1).sqrt() for layer in layers(model)])


def is_normalised(model: nn.Module) -> bool:
    return bool((magnitudes(model) - 1).abs().max() < 20 * EPS)


def model_of(state, prefix):
    model = get_family("edm2").build(EDM2)
    names = [name for name in state.tensors if name.startswith(prefix)]
    model.load_state_dict({name.removeprefix(prefix): state.tensors[name] for name in names}, strict=True)
    return model


def train_spec(inputs, **training):
    return inputs.train_spec(training=TRAINING | training, sampler={"state_dtype": "float32"})


def files(events, role):
    return [event for event in events if event["type"] == "file" and event["role"] == role]


def test_base_of_all_magnitudes_is_stored_in_half_precision(edm2_inputs):
    base = load_checkpoint(edm2_inputs.checkpoint).model
    assert {parameter.dtype for parameter in base.parameters()} == {torch.float16}
    assert float(magnitudes(base).max() / magnitudes(base).min()) > 3


def test_weights_are_normalised_after_every_step(edm2_inputs, tmp_path):
    by_step = {}

    def keep(event, _):
        if event.get("role") == "state":
            state = read_state(Path(event["path"]))
            by_step[state.header.step] = SavedState(state.header, dict(state.tensors))  # the next one takes its place

    run_in_process("train", train_spec(edm2_inputs, save_state_every_kimg=0.016), tmp_path, keep)
    assert list(by_step) == [1, 2, 3, 4]
    targets = [model_of(state, "target.") for state in by_step.values()]
    assert all(is_normalised(target) for target in targets)
    first, last = (torch.cat([layer.weight.detach().flatten() for layer in layers(target)]) for target in targets[::3])
    assert float((last - first).abs().max()) > 0.05  # an Adam step of 3e-2 in a row of unit magnitude


def test_a_step_without_the_projection_leaves_weights_of_other_magnitudes(edm2_inputs, tmp_path, monkeypatch):
    monkeypatch.setattr("ddo_engine.families.edm2.family.normalise_weights_", lambda model: None)
    run_in_process("train", train_spec(edm2_inputs), tmp_path)
    assert not is_normalised(model_of(read_state(tmp_path / "state.safetensors"), "target."))


def test_reference_is_normalised_frozen_and_the_function_of_the_base(edm2_inputs, tmp_path, monkeypatch):
    references = []
    made = DDOTrainingLoss.__init__

    def remember(self, *arguments, **options):
        made(self, *arguments, **options)
        references.append(self.reference_model)

    monkeypatch.setattr(DDOTrainingLoss, "__init__", remember)
    run_in_process("train", train_spec(edm2_inputs), tmp_path)
    (reference,) = references
    assert is_normalised(reference)
    assert not any(parameter.requires_grad for parameter in reference.parameters())
    assert not any(module.training for module in reference.modules())
    base = load_checkpoint(edm2_inputs.checkpoint, dtype=torch.float32).model
    x, sigma, labels = torch.randn(6, 1, 4, 4), torch.tensor([0.01, 0.1, 0.5, 1.0, 5.0, 50.0]), torch.arange(6) % 3
    torch.testing.assert_close(
        reference.denoise(x, sigma, labels), base.denoise(x, sigma, labels), rtol=20 * EPS, atol=20 * EPS
    )


def test_base_in_half_precision_trains_and_is_published_in_float32(edm2_inputs, tmp_path):
    events = run_in_process("train", train_spec(edm2_inputs), tmp_path)
    state = read_state(tmp_path / "state.safetensors")
    weights = {name: tensor for name, tensor in state.tensors.items() if name.startswith(("target.", "ema."))}
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    trained = load_checkpoint(files(events, "checkpoint")[-1]["path"])
    assert {parameter.dtype for parameter in trained.model.parameters()} == {torch.float32}
    assert any(not torch.equal(tensor, tensor.half().float()) for tensor in trained.model.state_dict().values())


def test_base_in_float32_of_the_same_values_trains_the_same_weights(edm2_inputs, tmp_path):
    wide = tmp_path / "wide.safetensors"
    model = load_checkpoint(edm2_inputs.checkpoint, dtype=torch.float32).model
    save_checkpoint(wide, model, CheckpointManifest(family="edm2", network=EDM2))
    run_in_process("train", train_spec(edm2_inputs), tmp_path / "half")
    run_in_process("train", train_spec(edm2_inputs) | {"checkpoint": str(wide)}, tmp_path / "wide")
    half, wide_state = (read_state(tmp_path / name / "state.safetensors").tensors for name in ("half", "wide"))
    assert all(torch.equal(tensor, wide_state[name]) for name, tensor in half.items())


def test_round_after_a_round_starts_from_normalised_weights_and_ratio_0(edm2_inputs, tmp_path):
    (*_, written) = files(run_in_process("train", train_spec(edm2_inputs), tmp_path / "one"), "checkpoint")
    # an average of weights of unit magnitude is shorter than they are
    assert not is_normalised(load_checkpoint(written["path"]).model)
    spec = train_spec(edm2_inputs, save_state_every_kimg=0.016) | {"checkpoint": written["path"]}
    events = run_in_process("train", spec, tmp_path / "two")
    first = next(event["values"] for event in events if event["type"] == "metric")
    assert first["ratio_real_std"] == first["ratio_fake_std"] == 0.0
    assert first["loss"] == pytest.approx(3 * math.log(2), rel=1e-6)
    assert is_normalised(model_of(read_state(tmp_path / "two" / "state.safetensors"), "target."))


@pytest.mark.parametrize("step", [1, 3])
def test_trial_of_edm2_stopped_and_run_again_equals_undisturbed(edm2_inputs, tmp_path, step):
    spec = train_spec(edm2_inputs)
    undisturbed = run_in_process("train", spec, tmp_path / "undisturbed")
    events = stopped_after_step(spec, tmp_path / "stopped", step)
    assert results(events + run_in_process("train", spec, tmp_path / "stopped")) == results(undisturbed)
