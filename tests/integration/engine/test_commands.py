"""The commands around training: generate, validate, evaluate."""

import numpy as np
import pytest
import torch
from PIL import Image

from ddo_engine.checkpoint import CheckpointManifest, load_checkpoint, save_checkpoint
from ddo_engine.data import has_grey_levels, load_dataset, write_dataset
from ddo_engine.errors import (
    CorruptCheckpoint,
    IncompatibleInputs,
    Interrupted,
    InvalidDataset,
    InvalidFeatureNetwork,
    InvalidSpec,
    NonFiniteLoss,
)
from ddo_engine.evaluation import FeatureManifest, save_features
from ddo_engine.evaluation.networks.image_classifier import ImageClassifier, ImageClassifierConfig
from ddo_engine.families import get_family
from ddo_engine.files import sha256_of
from tests.engine_inputs import CLASSIFIER, NETWORK, make_inputs, merged, run_in_process, write_checkpoint

SAMPLES = {"first_seed": 5, "num_samples": 48}


def only(events, kind):
    found = [event for event in events if event["type"] == kind]
    assert len(found) == 1
    return found[0]


def generate_spec(inputs, **overrides):
    spec = {
        "kind": "reference",
        "checkpoint": str(inputs.checkpoint),
        "dataset": str(inputs.dataset),
        "sampler": {"num_steps": 3, "batch_size": 8},
        "first_seed": 100,
        "num_samples": 20,
    }
    return merged(spec, overrides)


def validate_spec(inputs, **overrides):
    spec = {
        "kind": "validate",
        "checkpoint": str(inputs.checkpoint),
        "dataset": str(inputs.dataset),
        "feature_network": str(inputs.feature_network),
    }
    return merged(spec, overrides)


def evaluate_spec(inputs, **overrides):
    spec = validate_spec(inputs) | {
        "kind": "evaluate",
        "sampler": {"num_steps": 3, "batch_size": 32},
        "evaluations": [{"num_samples": 48, "seed": 5, "neighbours": 3}],
    }
    return merged(spec, overrides)


def test_generated_shards_put_together_are_the_whole_set(inputs, tmp_path):
    sets = {}
    for name, first_seed, num_samples in (("whole", 100, 20), ("low", 100, 7), ("high", 107, 13)):
        spec = generate_spec(inputs, first_seed=first_seed, num_samples=num_samples)
        file = only(run_in_process("generate", spec, tmp_path / name), "file")
        assert file["role"] == "reference_set"
        assert file["info"] == {"first_seed": first_seed, "num_samples": num_samples}
        sets[name] = load_dataset(file["path"])
    for whole, parts in (
        (sets["whole"].images_NCHW, [sets["low"].images_NCHW, sets["high"].images_NCHW]),
        (sets["whole"].labels_N, [sets["low"].labels_N, sets["high"].labels_N]),
    ):
        assert torch.equal(whole, torch.cat(parts))
    assert sets["whole"].images_NCHW.unique(dim=0).shape[0] == 20


def test_generated_set_is_the_same_bytes_every_time_and_has_the_grey_levels(inputs, tmp_path):
    files = [
        only(run_in_process("generate", generate_spec(inputs, grey_levels=17), tmp_path / name), "file")
        for name in "ab"
    ]
    assert files[0]["sha256"] == files[1]["sha256"]
    images = load_dataset(files[0]["path"]).images_NCHW
    assert has_grey_levels(images, 17)
    other = only(run_in_process("generate", generate_spec(inputs), tmp_path / "c"), "file")
    assert not has_grey_levels(load_dataset(other["path"]).images_NCHW, 17)


def test_generated_set_of_an_unconditional_model_has_no_labels(inputs, tmp_path):
    write_checkpoint(tmp_path / "base.safetensors", NETWORK | {"label_dim": 0})
    spec = generate_spec(inputs, checkpoint=str(tmp_path / "base.safetensors"), dataset=...)
    file = only(run_in_process("generate", spec, tmp_path / "run"), "file")
    assert load_dataset(file["path"]).labels_N is None


def test_generate_without_the_dataset_whose_labels_it_follows_is_refused(inputs, tmp_path):
    with pytest.raises(InvalidSpec, match=r"sampler\.labels = 'dataset' needs the dataset"):
        run_in_process("generate", generate_spec(inputs, dataset=...), tmp_path)
    balanced = generate_spec(inputs, dataset=..., sampler={"labels": "balanced"})
    file = only(run_in_process("generate", balanced, tmp_path), "file")
    assert load_dataset(file["path"]).labels_N.tolist() == [seed % 3 for seed in range(100, 120)]


