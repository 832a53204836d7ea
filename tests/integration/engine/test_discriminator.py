"""A discriminator through its life: trained on data and fakes, interrupted, and then correcting samples."""

import math
from pathlib import Path

import pytest
import torch

from ddo_engine.checkpoint import load_checkpoint
from ddo_engine.data import write_dataset
from ddo_engine.errors import EngineError, IncompatibleInputs, Interrupted, NonFiniteLoss
from ddo_engine.families import get_family
from ddo_engine.families.diffusion.discriminator_guidance import corrected
from ddo_engine.families.diffusion.space import quantise
from ddo_engine.spec import DPMSolverSettings, HeunSettings
from ddo_engine.state_file import SavedState, read_state, write_state
from tests.engine_inputs import NETWORK, Killed, merged, results, run_in_process, write_checkpoint
from tests.gaussian_models import Gaussian, GaussianDenoiser
from tests.var_inputs import make_var_inputs

TINY = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1}


def discriminator_spec(inputs, **overrides):
    """Return a training of 40 steps, two per window of diagnostics."""
    spec = {
        "kind": "discriminator",
        "checkpoint": str(inputs.checkpoint),
        "dataset": str(inputs.dataset),
        "reference_set": [str(inputs.reference_set)],
        "network": TINY,
        "training": {"kimg": 0.64, "batch_size": 16, "learning_rate": 1e-2, "save_state_every_kimg": 0.16},
        "seed": 3,
    }
    return merged(spec, overrides)


@pytest.fixture(scope="module")
def trained(inputs, tmp_path_factory):
    """Return the events of an undisturbed run, and the file that it wrote."""
    events = run_in_process("discriminator", discriminator_spec(inputs), tmp_path_factory.mktemp("discriminator"))
    (file,) = [event for event in events if event.get("role") == "discriminator"]
    return events, file


def test_run_tells_windows_of_accuracies_and_learns_to_tell_the_images_apart(trained):
    events, file = trained
    metrics = [event for event in events if event["type"] == "metric"]
    assert [event["step"] for event in metrics] == list(range(2, 41, 2))
    expected = {"loss", "gradient_norm", "accuracy_real", "accuracy_fake", "learning_rate"}
    assert expected | {f"accuracy_{band}_noise" for band in ("low", "middle", "high")} == metrics[-1]["values"].keys()
    first, last = metrics[0]["values"], metrics[-1]["values"]
    assert first["loss"] == pytest.approx(math.log(2), abs=0.05)
    assert last["loss"] < 0.6
    assert last["accuracy_low_noise"] > 0.8
    assert last["accuracy_low_noise"] > last["accuracy_high_noise"]
    assert last["learning_rate"] == 0
    assert file["kimg"] == 0.64
    manifest = file["info"]
    assert manifest["family"] == "discriminator"
    assert manifest["network"] == {
        "class_name": "Discriminator",
        "img_resolution": 4,
        "img_channels": 1,
        "label_dim": 3,
        "sigma_data": 0.5,
        "works_on": "pixels",
        **TINY,
    }
    assert {"base_sha256", "dataset_sha256", "reference_set_sha256", "training", "kimg"} <= manifest[
        "provenance"
    ].keys()


def test_run_that_is_stopped_or_killed_anywhere_and_run_again_writes_the_same_bytes(inputs, tmp_path, trained):
    undisturbed, file = trained
    spec = discriminator_spec(inputs)
    for index in (3, 14, 33, len(undisturbed) - 1):
        for how in ("stopped", "killed"):
            events = []

            def disturb(event, stop, events=events, index=index, how=how):
                events.append(event)
                if len(events) > index and how == "killed":
                    raise Killed
                stop.requested = len(events) > index

            workdir = tmp_path / f"{how}-{index}"
            try:
                run_in_process("discriminator", spec, workdir, disturb)
            except (Killed, Interrupted):
                events += run_in_process("discriminator", spec, workdir)
            assert results(events) == results(undisturbed)
            assert (workdir / "discriminator.safetensors").read_bytes() == Path(file["path"]).read_bytes()


