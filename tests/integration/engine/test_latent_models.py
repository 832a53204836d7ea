"""A model of latents through the life of a job, on a dataset of pixels and on the same one as latents."""

import math
from pathlib import Path

import pytest
import torch

from ddo_engine import load_model
from ddo_engine.checkpoint import load_checkpoint, read_manifest
from ddo_engine.data import load_dataset, write_dataset
from ddo_engine.errors import IncompatibleInputs, Interrupted, InvalidSpec
from ddo_engine.families.diffusers.autoencoder import KLAutoencoder
from ddo_engine.files import sha256_of
from ddo_engine.sampling import sample
from ddo_engine.spec import HeunSettings
from ddo_engine.state_file import read_state
from tests.disturbed_trials import stopped_after_step
from tests.engine_inputs import make_inputs, results, run_in_process
from tests.latent_inputs import (
    SAMPLER,
    LatentInputs,
    make_latent_inputs,
    pixels,
    write_autoencoder,
    write_latent_checkpoint,
)
from tests.tiny_families import write_discriminator

BOTH_FORMS = pytest.mark.parametrize("form", ["images", "latents"])


@pytest.fixture(scope="module")
def latent_inputs(tmp_path_factory) -> LatentInputs:
    return make_latent_inputs(tmp_path_factory.mktemp("latent-inputs"))


def of_type(events, kind):
    return [event for event in events if event["type"] == kind]


def files(events, role):
    return [event for event in of_type(events, "file") if event["role"] == role]


def phases(events):
    return {event["phase"] for event in of_type(events, "progress")}


def targets(workdir: Path):
    tensors = read_state(workdir / "state.safetensors").tensors
    return {name: tensor for name, tensor in tensors.items() if name.startswith("target.")}


def validate_spec(inputs: LatentInputs, form="images", **overrides):
    features = str(inputs.images.feature_network)
    return inputs.spec_without_objective(form, feature_network=features, **overrides)


def evaluate_spec(inputs: LatentInputs, form="images", **overrides):
    return validate_spec(inputs, form, evaluations=[{"num_samples": 12, "seed": 5}], **overrides)


@BOTH_FORMS
def test_validate_latent_model_reports_latents_and_the_pixels_behind_them(latent_inputs, tmp_path, form):
    (report,) = of_type(run_in_process("validate", validate_spec(latent_inputs, form), tmp_path), "report")
    checkpoint, found = report["checkpoint"], report["dataset"]
    assert (checkpoint["space"], checkpoint["img_resolution"], checkpoint["img_channels"]) == ("latents", 8, 4)
    assert (checkpoint["decoded_resolution"], checkpoint["decoded_channels"]) == (16, 3)
    assert (found["kind"], found["num_images"], found["class_counts"]) == (form, 24, [8, 8, 8])
    assert report["converted"] == {}


@BOTH_FORMS
def test_generate_latent_model_stores_fakes_as_data_are_encoded(latent_inputs, tmp_path, form):
    spec = latent_inputs.spec_without_objective(form, first_seed=3, num_samples=6)
    (file,) = of_type(run_in_process("generate", spec, tmp_path), "file")
    stored = load_dataset(file["path"])
    assert (stored.info.kind, stored.info.img_channels, stored.info.img_resolution) == ("latents", 4, 8)
    batch = stored.batch(range(6))

    model = load_model(latent_inputs.images.checkpoint, autoencoder=latent_inputs.autoencoder)
    images = sample(model, range(3, 9), labels=batch.labels_B, sampler=HeunSettings.model_validate(SAMPLER))
    assert images.dtype == torch.uint8
    assert torch.equal(batch.images_BCHW, model.space.autoencoder.encode_moments(images))


def test_generate_latent_model_draws_each_fake_from_its_seed_alone(latent_inputs, tmp_path):
    def drawn(first_seed, num_samples):
        spec = latent_inputs.spec_without_objective(first_seed=first_seed, num_samples=num_samples)
        folder = tmp_path / str(first_seed)
        (file,) = of_type(run_in_process("generate", spec, folder), "file")
        return load_dataset(file["path"]).batch(range(num_samples))

    whole, tail = drawn(0, 5), drawn(3, 2)
    assert torch.equal(whole.images_BCHW[3:], tail.images_BCHW)
    assert torch.equal(whole.labels_B[3:], tail.labels_B)


