"""A trial that is interrupted anywhere and taken up again gives the bits of one that was not."""

import json
from pathlib import Path

import pytest

from ddo_engine.errors import CorruptCheckpoint, IncompatibleInputs, Interrupted, InvalidSpec
from tests.disturbed_trials import killed_after_each_event, stopped_after_step
from tests.engine_inputs import NETWORK, results, run_in_process, write_checkpoint

UNET = {name: NETWORK[name] for name in ("img_resolution", "img_channels", "label_dim")} | {
    "class_name": "EDMPrecond",
    "model_type": "SongUNet",
    "augment_dim": 9,
    "model_channels": 8,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [],
}


def specs(inputs):
    """One spec of each kind of training."""
    return {
        "ddo": inputs.train_spec(),
        "mle": inputs.train_spec(objective={"kind": "mle"}, reference_set=...),
        "pretraining": inputs.train_spec(
            objective={"kind": "mle"}, reference_set=..., evaluation=..., feature_network=...
        ),
        "edm2's schedule and average": inputs.train_spec(
            training={
                "schedule": {"kind": "edm2", "decay_reference_batches": 3},
                "ema_half_life_kimg": None,
                "ema_std": 0.1,
            }
        ),
    }


@pytest.mark.parametrize("kind", ["ddo", "mle", "pretraining", "edm2's schedule and average"])
@pytest.mark.parametrize("step", [1, 3, 4, 7])
def test_trial_stopped_after_a_step_and_run_again_equals_undisturbed(inputs, tmp_path, kind, step):
    spec = specs(inputs)[kind]
    undisturbed = run_in_process("train", spec, tmp_path / "undisturbed")
    events = stopped_after_step(spec, tmp_path / "stopped", step)
    assert events[-1]["role"] == "state"
    assert events[-1]["kimg"] == step * 0.016
    resumed = run_in_process("train", spec, tmp_path / "stopped")
    assert resumed[0]["resumed_from_kimg"] == step * 0.016
    assert results(events + resumed) == results(undisturbed)
    assert not [event for event in resumed if event["type"] == "metric" and event["step"] <= step]


@pytest.mark.parametrize("kind", ["ddo", "pretraining"])
def test_trial_killed_after_any_event_and_run_again_equals_undisturbed(inputs, tmp_path, kind):
    spec = specs(inputs)[kind]
    killed_after_each_event(spec, tmp_path)


@pytest.mark.parametrize("kind", ["ddo", "pretraining"])
def test_trial_with_augmentation_stopped_and_run_again_equals_undisturbed(inputs, tmp_path, kind):
    """On a U-Net that is told of it; augmentation changes every step."""
    write_checkpoint(tmp_path / "unet.safetensors", UNET)
    spec = specs(inputs)[kind] | {"checkpoint": str(tmp_path / "unet.safetensors")}
    plain = run_in_process("train", spec, tmp_path / "plain")
    spec["training"] = spec["training"] | {"augment_probability": 0.3}
    undisturbed = run_in_process("train", spec, tmp_path / "undisturbed")
    events = stopped_after_step(spec, tmp_path / "stopped", 3)
    resumed = run_in_process("train", spec, tmp_path / "stopped")
    assert resumed[0]["resumed_from_kimg"] == 0.048
    assert results(events + resumed) == results(undisturbed)
    losses = [[event["values"]["loss"] for event in run if event["type"] == "metric"] for run in (plain, undisturbed)]
    # In DDO's first step target and reference are equal, and the loss is (1 + alpha) ln 2 whatever they see.
    same = [before == after for before, after in zip(*losses, strict=True)]
    assert same == [kind == "ddo"] + [False] * (len(same) - 1)


def test_trial_with_augmentation_that_the_network_cannot_be_told_of_is_refused(inputs, tmp_path):
    spec = inputs.train_spec(training={"augment_probability": 0.3})
    with pytest.raises(InvalidSpec, match="augment_dim") as error:
        run_in_process("train", spec, tmp_path)
    assert error.value.param == "training.augment_probability"


def test_trial_stopped_in_every_step_in_turn_equals_undisturbed(inputs, tmp_path):
    spec = inputs.train_spec()
    undisturbed = run_in_process("train", spec, tmp_path / "undisturbed")
    events, attempts = [], 0

    def stop_after_one_step(event, stop):
        events.append(event)
        stop.requested = stop.requested or event["type"] == "metric"

    while True:
        attempts += 1
        try:
            run_in_process("train", spec, tmp_path / "stopped", stop_after_one_step)
            break
        except Interrupted:
            continue
    assert attempts == 9
    assert results(events) == results(undisturbed)


def test_trial_stopped_in_an_evaluation_keeps_its_steps_and_evaluates_again(inputs, tmp_path):
    spec = inputs.train_spec()
    undisturbed = run_in_process("train", spec, tmp_path / "undisturbed")
    events = []

    def stop_in_evaluation(event, stop):
        events.append(event)
        stop.requested = event["type"] == "progress" and event["phase"] == "evaluation"

    with pytest.raises(Interrupted):
        run_in_process("train", spec, tmp_path / "stopped", stop_in_evaluation)
    assert not [event for event in events if event["type"] == "evaluation"]
    assert events[-1]["role"] == "state"
    resumed = run_in_process("train", spec, tmp_path / "stopped")
    assert resumed[0]["resumed_from_kimg"] == 0.064
    assert results(events + resumed) == results(undisturbed)