def stopped_at_once(inputs, workdir):
    """Leave the state after the first window of diagnostics."""

    def stop_at_once(event, stop):
        stop.requested = stop.requested or event["type"] == "metric"

    with pytest.raises(Interrupted):
        run_in_process("discriminator", discriminator_spec(inputs), workdir, stop_at_once)


def test_state_of_another_run_is_refused_by_the_setting_that_differs(inputs, tmp_path):
    stopped_at_once(inputs, tmp_path)
    with pytest.raises(IncompatibleInputs, match=r"training\.learning_rate is 0\.01 there and 0\.1"):
        run_in_process("discriminator", discriminator_spec(inputs, training={"learning_rate": 0.1}), tmp_path)


def test_correction_changes_samples_and_is_part_of_the_protocol_of_their_numbers(inputs, tmp_path, trained):
    _, file = trained
    base = {
        "kind": "evaluate",
        "checkpoint": str(inputs.checkpoint),
        "dataset": str(inputs.dataset),
        "feature_network": str(inputs.feature_network),
        "sampler": {"num_steps": 3, "batch_size": 32},
        "evaluations": [{"num_samples": 48}],
    }
    given = merged(base, {"discriminator": file["path"]})
    specs = {"plain": base, "off": given, "on": merged(given, {"sampler": {"discriminator_weight": 1.0}})}
    events = {
        name: next(
            event for event in run_in_process("evaluate", spec, tmp_path / name) if event["type"] == "evaluation"
        )
        for name, spec in specs.items()
    }
    assert events["off"]["metrics"] == events["plain"]["metrics"] != events["on"]["metrics"]
    assert len({event["fingerprint"] for event in events.values()}) == 3
    assert "discriminator_weight" not in events["plain"]["protocol"]["sampler"]
    assert events["on"]["protocol"]["sampler"]["discriminator_weight"] == 1.0
    assert events["on"]["protocol"]["discriminator_sha256"] == file["sha256"]


def test_reference_set_is_drawn_with_a_discriminator_only_where_the_spec_says_so(inputs, tmp_path, trained):
    _, file = trained
    spec = {
        "kind": "reference",
        "checkpoint": str(inputs.checkpoint),
        "dataset": str(inputs.dataset),
        "discriminator": file["path"],
        "sampler": {"num_steps": 3, "batch_size": 8},
        "num_samples": 20,
    }
    one, other = (
        run_in_process("generate", merged(spec, {"sampler": {"discriminator_weight": w}}), tmp_path / str(w))[-1]
        for w in (0.0, 2.0)
    )
    assert one["sha256"] != other["sha256"]
    for settings in (HeunSettings, DPMSolverSettings):
        assert settings(discriminator_weight=2.0).for_reference_set().discriminator_weight == 0


def refusal(inputs, tmp_path, command="discriminator", **overrides):
    make = {"discriminator": discriminator_spec, "train": lambda inputs, **own: inputs.train_spec(**own)}
    with pytest.raises(EngineError) as caught:
        run_in_process(command, make[command](inputs, **overrides), tmp_path)
    return caught.value


def test_what_is_no_discriminator_of_the_model_is_refused_by_name(inputs, tmp_path, trained):
    _, file = trained
    weighted = {"sampler": {"discriminator_weight": 1.0}}
    error = refusal(inputs, tmp_path, "train", **weighted)
    assert (error.param, "nothing to correct with" in error.message) == ("sampler.discriminator_weight", True)
    error = refusal(inputs, tmp_path, "train", **weighted, discriminator=str(inputs.checkpoint))
    assert (error.param, "a MLPPrecond is none" in error.message) == ("discriminator", True)
    error = refusal(inputs, tmp_path, "train", checkpoint=file["path"])
    assert (error.param, "a discriminator (Discriminator), which draws no images" in error.message) == (
        "base_checkpoint",
        True,
    )
    error = refusal(inputs, tmp_path, "train", guide=file["path"], sampler={"guidance_scale": 2.0})
    assert error.param == "guide"
    unconditional = tmp_path / "unconditional.safetensors"
    write_checkpoint(unconditional, NETWORK | {"label_dim": 0})
    error = refusal(inputs, tmp_path, "train", **weighted, discriminator=file["path"], checkpoint=str(unconditional))
    assert (error.param, "it knows 3 classes, the model 0" in error.message) == ("discriminator", True)