@BOTH_FORMS
@pytest.mark.parametrize("alpha", [0.5, 4.0])
def test_first_step_on_latents_has_ratio_0_though_latents_are_drawn(latent_inputs, tmp_path, form, alpha):
    moments = load_dataset(latent_inputs.latents.dataset).batch(range(24)).images_BCHW
    assert float(moments[:, 4:].min()) > 0.1  # standard deviations: what a step trains on is random
    spec = latent_inputs.train_spec(form, objective={"kind": "ddo", "alpha": alpha, "beta": 0.7})
    first = of_type(run_in_process("train", spec, tmp_path), "metric")[0]["values"]
    assert first["loss"] == pytest.approx((1 + alpha) * math.log(2), abs=1e-6)
    assert first["ratio_real_mean"] == first["ratio_real_std"] == 0.0
    assert first["ratio_fake_mean"] == first["ratio_fake_std"] == 0.0


@BOTH_FORMS
@pytest.mark.parametrize("step", [1, 2, 3])
def test_trial_on_latents_stopped_and_run_again_equals_undisturbed(latent_inputs, tmp_path, form, step):
    spec = latent_inputs.train_spec(form)
    undisturbed = run_in_process("train", spec, tmp_path / "undisturbed")
    events = stopped_after_step(spec, tmp_path / "stopped", step)
    resumed = run_in_process("train", spec, tmp_path / "stopped")
    assert resumed[0]["resumed_from_kimg"] == pytest.approx(step * 0.008)
    assert results(events + resumed) == results(undisturbed)


def test_trial_stopped_while_it_encodes_its_dataset_takes_no_step(latent_inputs, tmp_path, monkeypatch):
    monkeypatch.setattr("ddo_engine.latents.BATCH_SIZE", 8)
    events = []

    def stop_while_encoding(event, stop):
        events.append(event)
        stop.requested = event["type"] == "progress" and event["phase"] == "encoding"

    with pytest.raises(Interrupted):
        run_in_process("train", latent_inputs.train_spec(), tmp_path, stop_while_encoding)
    assert not of_type(events, "metric")


def test_trials_on_pixels_and_on_their_latents_train_the_same_weights(latent_inputs, tmp_path):
    for form in ("images", "latents"):
        run_in_process("train", latent_inputs.train_spec(form), tmp_path / form)
    one, other = targets(tmp_path / "images"), targets(tmp_path / "latents")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    base = load_checkpoint(latent_inputs.images.checkpoint, dtype=torch.float32).model.state_dict()
    assert not all(torch.equal(one[f"target.{name}"], weight) for name, weight in base.items())


def test_second_trial_with_the_same_cache_encodes_nothing(latent_inputs, tmp_path, monkeypatch):
    spec = latent_inputs.train_spec()
    first = run_in_process("train", spec, tmp_path / "first", cache=tmp_path / "cache")
    assert "encoding" in phases(first)

    def must_not_be_called(*_):
        raise AssertionError("the dataset was encoded again")

    monkeypatch.setattr(KLAutoencoder, "encode_moments", must_not_be_called)
    second = run_in_process("train", spec, tmp_path / "second", cache=tmp_path / "cache")
    assert "encoding" not in phases(second)
    assert results(second) == results(first)
    with pytest.raises(AssertionError, match="again"):
        run_in_process("train", spec, tmp_path / "third", cache=tmp_path / "another")


@BOTH_FORMS
def test_evaluate_latent_model_compares_pixels_and_names_the_autoencoder(latent_inputs, tmp_path, form):
    (event,) = of_type(run_in_process("evaluate", evaluate_spec(latent_inputs, form), tmp_path), "evaluation")
    assert event["metrics"].keys() == {"fid", "precision", "recall"}
    assert event["metrics"]["fid"] > 0
    assert event["protocol"]["autoencoder_sha256"] == sha256_of(latent_inputs.autoencoder)


def test_evaluate_on_latents_compares_with_their_decoded_means(latent_inputs, tmp_path):
    autoencoder = load_model(latent_inputs.autoencoder)
    latents = load_dataset(latent_inputs.latents.dataset).batch(range(24))
    decoded = autoencoder.decode(latents.images_BCHW[:, :4])
    write_dataset(tmp_path / "decoded.zip", decoded, latents.labels_B)
    runs = [
        run_in_process("evaluate", evaluate_spec(latent_inputs, "latents"), tmp_path / "latents"),
        run_in_process("evaluate", evaluate_spec(latent_inputs, dataset=str(tmp_path / "decoded.zip")), tmp_path),
    ]
    one, other = (of_type(events, "evaluation")[0] for events in runs)
    assert one["metrics"] == other["metrics"]
    assert one["fingerprint"] != other["fingerprint"]


