"""What a trial does: the loss it starts from, what it keeps, what it records, how it fails."""

import math
from pathlib import Path

import pytest
import torch

from ddo_engine.checkpoint import load_checkpoint, read_manifest, save_checkpoint
from ddo_engine.data import load_dataset, write_dataset
from ddo_engine.ema import update_ema
from ddo_engine.errors import IncompatibleInputs, InvalidDataset, InvalidSpec, NonFiniteLoss
from ddo_engine.files import sha256_of
from ddo_engine.state_file import read_state
from ddo_engine.training_loss import DDOTrainingLoss
from tests.engine_inputs import NETWORK, make_inputs, run_in_process, write_checkpoint


def of_type(events, kind):
    return [event for event in events if event["type"] == kind]


def files(events, role):
    return [event for event in of_type(events, "file") if event["role"] == role]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 4.0])
def test_first_step_with_target_equal_to_reference_has_loss_one_plus_alpha_times_ln_2(inputs, tmp_path, alpha):
    spec = inputs.train_spec(objective={"kind": "ddo", "alpha": alpha, "beta": 0.7})
    first = of_type(run_in_process("train", spec, tmp_path), "metric")[0]["values"]
    assert first["loss"] == pytest.approx((1 + alpha) * math.log(2), abs=1e-6)
    assert first["ratio_real_mean"] == first["ratio_fake_std"] == 0.0
    assert first["discriminator_accuracy"] == 0.5


def test_training_moves_the_ratio_up_on_data_and_down_on_fakes(inputs, tmp_path):
    spec = inputs.train_spec(training={"kimg": 1.6, "evaluate_every_kimg": 1.6})
    values = of_type(run_in_process("train", spec, tmp_path), "metric")[-1]["values"]
    assert values["ratio_real_mean"] > values["ratio_fake_mean"] + 1
    assert values["discriminator_accuracy"] > 0.6
    assert values["loss"] < 3 * math.log(2) - 0.1


def test_mle_lowers_the_pretraining_loss_and_writes_one_checkpoint_at_the_end(inputs, tmp_path):
    spec = inputs.train_spec(
        objective={"kind": "mle"},
        reference_set=...,
        evaluation=...,
        feature_network=...,
        training={"kimg": 6.4, "evaluate_every_kimg": 1.6},
    )
    events = run_in_process("train", spec, tmp_path)
    losses = [event["values"]["loss"] for event in of_type(events, "metric")]
    assert losses[-1] < 0.8 * losses[0]
    assert [event["kimg"] for event in files(events, "checkpoint")] == [6.4]
    assert not of_type(events, "evaluation")
    trained = load_checkpoint(files(events, "checkpoint")[0]["path"])
    assert trained.info == load_checkpoint(inputs.checkpoint).info
    assert trained.manifest.provenance["objective"] == {"kind": "mle"}


def test_checkpoints_are_written_exactly_when_the_fid_is_the_best_so_far(inputs, tmp_path):
    spec = inputs.train_spec(training={"kimg": 0.32, "learning_rate": 0.05, "evaluate_every_kimg": 0.016})
    events = run_in_process("train", spec, tmp_path)
    evaluations = of_type(events, "evaluation")
    assert [event["kimg"] for event in evaluations] == pytest.approx([0.016 * step for step in range(1, 21)])
    fids = [event["metrics"]["fid"] for event in evaluations]
    best = [event["kimg"] for index, event in enumerate(evaluations) if fids[index] < min([math.inf, *fids[:index]])]
    assert 1 < len(best) < 20
    assert [event["kimg"] for event in files(events, "checkpoint")] == best
    for event in files(events, "checkpoint"):
        picture, numbers = events[events.index(event) + 1 :][:2]
        assert (picture["role"], numbers["type"]) == ("samples", "evaluation")
        assert picture["kimg"] == numbers["kimg"] == event["kimg"]
    assert len({event["fingerprint"] for event in evaluations}) == 1


def test_checkpoint_holds_the_average_and_not_the_weights_of_the_last_step(inputs, tmp_path):
    events = run_in_process("train", inputs.train_spec(training={"evaluate_every_kimg": 0.128}), tmp_path)
    published = load_checkpoint(files(events, "checkpoint")[-1]["path"]).model.state_dict()
    state = read_state(tmp_path / "state.safetensors")
    assert all(torch.equal(tensor, state.tensors[f"ema.{name}"]) for name, tensor in published.items())
    assert not torch.equal(published["model.input.weight"], state.tensors["target.model.input.weight"])