def test_generate_stopped_between_network_calls_writes_nothing_and_starts_again(inputs, tmp_path):
    def stop_at_once(event, stop):
        stop.requested = event["type"] == "progress"

    with pytest.raises(Interrupted):
        run_in_process("generate", generate_spec(inputs), tmp_path / "stopped", stop_at_once)
    assert not list((tmp_path / "stopped").iterdir())
    again = only(run_in_process("generate", generate_spec(inputs), tmp_path / "stopped"), "file")
    undisturbed = only(run_in_process("generate", generate_spec(inputs), tmp_path / "undisturbed"), "file")
    assert again["sha256"] == undisturbed["sha256"]


@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_checkpoint_that_draws_no_numbers_is_refused_and_leaves_nothing(inputs, tmp_path, command):
    base = load_checkpoint(inputs.checkpoint)
    with torch.no_grad():
        for parameter in base.model.parameters():
            parameter.mul_(1e30)
    save_checkpoint(tmp_path / "huge.safetensors", base.model, base.manifest)
    make_spec = {"generate": generate_spec, "evaluate": evaluate_spec}[command]
    with pytest.raises(NonFiniteLoss, match="NaN or infinite") as caught:
        run_in_process(command, make_spec(inputs, checkpoint=str(tmp_path / "huge.safetensors")), tmp_path / "run")
    assert caught.value.param == "checkpoint"
    assert not list((tmp_path / "run").iterdir())


def test_validate_of_inputs_that_fit_reports_what_they_are(inputs, tmp_path):
    report = only(run_in_process("validate", validate_spec(inputs), tmp_path), "report")
    assert report["checkpoint"]["network"] == "MLPPrecond"
    assert report["checkpoint"]["label_dim"] == 3
    assert report["dataset"] == {
        "kind": "images",
        "num_images": 90,
        "img_resolution": 4,
        "img_channels": 1,
        "class_counts": [30, 30, 30],
    }


def test_validate_accepts_data_on_their_grey_levels_and_refuses_fewer(tmp_path):
    inputs = make_inputs(tmp_path / "in", grey_levels=17)
    only(run_in_process("validate", validate_spec(inputs, grey_levels=17), tmp_path / "run"), "report")
    with pytest.raises(InvalidDataset, match="not among 16 equally spaced") as caught:
        run_in_process("validate", validate_spec(inputs, grey_levels=16), tmp_path / "run")
    assert caught.value.param == "dataset.uri"


def resized(inputs, folder, size):
    """Return a checkpoint and a dataset of another size than the feature network's."""
    write_checkpoint(folder / "base.safetensors", NETWORK | {"img_resolution": size})
    images = load_dataset(inputs.dataset).images_NCHW.repeat(1, 1, 2, 2)[:, :, :size, :size]
    write_dataset(folder / "data.zip", images, load_dataset(inputs.dataset).labels_N)
    return {"checkpoint": str(folder / "base.safetensors"), "dataset": str(folder / "data.zip")}


def test_validate_of_a_feature_network_for_other_images_is_refused_naming_both(inputs, tmp_path):
    with pytest.raises(IncompatibleInputs, match=r"takes images of 4 pixels.*the dataset has 8") as caught:
        run_in_process("validate", validate_spec(inputs, **resized(inputs, tmp_path, 8)), tmp_path)
    assert caught.value.param == "feature_network"


def test_validate_refuses_what_the_trials_would_refuse(inputs, tmp_path):
    training = inputs.train_spec()["training"]
    only(run_in_process("validate", validate_spec(inputs, training=training), tmp_path / "plain"), "report")
    evaluation = {"num_samples": 48, "inception_score_splits": 4}
    only(run_in_process("validate", validate_spec(inputs, evaluation=evaluation), tmp_path / "classifier"), "report")
    augmented = training | {"augment_probability": 0.12}
    with pytest.raises(InvalidSpec, match="augment_dim") as caught:
        run_in_process("validate", validate_spec(inputs, training=augmented), tmp_path / "augmented")
    assert caught.value.param == "training.augment_probability"