def test_statistics_of_decoded_latents_are_not_taken_from_another_autoencoder(latent_inputs, tmp_path):
    other = write_autoencoder(tmp_path / "other.safetensors", seed=1)
    spec = evaluate_spec(latent_inputs, "latents")

    def metrics(folder, cache, **overrides):
        events = run_in_process("evaluate", {**spec, **overrides}, tmp_path / folder, cache=cache)
        return of_type(events, "evaluation")[0]["metrics"]

    cache = tmp_path / "cache"
    metrics("one", cache)
    assert metrics("two", cache, autoencoder=str(other)) == metrics("three", None, autoencoder=str(other))


@BOTH_FORMS
def test_denoising_loss_of_latent_model_is_the_same_for_pixels_and_their_latents(latent_inputs, tmp_path, form):
    held_out = {"denoising_dataset": str(getattr(latent_inputs, form).dataset)}
    events = run_in_process("evaluate", evaluate_spec(latent_inputs, **held_out), tmp_path)
    loss = of_type(events, "evaluation")[0]["metrics"]["denoising_loss"]
    held_out["denoising_dataset"] = str(latent_inputs.images.dataset)
    events = run_in_process("evaluate", evaluate_spec(latent_inputs, **held_out), tmp_path)
    assert loss == of_type(events, "evaluation")[0]["metrics"]["denoising_loss"]
    assert math.isfinite(loss)


def test_guided_latent_model_draws_other_images_and_names_the_guide(latent_inputs, tmp_path):
    guide = write_latent_checkpoint(
        tmp_path / "guide.safetensors", latent_inputs.latents.dataset, model_channels=16, channels_per_head=16
    )
    plain = run_in_process("evaluate", evaluate_spec(latent_inputs), tmp_path / "plain")
    guided = run_in_process(
        "evaluate", evaluate_spec(latent_inputs, guide=str(guide), sampler={"guidance_scale": 1.5}), tmp_path / "guided"
    )
    one, other = (of_type(events, "evaluation")[0] for events in (plain, guided))
    assert other["protocol"]["guide_sha256"] == sha256_of(guide)
    assert one["metrics"]["fid"] != other["metrics"]["fid"]


def test_discriminator_of_latents_is_trained_and_corrects_latents(latent_inputs, tmp_path):
    spec = latent_inputs.spec_without_objective(
        kind="discriminator",
        sampler=...,
        reference_set=[str(latent_inputs.images.reference_set)],
        network={"model_channels": 8},
        training={"kimg": 0.064, "batch_size": 8, "learning_rate": 1e-2},
    )
    (file,) = files(run_in_process("discriminator", spec, tmp_path / "trained"), "discriminator")
    assert (file["info"]["network"]["works_on"], file["info"]["network"]["img_channels"]) == ("latents", 4)
    weighted = {"sampler": {"discriminator_weight": 2.0}}
    plain, corrected = (
        run_in_process("evaluate", evaluate_spec(latent_inputs, **own), tmp_path / name)
        for name, own in (("plain", {}), ("corrected", {"discriminator": file["path"], **weighted}))
    )
    one, other = (of_type(events, "evaluation")[0] for events in (plain, corrected))
    assert one["metrics"]["fid"] != other["metrics"]["fid"]
    of_pixels = write_discriminator(tmp_path / "pixels.safetensors", img_resolution=8, img_channels=4)
    with pytest.raises(InvalidSpec, match="it tells pixels of 4x8x8 apart, the model draws latents of 4x8x8"):
        run_in_process("evaluate", evaluate_spec(latent_inputs, discriminator=str(of_pixels), **weighted), tmp_path)


def test_checkpoints_of_a_trial_keep_the_scaling_and_are_a_base_again(latent_inputs, tmp_path):
    events = run_in_process("train", latent_inputs.train_spec(), tmp_path / "one")
    written = [event["path"] for event in files(events, "checkpoint")]
    base, trained = read_manifest(latent_inputs.images.checkpoint), read_manifest(written[-1])
    assert base.latent_scaling is not None
    assert trained.latent_scaling == base.latent_scaling
    assert trained.network == base.network
    assert trained.provenance["autoencoder_sha256"] == sha256_of(latent_inputs.autoencoder)
    again = run_in_process("train", latent_inputs.train_spec(checkpoint=written[-1]), tmp_path / "two")
    assert of_type(again, "metric")[0]["values"]["ratio_real_std"] == 0.0
    lineage = [sha256_of(latent_inputs.images.checkpoint), sha256_of(written[-1])]
    assert all(event["info"]["provenance"]["lineage"] == lineage for event in files(again, "checkpoint"))


def refusal(command, spec, workdir, kind=IncompatibleInputs):
    with pytest.raises(kind) as caught:
        run_in_process(command, spec, workdir)
    return caught.value


COMMANDS = pytest.mark.parametrize("command", ["validate", "generate", "train", "evaluate"])