def test_checkpoints_of_equal_runs_are_equal_bytes_wherever_they_run(inputs, tmp_path):
    elsewhere = make_inputs(tmp_path / "copies")
    one = run_in_process("train", inputs.train_spec(), tmp_path / "one")
    other = run_in_process("train", elsewhere.train_spec(), tmp_path / "other")
    assert [event["sha256"] for event in files(one, "checkpoint")] == [
        event["sha256"] for event in files(other, "checkpoint")
    ]
    third = run_in_process("train", inputs.train_spec(seed=4), tmp_path / "third")
    assert files(one, "checkpoint")[0]["sha256"] != files(third, "checkpoint")[0]["sha256"]


def test_manifest_records_where_the_weights_come_from(inputs, tmp_path):
    base = tmp_path / "base.safetensors"
    write_checkpoint(base, lineage=["a" * 64], licence="CC BY-NC-SA 4.0", kimg=99, unrelated="stays behind")
    spec = inputs.train_spec(checkpoint=str(base))
    event = files(run_in_process("train", spec, tmp_path / "run"), "checkpoint")[-1]
    manifest = read_manifest(event["path"])
    assert event["info"] == manifest.model_dump(mode="json")
    assert manifest.network == NETWORK
    assert manifest.provenance == {
        "base_sha256": sha256_of(base),
        "dataset_sha256": sha256_of(inputs.dataset),
        "reference_set_sha256": [sha256_of(inputs.reference_set)],
        "feature_network_sha256": sha256_of(inputs.feature_network),
        "objective": spec["objective"],
        "online_reference_set": None,
        "training": manifest.provenance["training"],
        "sampler": manifest.provenance["sampler"],
        "dataset_reading": {"resolution": None, "transform": "none", "convert": None},
        "seed": 3,
        "kimg": event["kimg"],
        "step": round(event["kimg"] * 1000 / 16),
        "engine_version": manifest.provenance["engine_version"],
        "lineage": ["a" * 64, sha256_of(base)],
        "licence": "CC BY-NC-SA 4.0",
    }
    assert manifest.provenance["training"]["learning_rate"] == 1e-2
    assert manifest.provenance["sampler"]["num_steps"] == 3


def test_reference_model_is_frozen_and_in_no_state(inputs, tmp_path, monkeypatch):
    seen = []
    original = DDOTrainingLoss.__call__

    def watched(self, target_model, step, rows):
        seen.append((self.reference_model, target_model))
        return original(self, target_model, step, rows)

    monkeypatch.setattr(DDOTrainingLoss, "__call__", watched)
    run_in_process("train", inputs.train_spec(), tmp_path)
    reference_model, target_model = seen[-1]
    base = load_checkpoint(inputs.checkpoint).model.state_dict()
    assert all(torch.equal(tensor, base[name]) for name, tensor in reference_model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in reference_model.parameters())
    assert all(parameter.grad is None for parameter in reference_model.parameters())
    assert not {id(p) for p in reference_model.parameters()} & {id(p) for p in target_model.parameters()}
    names = read_state(tmp_path / "state.safetensors").tensors.keys()
    assert {name.split(".")[0] for name in names} == {"target", "ema", "optimizer", "window"}
    assert len([name for name in names if name.endswith(".exp_avg")]) == len(list(target_model.parameters()))


def test_real_and_fake_images_come_in_orders_of_their_own_that_follow_the_seed(inputs, tmp_path, monkeypatch):
    orders = []
    original = DDOTrainingLoss.__call__

    def watched(self, target_model, step, rows):
        orders.append([batches.order.indices(0, 90) for batches in (self.real, self.fake.source)])
        return original(self, target_model, step, rows)

    monkeypatch.setattr(DDOTrainingLoss, "__call__", watched)
    for seed in (3, 4):
        run_in_process("train", inputs.train_spec(seed=seed), tmp_path / str(seed))
    (real, fake), (other_real, other_fake) = orders[0], orders[-1]
    assert not torch.equal(real, fake)
    assert not torch.equal(real, other_real)
    assert not torch.equal(fake, other_fake)


def test_reference_set_in_shards_trains_as_in_one_file(inputs, tmp_path):
    fakes = load_dataset(inputs.reference_set)
    shards = []
    for index, part in enumerate((slice(0, 40), slice(40, None))):
        shards.append(tmp_path / f"shard-{index}.zip")
        write_dataset(shards[-1], fakes.images_NCHW[part], fakes.labels_N[part])
    whole = run_in_process("train", inputs.train_spec(), tmp_path / "whole")
    parts = run_in_process("train", inputs.train_spec(reference_set=[str(path) for path in shards]), tmp_path / "parts")
    assert of_type(whole, "metric") == of_type(parts, "metric")


