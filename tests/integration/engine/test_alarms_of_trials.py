"""What a trial says beside its numbers: warnings, the end of a saturated trial, speed and memory."""

import pytest

from ddo_engine.errors import DiscriminatorSaturated, Interrupted
from ddo_engine.state_file import read_state
from tests.engine_inputs import Killed, results, run_in_process


@pytest.fixture
def everything_saturates(monkeypatch):
    """Every window passes for saturated."""
    monkeypatch.setattr("ddo_engine.alarms.SATURATED_ACCURACY", 0.0)
    monkeypatch.setattr("ddo_engine.alarms.SATURATED_SHARE", 0.0)


def of_type(events, kind):
    return [event for event in events if event["type"] == kind]


def run_until_saturated(inputs, workdir, on_event=None, **training):
    events = []

    def keep(event, stop):
        events.append(event)
        if on_event is not None:
            on_event(event, stop)

    with pytest.raises(DiscriminatorSaturated) as caught:
        run_in_process("train", inputs.train_spec(training=training), workdir, keep)
    return events, caught.value


def test_warning_follows_the_metric_that_it_is_about_and_is_said_once(inputs, tmp_path):
    spec = inputs.train_spec(training={"learning_rate": 1e-6})
    events = run_in_process("train", spec, tmp_path)
    (warning,) = of_type(events, "warning")
    assert warning["code"] == "discriminator_idle"
    assert "raise beta" in warning["message"]
    before = [event for event in events[: events.index(warning)] if event["type"] == "metric"][-1]
    assert (warning["step"], warning["kimg"]) == (before["step"], before["kimg"]) == (2, 0.032)


def test_saturated_trial_ends_after_two_windows_with_advice_and_its_state(inputs, tmp_path, everything_saturates):
    events, error = run_until_saturated(inputs, tmp_path)
    assert error.code == "saturated"
    assert error.param == "training.stop_when_saturated"
    assert "lower training.learning_rate or beta" in error.message
    assert [event["step"] for event in of_type(events, "metric")] == [1, 2]
    assert read_state(tmp_path / "state.safetensors").header.step == 2
    again, _ = run_until_saturated(inputs, tmp_path)
    assert of_type(again, "metric") == of_type(again, "warning") == []


def test_saturated_trial_is_evaluated_first_where_that_is_due(inputs, tmp_path, everything_saturates):
    events, _ = run_until_saturated(inputs, tmp_path, evaluate_every_kimg=0.032)
    assert [event["kimg"] for event in of_type(events, "evaluation")] == [0.032]


def test_saturated_trial_that_may_go_on_is_only_warned_of(inputs, tmp_path, everything_saturates):
    spec = inputs.train_spec(training={"stop_when_saturated": False})
    events = run_in_process("train", spec, tmp_path)
    assert [event["step"] for event in of_type(events, "metric")][-1] == 8
    assert [event["code"] for event in of_type(events, "warning")] == ["discriminator_saturated"]


def test_saturated_trial_goes_on_where_the_advice_is_taken(inputs, tmp_path, everything_saturates):
    goes_on = inputs.train_spec(training={"stop_when_saturated": False})
    undisturbed = run_in_process("train", goes_on, tmp_path / "undisturbed")
    ended, _ = run_until_saturated(inputs, tmp_path / "ended")
    resumed = run_in_process("train", goes_on, tmp_path / "ended")
    for kind in ("metric", "warning", "evaluation"):
        assert of_type(ended + resumed, kind) == of_type(undisturbed, kind)


@pytest.mark.parametrize("kind", ["stopped", "killed"])
def test_saturated_trial_that_was_disturbed_says_what_the_undisturbed_said(
    inputs, tmp_path, everything_saturates, kind
):
    undisturbed, _ = run_until_saturated(inputs, tmp_path / "undisturbed")
    events = []

    def disturb(event, stop):
        events.append(event)
        if event["type"] == "metric":
            stop.requested = True
            if kind == "killed":
                raise Killed

    with pytest.raises(Interrupted if kind == "stopped" else Killed):
        run_in_process("train", inputs.train_spec(), tmp_path / kind, disturb)
    resumed, _ = run_until_saturated(inputs, tmp_path / kind)
    assert results(events + resumed) == results(undisturbed)


def test_every_window_is_followed_by_its_speed_and_memory(inputs, tmp_path):
    events = run_in_process("train", inputs.train_spec(), tmp_path)
    metrics, performances = of_type(events, "metric"), of_type(events, "performance")
    assert [(event["step"], event["kimg"]) for event in performances] == [
        (event["step"], event["kimg"]) for event in metrics
    ]
    assert all(event["images_per_second"] > 0 and event["peak_memory_bytes"] > 1 << 20 for event in performances)
    assert {event["memory"] for event in performances} == {"process"}


def test_losses_on_the_data_are_told_of_both_models_and_differ_by_the_ratio(inputs, tmp_path):
    for event in of_type(run_in_process("train", inputs.train_spec(), tmp_path), "metric"):
        values = event["values"]
        assert values["reference_loss"] - values["target_loss"] == pytest.approx(values["ratio_real_mean"], abs=1e-4)
        assert values["reference_loss"] > 0