def spec_of(command, inputs, form="images", **overrides):
    match command:
        case "validate":
            return validate_spec(inputs, form, **overrides)
        case "generate":
            return inputs.spec_without_objective(form, num_samples=2, **overrides)
        case "train":
            return inputs.train_spec(form, **overrides)
        case _:
            return evaluate_spec(inputs, form, **overrides)


@COMMANDS
def test_latent_model_without_autoencoder_is_refused(latent_inputs, tmp_path, command):
    error = refusal(command, spec_of(command, latent_inputs, autoencoder=...), tmp_path)
    assert error.param == "autoencoder"
    assert "works on latents: name the autoencoder" in error.message


@COMMANDS
def test_autoencoder_of_other_latent_channels_is_refused(latent_inputs, tmp_path, command):
    other = write_autoencoder(tmp_path / "other.safetensors", latent_channels=8)
    error = refusal(command, spec_of(command, latent_inputs, autoencoder=str(other)), tmp_path)
    assert error.param == "autoencoder"
    assert "latents of 8 channels, the checkpoint of 4: give the autoencoder that" in error.message


@COMMANDS
def test_model_named_as_autoencoder_is_refused(latent_inputs, tmp_path, command):
    spec = spec_of(command, latent_inputs, autoencoder=str(latent_inputs.images.checkpoint))
    error = refusal(command, spec, tmp_path, InvalidSpec)
    assert error.param == "autoencoder"
    assert "give a VQVAE or an AutoencoderKL" in error.message


@COMMANDS
def test_autoencoder_named_as_checkpoint_is_refused(latent_inputs, tmp_path, command):
    spec = spec_of(command, latent_inputs, checkpoint=str(latent_inputs.autoencoder))
    error = refusal(command, spec, tmp_path)
    assert error.param == "base_checkpoint"
    assert "name it as 'autoencoder'" in error.message


@COMMANDS
def test_images_of_another_size_than_latents_decode_to_are_refused(latent_inputs, tmp_path, command):
    small = tmp_path / "small.zip"
    write_dataset(small, pixels()[:, :, :8, :8].contiguous(), torch.arange(24) % 3)
    error = refusal(command, spec_of(command, latent_inputs, dataset=str(small)), tmp_path)
    assert error.param == "dataset.uri"
    assert "draws images of 16x16 with 3 channels, the dataset has 8x8 with 3 channels: resize" in error.message


@COMMANDS
def test_latents_for_a_model_of_pixels_are_refused(latent_inputs, tmp_path, command):
    of_pixels = make_inputs(tmp_path / "pixels", num_images=9)
    spec = spec_of(command, latent_inputs, "latents", checkpoint=str(of_pixels.checkpoint), autoencoder=...)
    error = refusal(command, spec, tmp_path)
    assert error.param == "dataset.uri"
    assert "holds latents, the checkpoint works on pixels: give the dataset's images" in error.message


@COMMANDS
def test_guide_of_another_family_is_refused(latent_inputs, tmp_path, command):
    guide = make_inputs(tmp_path / "pixels", num_images=9).checkpoint
    spec = spec_of(command, latent_inputs, guide=str(guide), sampler={"guidance_scale": 2.0})
    error = refusal(command, spec, tmp_path)
    assert error.param == "guide"
    assert "family 'edm', the checkpoint of 'edm2': choose a guide of the checkpoint's family" in error.message


def test_autoencoder_for_a_model_of_pixels_is_refused(latent_inputs, tmp_path):
    spec = make_inputs(tmp_path / "pixels").train_spec(autoencoder=str(latent_inputs.autoencoder))
    error = refusal("train", spec, tmp_path)
    assert error.param == "autoencoder"
    assert "needs no autoencoder: leave it out" in error.message


def test_reference_set_of_pixels_for_a_model_of_latents_is_refused(latent_inputs, tmp_path):
    spec = latent_inputs.train_spec(reference_set=[str(latent_inputs.images.dataset)])
    error = refusal("train", spec, tmp_path)
    assert error.param == "reference_set.0"
    assert "generate it with this checkpoint" in error.message


def test_trial_with_another_autoencoder_does_not_take_up_the_state(latent_inputs, tmp_path):
    def stop_at_once(event, stop):
        stop.requested = stop.requested or event["type"] == "metric"

    with pytest.raises(Interrupted):
        run_in_process("train", latent_inputs.train_spec(), tmp_path, stop_at_once)
    other = write_autoencoder(tmp_path / "other.safetensors", seed=1)
    error = refusal("train", latent_inputs.train_spec(autoencoder=str(other)), tmp_path)
    assert "autoencoder_sha256" in error.message