def test_loss_that_is_not_finite_ends_the_trial_before_it_reaches_the_weights(inputs, tmp_path, monkeypatch):
    original = DDOTrainingLoss.__call__

    def broken_at_six(self, target_model, step, rows):
        values = original(self, target_model, step, rows)
        return values * math.nan if step == 6 else values

    monkeypatch.setattr(DDOTrainingLoss, "__call__", broken_at_six)
    before = {}

    def remember(event, _):
        if event["type"] == "file":
            before[Path(event["path"]).name] = event["sha256"]

    with pytest.raises(
        NonFiniteLoss, match=r"the loss is not finite after 6 steps \(0\.096 kimg\).*lower training"
    ) as caught:
        run_in_process("train", inputs.train_spec(), tmp_path, remember)
    assert caught.value.code == "diverged"
    assert {path.partition("-")[0] for path in before} == {"state.safetensors", "checkpoint", "samples"}
    assert "checkpoint-0.064.safetensors" in before
    assert {path.name: sha256_of(path) for path in tmp_path.iterdir()} == before
    state = read_state(tmp_path / "state.safetensors")
    assert state.header.step == 6
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.tensors.values())


def test_gradient_that_is_not_finite_ends_the_trial(inputs, tmp_path, monkeypatch):
    original = DDOTrainingLoss.__call__

    def infinite_slope(self, target_model, step, rows):
        values = original(self, target_model, step, rows)
        weight = next(target_model.parameters()).flatten()[0]
        return values + (weight - weight.detach()).abs().sqrt() if step == 2 else values

    monkeypatch.setattr(DDOTrainingLoss, "__call__", infinite_slope)
    with pytest.raises(NonFiniteLoss, match="the gradient is not finite after"):
        run_in_process("train", inputs.train_spec(), tmp_path / "stop")
    events = run_in_process("train", inputs.train_spec(training={"non_finite_gradients": "replace"}), tmp_path / "go")
    assert [event["values"]["replaced_gradients"] for event in of_type(events, "metric")][:4] == [0, 0, 1, 0]


EDM2_TRAINING = {
    "schedule": {"kind": "edm2", "decay_reference_batches": 3},
    "ema_half_life_kimg": None,
    "ema_std": 0.1,
}


@pytest.mark.parametrize(
    ("training", "expected_rates", "expected_decays"),
    [
        ({}, [0.005] + [0.01] * 7, [0.5 ** (16 / 32)] * 8),
        (
            EDM2_TRAINING,
            [0, 0.005, 0.01, 0.01, *(0.01 * (3 / step) ** 0.5 for step in range(4, 8))],
            [(1 - 1 / step) ** 7.937203937601809 for step in range(1, 9)],
        ),
    ],
)
def test_every_step_uses_the_learning_rate_that_it_reports_and_the_decay_of_its_batch(
    inputs, tmp_path, monkeypatch, training, expected_rates, expected_decays
):
    decays, rates = [], []
    adam_step, average = torch.optim.AdamW.step, update_ema

    def watched_step(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return adam_step(self, *args, **kwargs)

    def watched_average(ema_model, model, decay):
        decays.append(decay)
        average(ema_model, model, decay)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched_step)
    monkeypatch.setattr("ddo_engine.trial.update_ema", watched_average)
    events = run_in_process("train", inputs.train_spec(training=training), tmp_path)
    assert rates == pytest.approx(expected_rates)
    assert rates == [event["values"]["learning_rate"] for event in of_type(events, "metric")]
    assert decays == pytest.approx(expected_decays)


def test_average_that_draws_no_numbers_ends_the_trial_at_its_evaluation(inputs, tmp_path, monkeypatch):
    def broken(ema_model, *_):
        for parameter in ema_model.parameters():
            parameter.fill_(1e30)

    monkeypatch.setattr("ddo_engine.trial.update_ema", broken)
    with pytest.raises(NonFiniteLoss, match="the evaluation of the EMA weights is not finite after 4 steps") as caught:
        run_in_process("train", inputs.train_spec(), tmp_path)
    assert caught.value.param == "training.learning_rate"
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


def changed(inputs, folder, **parts):
    """Return train specs of inputs of which one does not fit."""
    folder.mkdir()
    if "network" in parts:
        write_checkpoint(folder / "base.safetensors", NETWORK | parts["network"])
        return inputs.train_spec(checkpoint=str(folder / "base.safetensors"))
    data = load_dataset(inputs.dataset)
    images, labels = parts["images"](data.images_NCHW), parts["labels"](data.labels_N)
    write_dataset(folder / "other.zip", images, labels)
    path = str(folder / "other.zip")
    return inputs.train_spec(**{parts["role"]: [path] if parts["role"] == "reference_set" else path})


