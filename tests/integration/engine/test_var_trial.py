"""A VAR and its VQVAE through the life of a job: validate, generate, train, evaluate, guided and with top-k."""

import math

import pytest
import torch

from ddo_engine import load_model, sample
from ddo_engine.checkpoint import CheckpointManifest, load_checkpoint, read_manifest, save_checkpoint
from ddo_engine.data import load_dataset
from ddo_engine.errors import CorruptCheckpoint, EngineError, IncompatibleInputs, InvalidSpec
from ddo_engine.files import sha256_of
from ddo_engine.spec import AutoregressiveSettings
from ddo_engine.state_file import read_state
from tests.disturbed_trials import stopped_after_step
from tests.engine_inputs import EngineInputs, results, run_in_process
from tests.tiny_families import VQVAE, randomised, write_discriminator
from tests.var_inputs import inputs_of, make_var_inputs, train_spec


@pytest.fixture(scope="module")
def var_inputs(tmp_path_factory) -> EngineInputs:
    return make_var_inputs(tmp_path_factory.mktemp("var-inputs"))


def evaluate_spec(inputs, **overrides):
    features = str(inputs.feature_network)
    return inputs_of(inputs, feature_network=features, evaluations=[{"num_samples": 48, "seed": 5}], **overrides)


def spec_of(command, inputs, **overrides):
    match command:
        case "validate":
            return inputs_of(inputs, feature_network=str(inputs.feature_network), **overrides)
        case "generate":
            return inputs_of(inputs, num_samples=2, **overrides)
        case "train":
            return train_spec(inputs, **overrides)
        case _:
            return evaluate_spec(inputs, **overrides)


COMMANDS = pytest.mark.parametrize("command", ["validate", "generate", "train", "evaluate"])
OBJECTIVES = pytest.mark.parametrize("objective", ["ddo", "mle"])


def of_type(events, kind):
    return [event for event in events if event["type"] == kind]


def files(events, role):
    return [event for event in of_type(events, "file") if event["role"] == role]


def objective_of(kind):
    if kind == "mle":
        return {"objective": {"kind": "mle"}, "reference_set": ...}
    return {"objective": {"kind": "ddo", "alpha": 20.0, "beta": 0.02}}


def evaluation(events):
    (event,) = of_type(events, "evaluation")
    return event


def test_validate_reports_tokens_of_pixels(var_inputs, tmp_path):
    (report,) = of_type(run_in_process("validate", spec_of("validate", var_inputs), tmp_path), "report")
    checkpoint = report["checkpoint"]
    assert (checkpoint["family"], checkpoint["network"], checkpoint["space"]) == ("var", "VAR", "tokens")
    assert (checkpoint["img_resolution"], checkpoint["img_channels"], checkpoint["label_dim"]) == (4, 1, 3)


def test_generate_writes_what_sample_draws_with_the_labels_it_was_drawn_with(var_inputs, tmp_path):
    spec = inputs_of(var_inputs, num_samples=20, first_seed=7)
    (file,) = files(run_in_process("generate", spec, tmp_path), "reference_set")
    batch = load_dataset(file["path"]).batch(range(20))
    model = load_model(var_inputs.checkpoint, autoencoder=var_inputs.folder / "vqvae.safetensors")
    settings = AutoregressiveSettings(num_scales=2)
    assert torch.equal(batch.images_BCHW, sample(model, range(7, 27), labels=batch.labels_B, sampler=settings))
    assert len(batch.images_BCHW.flatten(1).unique(dim=0)) > 5


@pytest.mark.parametrize("alpha", [0.0, 20.0])
def test_first_step_of_a_var_has_ratio_0(var_inputs, tmp_path, alpha):
    training = {"label_dropout": 0.0, "normalise_by_alpha": False}
    spec = train_spec(var_inputs, training=training, objective={"kind": "ddo", "alpha": alpha, "beta": 0.02})
    first = of_type(run_in_process("train", spec, tmp_path), "metric")[0]["values"]
    assert first["loss"] == pytest.approx((1 + alpha) * math.log(2), rel=1e-6)
    assert first["ratio_real_mean"] == first["ratio_real_std"] == 0.0
    assert first["ratio_fake_mean"] == first["ratio_fake_std"] == 0.0


def test_training_a_var_moves_the_ratio_up_on_data_and_down_on_fakes(var_inputs, tmp_path):
    training = {"kimg": 1.6, "evaluate_every_kimg": 1.6, "learning_rate": 1e-2, "normalise_by_alpha": False}
    training |= {"label_dropout": 0.0, "stop_when_saturated": False}
    spec = train_spec(var_inputs, training=training, objective={"kind": "ddo", "alpha": 2.0, "beta": 0.5})
    values = of_type(run_in_process("train", spec, tmp_path), "metric")[-1]["values"]
    assert values["ratio_real_mean"] > values["ratio_fake_mean"] + 1
    assert values["loss"] < 3 * math.log(2) - 0.1


def test_mle_lowers_the_nats_of_a_token(var_inputs, tmp_path):
    training = {"kimg": 1.6, "evaluate_every_kimg": 1.6, "learning_rate": 1e-2}
    spec = train_spec(var_inputs, training=training, **objective_of("mle"))
    events = run_in_process("train", spec, tmp_path)
    losses = [event["values"]["loss"] for event in of_type(events, "metric")]
    assert losses[-1] < 0.8 * losses[0]

    held_out = str(var_inputs.dataset)
    trained = files(events, "checkpoint")[-1]["path"]
    nats = [
        evaluation(run_in_process("evaluate", spec, tmp_path / "judged"))["metrics"]["denoising_loss"]
        for checkpoint in (str(var_inputs.checkpoint), trained)
        for spec in [evaluate_spec(var_inputs, checkpoint=checkpoint, denoising_dataset=held_out)]
    ]
    assert nats[1] < 0.8 * nats[0]