def test_unfit_inputs_of_a_training_are_refused_by_name(inputs, tmp_path):
    error = refusal(inputs, tmp_path, network={"channel_mult": [1, 1, 1, 1]})
    assert (error.param, "divisible by 2" in error.message) == ("network", True)
    error = refusal(inputs, tmp_path, reference_set=[str(inputs.reference_set), str(inputs.feature_network)])
    assert error.param == "reference_set.1"
    var = make_var_inputs(tmp_path / "var").folder
    own = {"checkpoint": str(var / "base.safetensors"), "autoencoder": str(var / "vqvae.safetensors")}
    error = refusal(inputs, tmp_path, **own)
    assert (error.param, "a VAR has none" in error.message) == ("base_checkpoint", True)


def test_loss_that_is_not_finite_ends_the_run_and_leaves_the_state_alone(inputs, tmp_path):
    stopped_at_once(inputs, tmp_path)
    path = tmp_path / "state.safetensors"
    saved = read_state(path)
    diverged = {name: tensor * math.nan for name, tensor in saved.tensors.items() if name.startswith("network.")}
    write_state(path, SavedState(saved.header, {**saved.tensors, **diverged}))
    before = path.read_bytes()
    error = refusal(inputs, tmp_path)
    assert (type(error), error.param) == (NonFiniteLoss, "training.learning_rate")
    assert "the loss is not finite after 2 steps" in error.message
    assert path.read_bytes() == before


DATA, MODEL = Gaussian(means=(0.25, -0.15), variance=0.03), Gaussian(means=(0.0, 0.1), variance=0.08)


def test_learnt_discriminator_comes_near_the_optimal_one_and_moves_samples_to_the_data(tmp_path):
    labels = torch.arange(4000) % 2
    generator = torch.Generator().manual_seed(0)
    for name, gaussian in (("data", DATA), ("fakes", MODEL)):
        means = torch.tensor(gaussian.means)[labels][:, None, None, None]
        images = means + gaussian.variance**0.5 * torch.randn(4000, 1, 2, 2, generator=generator)
        write_dataset(tmp_path / f"{name}.zip", quantise(images), labels)
    write_checkpoint(tmp_path / "model.safetensors", NETWORK | {"img_resolution": 2, "label_dim": 2})
    spec = {
        "kind": "discriminator",
        "checkpoint": str(tmp_path / "model.safetensors"),
        "dataset": str(tmp_path / "data.zip"),
        "reference_set": [str(tmp_path / "fakes.zip")],
        "network": {"model_channels": 16, "channel_mult": [1]},
        "training": {"kimg": 128, "batch_size": 256, "learning_rate": 3e-3},
    }
    run_in_process("discriminator", spec, tmp_path / "out")
    discriminator = load_checkpoint(tmp_path / "out" / "discriminator.safetensors").model

    sigma, few = torch.full((512,), 0.2), torch.arange(512) % 2
    means = torch.tensor(DATA.means)[few][:, None, None, None]
    x = means + 0.3 * torch.randn(512, 1, 2, 2, generator=generator)
    learnt = corrected(lambda x, sigma: torch.zeros_like(x), discriminator, few, 1.0)(x, sigma)
    optimal = 0.2**2 * (DATA.score(x, sigma, few) - MODEL.score(x, sigma, few))
    assert (learnt - optimal).norm() < 0.35 * optimal.norm()

    sample, model = get_family("edm").sample_in_model_space, GaussianDenoiser(MODEL)
    sampler = HeunSettings(num_steps=24, discriminator_weight=1.0)
    drawn = sample(model, range(512), few, sampler, discriminator=discriminator)
    for label in range(2):
        pixels = drawn[label::2]
        assert abs(pixels.mean() - DATA.means[label]) < 0.25 * abs(MODEL.means[label] - DATA.means[label])
        assert abs(pixels.var() - DATA.variance) < 0.4 * (MODEL.variance - DATA.variance)