def same(value):
    return value


@pytest.mark.parametrize(
    ("parts", "named", "param"),
    [
        ({"network": {"img_resolution": 8}}, "8x8 with 1 channel, the dataset has 4x4", "dataset.uri"),
        ({"network": {"img_channels": 3}}, "4x4 with 3 channels, the dataset has 4x4 with 1 channel:", "dataset.uri"),
        ({"network": {"label_dim": 2}}, "knows 2 classes", "dataset.uri"),
        ({"role": "dataset", "images": same, "labels": lambda _: None}, "the dataset has no labels", "dataset.uri"),
        (
            {"role": "reference_set", "images": lambda images: images[:, :, :3, :3], "labels": same},
            "the dataset has 3x3",
            "reference_set.0",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused_naming_both(inputs, tmp_path, parts, named, param):
    with pytest.raises(IncompatibleInputs, match=named) as caught:
        run_in_process("train", changed(inputs, tmp_path / "in", **parts), tmp_path / "run")
    assert caught.value.param == param


def test_unlabelled_images_train_an_unconditional_model(inputs, tmp_path):
    spec = changed(inputs, tmp_path / "in", network={"label_dim": 0})
    assert of_type(run_in_process("train", spec, tmp_path / "run"), "evaluation")


def test_pixels_between_the_grey_levels_are_refused(inputs, tmp_path):
    with pytest.raises(InvalidDataset, match="17 equally spaced grey levels"):
        run_in_process("train", inputs.train_spec(grey_levels=17), tmp_path)


def test_input_with_another_hash_than_the_spec_says_is_refused(inputs, tmp_path):
    spec = inputs.train_spec(dataset={"path": str(inputs.dataset), "sha256": "0" * 64})
    with pytest.raises(InvalidSpec, match="dataset: the file's SHA-256 is"):
        run_in_process("train", spec, tmp_path)


def test_input_that_was_not_fetched_is_refused(inputs, tmp_path):
    with pytest.raises(InvalidSpec, match="is not fetched"):
        run_in_process("train", inputs.train_spec(dataset={"uri": "s3://bucket/key"}), tmp_path)


def test_weights_that_give_infinite_outputs_diverge_at_the_first_step(inputs, tmp_path):
    base = load_checkpoint(inputs.checkpoint)
    with torch.no_grad():
        for parameter in base.model.parameters():
            parameter.mul_(1e30)
    save_checkpoint(tmp_path / "huge.safetensors", base.model, base.manifest)
    with pytest.raises(NonFiniteLoss, match="after 0 steps"):
        run_in_process("train", inputs.train_spec(checkpoint=str(tmp_path / "huge.safetensors")), tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("rows", [1, 5, 16])
@pytest.mark.parametrize("objective", [{"kind": "ddo", "alpha": 2.0, "beta": 0.5}, {"kind": "mle"}])
def test_micro_batches_train_like_the_whole_batch(inputs, tmp_path, objective, rows):
    weights, means = [], []
    for name, micro_batch_size in (("whole", None), ("parts", rows)):
        spec = inputs.train_spec(objective=objective, training={"micro_batch_size": micro_batch_size})
        if objective["kind"] == "mle":
            del spec["reference_set"]
        (tmp_path / name).mkdir()
        means.append(of_type(run_in_process("train", spec, tmp_path / name), "metric")[-1]["values"])
        weights.append(read_state(tmp_path / name / "state.safetensors").tensors)
    assert means[1] == pytest.approx(means[0], rel=1e-3, abs=1e-3)
    for name, tensor in weights[0].items():
        if name.startswith("target."):
            torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-4)


def test_gradients_are_shortened_to_the_largest_norm(inputs, tmp_path):
    # Adam does not see the length of gradients but for eps: with a large one, steps are proportional to them.
    def moved_by(name: str, **training) -> float:
        (tmp_path / name).mkdir()
        spec = inputs.train_spec(training={"kimg": 0.016, "adam_eps": 1.0, "warmup_kimg": 0, **training})
        run_in_process("train", spec, tmp_path / name)
        target = read_state(tmp_path / name / "state.safetensors").tensors
        base = load_checkpoint(inputs.checkpoint).model.state_dict()
        return math.sqrt(sum((target[f"target.{key}"] - value).square().sum().item() for key, value in base.items()))

    free = moved_by("free")
    assert moved_by("clipped", max_gradient_norm=1e-3) < 0.2 * free
    assert moved_by("longer", max_gradient_norm=1e6) == free