@OBJECTIVES
@pytest.mark.parametrize("step", [1, 2, 3])
def test_trial_of_a_var_stopped_and_run_again_equals_undisturbed(var_inputs, tmp_path, objective, step):
    spec = train_spec(var_inputs, **objective_of(objective))
    undisturbed = run_in_process("train", spec, tmp_path / "undisturbed")
    assert len(of_type(undisturbed, "evaluation")) == 2
    events = stopped_after_step(spec, tmp_path / "stopped", step)
    resumed = run_in_process("train", spec, tmp_path / "stopped")
    assert resumed[0]["resumed_from_kimg"] == pytest.approx(step * 0.016)
    assert results(events + resumed) == results(undisturbed)
    states = [read_state(tmp_path / run / "state.safetensors").tensors for run in ("undisturbed", "stopped")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@OBJECTIVES
def test_checkpoint_of_a_var_holds_no_tokenizer_and_is_a_base_again(var_inputs, tmp_path, objective):
    spec = train_spec(var_inputs, **objective_of(objective))
    (*_, written) = files(run_in_process("train", spec, tmp_path), "checkpoint")
    base, trained = load_checkpoint(var_inputs.checkpoint), load_checkpoint(written["path"])
    assert list(trained.model.state_dict()) == list(base.model.state_dict())
    assert trained.info == base.info
    assert read_manifest(written["path"]).provenance["autoencoder_sha256"] == sha256_of(
        var_inputs.folder / "vqvae.safetensors"
    )
    spec = train_spec(var_inputs, checkpoint=written["path"])
    first = of_type(run_in_process("train", spec, tmp_path / "again"), "metric")[0]["values"]
    assert first["ratio_real_std"] == 0.0


def test_evaluation_with_guidance_or_top_k_is_another_protocol_with_other_numbers(var_inputs, tmp_path):
    kinds = [{}, {"guidance_scale": 1.5}, {"top_k": 3}, {"top_k": 3, "guidance_scale": 1.5}, {"top_p": 0.5}]
    events = [
        evaluation(run_in_process("evaluate", evaluate_spec(var_inputs, sampler=sampler), tmp_path / str(index)))
        for index, sampler in enumerate(kinds)
    ]
    assert len({event["fingerprint"] for event in events}) == len(kinds)
    assert len({event["metrics"]["fid"] for event in events}) == len(kinds)
    repeated = evaluation(run_in_process("evaluate", evaluate_spec(var_inputs, sampler=kinds[3]), tmp_path / "again"))
    assert repeated == events[3]


def test_trial_evaluated_with_guidance_trains_the_same_weights(var_inputs, tmp_path):
    for name, scale in (("plain", 0.0), ("guided", 2.0)):
        run_in_process("train", train_spec(var_inputs, sampler={"guidance_scale": scale}), tmp_path / name)
    plain, guided = (read_state(tmp_path / name / "state.safetensors").tensors for name in ("plain", "guided"))
    targets = [name for name in plain if name.startswith("target.")]
    assert targets
    assert all(torch.equal(plain[name], guided[name]) for name in targets)


def refused(command, inputs, tmp_path, **overrides) -> EngineError:
    with pytest.raises(EngineError) as caught:
        run_in_process(command, spec_of(command, inputs, **overrides), tmp_path / "refused")
    return caught.value


@COMMANDS
def test_var_without_its_vqvae_is_refused(var_inputs, tmp_path, command):
    error = refused(command, var_inputs, tmp_path, autoencoder=...)
    assert (type(error), error.param) == (IncompatibleInputs, "autoencoder")
    assert "works on tokens: name the autoencoder" in error.message


@COMMANDS
@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"vocab_size": 32}, "32"), ({"v_patch_nums": [1, 2, 3]}, "1, 2, 3"), ({"z_channels": 8}, "8")],
)
def test_vqvae_of_other_tokens_is_refused(var_inputs, tmp_path, command, changes, reason):
    other = tmp_path / "other.safetensors"
    network = VQVAE | changes
    save_checkpoint(other, randomised("var", network, seed=3), CheckpointManifest(family="var", network=network))
    error = refused(command, var_inputs, tmp_path, autoencoder=str(other))
    assert (type(error), error.param) == (IncompatibleInputs, "autoencoder")
    assert reason in error.message


@COMMANDS
def test_sampler_of_another_kind_is_refused(var_inputs, tmp_path, command):
    spec = spec_of(command, var_inputs) | {"sampler": {"kind": "heun"}}
    with pytest.raises(InvalidSpec, match="choose 'autoregressive'") as caught:
        run_in_process(command, spec, tmp_path)
    assert caught.value.param == "sampler.kind"


@COMMANDS
def test_guide_beside_a_var_is_refused(var_inputs, tmp_path, command):
    error = refused(command, var_inputs, tmp_path, guide=str(var_inputs.checkpoint))
    assert (type(error), error.param) == (InvalidSpec, "guide")
    assert "leave the guide out" in error.message


@COMMANDS
def test_discriminator_beside_a_var_is_refused(var_inputs, tmp_path, command):
    path = write_discriminator(tmp_path / "discriminator.safetensors")
    error = refused(command, var_inputs, tmp_path, discriminator=str(path))
    assert (type(error), error.param) == (InvalidSpec, "discriminator")
    assert "a VAR has none: leave it out" in error.message


def test_vqvae_that_is_damaged_is_blamed_by_its_own_name(var_inputs, tmp_path):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes((var_inputs.folder / "vqvae.safetensors").read_bytes()[:-100])
    error = refused("train", var_inputs, tmp_path, autoencoder=str(damaged))
    assert (type(error), error.param) == (CorruptCheckpoint, "autoencoder")