def test_trial_taken_up_after_its_best_evaluation_remembers_which_was_best(inputs, tmp_path):
    spec = inputs.train_spec(training={"kimg": 0.32, "learning_rate": 0.05, "evaluate_every_kimg": 0.016})
    undisturbed = run_in_process("train", spec, tmp_path / "undisturbed")
    evaluations = [event for event in undisturbed if event["type"] == "evaluation"]
    fids = [event["metrics"]["fid"] for event in evaluations]
    worse = next(index for index in range(1, 20) if fids[index] > min(fids[:index]))
    events = []

    def stop_before_the_worse_one(event, stop):
        events.append(event)
        stop.requested = stop.requested or event == evaluations[worse - 1]

    with pytest.raises(Interrupted):
        run_in_process("train", spec, tmp_path / "stopped", stop_before_the_worse_one)
    resumed = run_in_process("train", spec, tmp_path / "stopped")
    assert results(events + resumed) == results(undisturbed)


def test_trial_that_was_finished_and_is_run_again_repeats_nothing(inputs, tmp_path):
    run_in_process("train", inputs.train_spec(), tmp_path)
    again = run_in_process("train", inputs.train_spec(), tmp_path)
    assert results(again) == []


def stopped_at(inputs, workdir, step):
    stopped_after_step(inputs.train_spec(), workdir, step)
    return workdir / "state.safetensors"


def test_state_from_elsewhere_is_taken_up_before_that_of_the_workdir(inputs, tmp_path):
    undisturbed = run_in_process("train", inputs.train_spec(), tmp_path / "undisturbed")
    early = stopped_at(inputs, tmp_path / "early", 2)
    stopped_at(inputs, tmp_path / "late", 6)
    events = run_in_process("train", inputs.train_spec(state=str(early)), tmp_path / "late")
    assert events[0]["resumed_from_kimg"] == 0.032
    last = {"type": "evaluation", "kimg": 0.128}
    assert [event for event in results(events) if event | last == event] == [
        event for event in results(undisturbed) if event | last == event
    ]


def test_state_that_is_damaged_is_refused_and_left_alone(inputs, tmp_path):
    path = stopped_at(inputs, tmp_path, 2)
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CorruptCheckpoint, match="SHA-256"):
        run_in_process("train", inputs.train_spec(), tmp_path)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"training": {"learning_rate": 2e-2}}, r"training\.learning_rate is 0\.01 there and 0\.02"),
        ({"objective": {"kind": "ddo", "alpha": 2.0, "beta": 0.25}}, r"objective\.beta"),
        ({"seed": 4}, "seed is 3 there and 4"),
        ({"evaluation": {"num_samples": 40}}, r"evaluation\.num_samples"),
    ],
)
def test_state_of_a_trial_with_other_settings_is_refused(inputs, tmp_path, overrides, named):
    stopped_at(inputs, tmp_path, 2)
    with pytest.raises(IncompatibleInputs, match=named):
        run_in_process("train", inputs.train_spec(**overrides), tmp_path)


def test_state_of_a_trial_on_other_images_is_refused(inputs, tmp_path):
    stopped_at(inputs, tmp_path, 2)
    with pytest.raises(IncompatibleInputs, match="dataset_sha256"):
        run_in_process("train", inputs.train_spec(dataset=str(inputs.reference_set)), tmp_path)


def test_state_is_taken_up_when_only_the_interval_of_saving_differs(inputs, tmp_path):
    stopped_at(inputs, tmp_path, 2)
    spec = inputs.train_spec(training={"save_state_every_kimg": ...})
    assert run_in_process("train", spec, tmp_path)[0]["resumed_from_kimg"] == 0.032


def test_state_of_another_number_of_threads_is_taken_up_with_a_warning(inputs, tmp_path, monkeypatch, caplog):
    stopped_at(inputs, tmp_path, 2)
    monkeypatch.setattr("ddo_engine.state.torch.get_num_threads", lambda: 61)
    assert run_in_process("train", inputs.train_spec(), tmp_path)[0]["resumed_from_kimg"] == 0.032
    assert "'threads': '61'" in caplog.text
    assert "last bits" in caplog.text


def test_state_file_with_another_hash_than_the_spec_says_is_refused(inputs, tmp_path):
    path = stopped_at(inputs, tmp_path, 2)
    spec = inputs.train_spec(state={"path": str(path), "sha256": "0" * 64})
    with pytest.raises(InvalidSpec, match="state: the file's SHA-256 is"):
        run_in_process("train", spec, tmp_path / "other")


def test_files_of_a_trial_name_no_folder_and_are_complete(inputs, tmp_path):
    events = run_in_process("train", inputs.train_spec(), tmp_path)
    files = [event for event in events if event["type"] == "file"]
    assert files
    for event in files:
        assert Path(event["path"]).parent == tmp_path.resolve()
        content = Path(event["path"]).read_bytes()
        assert str(tmp_path).encode() not in content
        assert str(inputs.folder).encode() not in content
        assert json.dumps(event["info"]).find(str(inputs.folder)) == -1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({Path(event["path"]).name for event in files})