def test_reference_statistics_are_checked_once_and_measured_against_in_every_command(inputs, tmp_path):
    path = tmp_path / "statistics.npz"
    dim = CLASSIFIER["feature_dim"]
    np.savez(path, mu=np.zeros(dim), sigma=np.eye(dim))
    given = {"reference_statistics": str(path)}
    only(run_in_process("validate", validate_spec(inputs, **given), tmp_path / "validate"), "report")
    plain = only(run_in_process("evaluate", evaluate_spec(inputs), tmp_path / "plain"), "evaluation")
    against = only(run_in_process("evaluate", evaluate_spec(inputs, **given), tmp_path / "against"), "evaluation")
    assert against["protocol"] == plain["protocol"] | {"reference_statistics_sha256": sha256_of(path)}
    assert against["metrics"]["fid"] != plain["metrics"]["fid"]
    assert against["metrics"]["precision"] == plain["metrics"]["precision"]
    trial = run_in_process("train", inputs.train_spec(**given), tmp_path / "trial")
    protocols = [event["protocol"] for event in trial if event["type"] == "evaluation"]
    assert {protocol["reference_statistics_sha256"] for protocol in protocols} == {sha256_of(path)}
    np.savez(path, mu=np.zeros(dim + 1), sigma=np.eye(dim + 1))
    with pytest.raises(IncompatibleInputs, match=f"computes {dim} features") as caught:
        run_in_process("validate", validate_spec(inputs, **given), tmp_path / "unfit")
    assert caught.value.param == "reference_statistics"


def test_validate_refuses_fakes_beside_each_batch_for_a_model_that_cannot_draw_them(inputs, tmp_path):
    spec = validate_spec(inputs, online_reference_set={"kind": "online"})
    with pytest.raises(InvalidSpec, match="generate a reference set") as refused:
        run_in_process("validate", spec, tmp_path)
    assert refused.value.param == "online_reference_set"


def test_validate_refuses_what_the_trials_of_a_later_round_would_refuse(inputs, tmp_path):
    training = inputs.train_spec()["training"]
    only(run_in_process("validate", validate_spec(inputs, later_training=[training]), tmp_path / "plain"), "report")
    spec = validate_spec(inputs, training=training, later_training=[training, training | {"augment_probability": 0.12}])
    with pytest.raises(InvalidSpec, match=r"in a later round, training\.augment_probability") as refused:
        run_in_process("validate", spec, tmp_path / "augmented")
    assert refused.value.param == "round_overrides"


def test_validate_of_a_feature_network_that_overflows_is_refused(inputs, tmp_path):
    manifest = FeatureManifest(architecture="image_classifier", config=CLASSIFIER)
    network = ImageClassifier(ImageClassifierConfig(**CLASSIFIER))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(3e38)
    save_features(tmp_path / "large.safetensors", network, manifest)
    spec = validate_spec(inputs, feature_network=str(tmp_path / "large.safetensors"))
    with pytest.raises(InvalidFeatureNetwork, match="too large") as caught:
        run_in_process("validate", spec, tmp_path / "run")
    assert caught.value.param == "feature_network"


def test_validate_of_a_feature_network_that_sees_nothing_is_refused(inputs, tmp_path):
    network = ImageClassifier(ImageClassifierConfig(**CLASSIFIER))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    manifest = FeatureManifest(architecture="image_classifier", config=CLASSIFIER)
    save_features(tmp_path / "blind.safetensors", network, manifest)
    spec = validate_spec(inputs, feature_network=str(tmp_path / "blind.safetensors"))
    with pytest.raises(InvalidFeatureNetwork, match="same features") as caught:
        run_in_process("validate", spec, tmp_path / "run")
    assert caught.value.param == "feature_network"


def test_validate_of_a_checkpoint_for_other_images_is_refused_naming_both(inputs, tmp_path):
    spec = validate_spec(inputs, dataset=resized(inputs, tmp_path, 8)["dataset"])
    with pytest.raises(IncompatibleInputs, match=r"draws images of 4x4 .* the dataset has 8x8") as caught:
        run_in_process("validate", spec, tmp_path)
    assert caught.value.param == "dataset.uri"


@pytest.mark.parametrize(
    ("role", "code", "param"),
    [
        ("checkpoint", "invalid_checkpoint", "base_checkpoint"),
        ("dataset", "invalid_dataset", "dataset.uri"),
        ("feature_network", "invalid_feature_network", "feature_network"),
    ],
)
def test_validate_of_a_file_cut_short_is_refused_under_the_client_s_name_of_it(inputs, tmp_path, role, code, param):
    whole = getattr(inputs, role).read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    with pytest.raises((CorruptCheckpoint, InvalidDataset, ValueError)) as caught:
        run_in_process("validate", validate_spec(inputs, **{role: str(tmp_path / "cut")}), tmp_path)
    assert (caught.value.code, caught.value.param) == (code, param)


def test_evaluate_of_a_trial_s_checkpoint_finds_the_numbers_that_the_trial_found(inputs, tmp_path):
    trial = run_in_process("train", inputs.train_spec(), tmp_path / "trial")
    file = [event for event in trial if event.get("role") == "checkpoint"][-1]
    of_trial = next(event for event in trial if event["type"] == "evaluation" and event["kimg"] == file["kimg"])
    spec = evaluate_spec(inputs, checkpoint=file["path"])
    again = run_in_process("evaluate", spec, tmp_path / "again")
    assert only(again, "evaluation") == of_trial
    picture = only(again, "file")
    assert (picture["role"], picture["info"]["fingerprint"]) == ("samples", of_trial["fingerprint"])
    pictures = {event["kimg"]: event["sha256"] for event in trial if event.get("role") == "samples"}
    assert list(pictures) == [event["kimg"] for event in trial if event["type"] == "evaluation"]
    assert picture["sha256"] == pictures[of_trial["kimg"]]
    assert len(set(pictures.values())) == len(pictures)
    # 48 samples of four pixels a side, each pixel a block of sixteen, and two grey pixels between samples
    seeds = run_in_process("generate", generate_spec(inputs, checkpoint=file["path"], **SAMPLES), tmp_path / "seeds")
    expected = load_dataset(only(seeds, "file")["path"]).images_NCHW
    with Image.open(picture["path"]) as shown:
        found = torch.tensor(list(shown.tobytes()), dtype=torch.uint8).view(6 * 66 - 2, 8 * 66 - 2)
    cells = [found[66 * row :, 66 * column :][7:64:16, 3:64:16] for row in range(6) for column in range(8)]
    assert torch.equal(torch.stack(cells)[:, None], expected)


def test_evaluate_under_two_protocols_gives_two_fingerprints(inputs, tmp_path):
    evaluations = [{"num_samples": 48, "seed": 5, "neighbours": 3}, {"num_samples": 64, "seed": 9, "neighbours": None}]
    events = run_in_process("evaluate", evaluate_spec(inputs, evaluations=evaluations), tmp_path)
    first, second = [event for event in events if event["type"] == "evaluation"]
    assert first["fingerprint"] != second["fingerprint"]
    assert first["metrics"].keys() == {"fid", "precision", "recall"}
    assert second["metrics"].keys() == {"fid"}
    assert first["kimg"] == 0.0


@pytest.mark.parametrize(("kimg", "told"), [(12, 12.0), (10**400, 0.0), (-1, 0.0), ("12", 0.0), ([12], 0.0)])
def test_evaluate_of_a_checkpoint_of_any_age_reports_one(inputs, tmp_path, kimg, told):
    write_checkpoint(tmp_path / "model.safetensors", kimg=kimg)
    evaluations = [{"num_samples": 16, "neighbours": None}]
    spec = evaluate_spec(inputs, checkpoint=str(tmp_path / "model.safetensors"), evaluations=evaluations)
    assert only(run_in_process("evaluate", spec, tmp_path), "evaluation")["kimg"] == told


def test_denoising_loss_of_a_zero_output_is_one_per_pixel_of_data_at_sigma_data(inputs, tmp_path):
    """‖F‖² of EDM's target F = (t x0 / sigma_data − sigma_data ε) / √(t² + sigma_data²), when |x0| = sigma_data."""
    model = get_family("edm").build(NETWORK)
    save_checkpoint(tmp_path / "zero.safetensors", model, CheckpointManifest(family="edm", network=NETWORK))
    signs = torch.randint(2, (600, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    write_dataset(tmp_path / "held-out.zip", torch.where(signs > 0, 191, 64).to(torch.uint8), torch.arange(600) % 3)
    spec = evaluate_spec(
        inputs, checkpoint=str(tmp_path / "zero.safetensors"), denoising_dataset=str(tmp_path / "held-out.zip")
    )
    metrics = [only(run_in_process("evaluate", spec, tmp_path / name), "evaluation")["metrics"] for name in "ab"]
    assert metrics[0] == metrics[1]
    assert metrics[0]["denoising_loss"] == pytest.approx(16, rel=0.01)


def test_denoising_loss_of_a_trained_model_is_lower(inputs, tmp_path):
    spec = inputs.train_spec(
        objective={"kind": "mle"}, reference_set=..., training={"kimg": 3.2, "evaluate_every_kimg": 3.2}
    )
    trained = only(
        [event for event in run_in_process("train", spec, tmp_path) if event.get("role") == "checkpoint"], "file"
    )
    losses = []
    for path in (str(inputs.checkpoint), trained["path"]):
        spec = evaluate_spec(inputs, checkpoint=path, denoising_dataset=str(inputs.dataset))
        losses.append(only(run_in_process("evaluate", spec, tmp_path), "evaluation")["metrics"]["denoising_loss"])
    assert losses[1] < 0.9 * losses[0]


def test_evaluate_stopped_in_the_denoising_loss_ends_at_once(inputs, tmp_path):
    def stop_at_once(event, stop):
        stop.requested = event["type"] == "started"

    with pytest.raises(Interrupted):
        run_in_process("evaluate", evaluate_spec(inputs, denoising_dataset=str(inputs.dataset)), tmp_path, stop_at_once)
