"""A beta that is left to a probe: what it is, and that nothing else of the trial is touched."""

import math

import pytest

from ddo_engine.checkpoint import read_manifest
from ddo_engine.errors import CorruptCheckpoint, Interrupted, InvalidSpec
from ddo_engine.families.edm import EDMFamily
from ddo_engine.families.protocol import LikelihoodRatios
from ddo_engine.objective import ddo_loss
from ddo_engine.spec import TrainingSettings
from ddo_engine.spec.settings import FEWEST_PROBE_STEPS
from ddo_engine.state_file import SavedState, read_state, write_state
from tests.disturbed_trials import killed_after_each_event
from tests.engine_inputs import results, run_in_process

AUTO = {"kind": "ddo", "alpha": 2.0, "beta": "auto"}
PROBE = {"probe_kimg": 0.064}  # four steps


def spec_of(inputs, **training):
    return inputs.train_spec(objective=AUTO, training=PROBE | training)


def of_type(events, kind):
    return [event for event in events if event["type"] == kind]


def found(events):
    (event,) = of_type(events, "beta")
    return event


def test_trial_with_auto_equals_the_trial_with_the_beta_that_was_found(inputs, tmp_path):
    auto = run_in_process("train", spec_of(inputs), tmp_path / "auto")
    event = found(auto)
    assert event["beta"] == 1 / event["ratio_std"]
    assert event["num_steps"] == 4
    number = inputs.train_spec(objective=AUTO | {"beta": event["beta"]})
    given = run_in_process("train", number, tmp_path / "number")
    for kind in ("metric", "evaluation"):
        assert of_type(auto, kind) == of_type(given, kind)
    states = [read_state(tmp_path / name / "state.safetensors") for name in ("auto", "number")]
    assert states[0].header.beta == event["beta"]
    assert states[1].header.beta is None
    assert all(bool((tensor == states[1].tensors[name]).all()) for name, tensor in states[0].tensors.items())


def test_first_step_of_the_trial_starts_from_the_base(inputs, tmp_path):
    first = of_type(run_in_process("train", spec_of(inputs), tmp_path), "metric")[0]["values"]
    assert first["loss"] == pytest.approx(3 * math.log(2), abs=1e-6)
    assert first["ratio_real_std"] == first["ratio_fake_std"] == 0.0


def test_ratio_spreads_by_about_one_over_beta_when_the_trial_has_gone_as_far_as_the_probe(inputs, tmp_path):
    events = run_in_process("train", spec_of(inputs), tmp_path)
    values = of_type(events, "metric")[3]["values"]
    assert 0.3 < found(events)["beta"] * values["ratio_real_std"] < 3


def test_checkpoint_says_what_was_asked_for_and_what_was_found(inputs, tmp_path):
    events = run_in_process("train", spec_of(inputs), tmp_path)
    (*_, written) = [event for event in of_type(events, "file") if event["role"] == "checkpoint"]
    provenance = read_manifest(written["path"]).provenance
    assert provenance["objective"] == AUTO
    assert provenance["found_beta"] == found(events)["beta"]


@pytest.mark.parametrize("factor", [0.125, 8.0])
def test_ratios_that_are_k_times_larger_give_beta_over_k(inputs, tmp_path, monkeypatch, factor):
    plain = found(run_in_process("train", spec_of(inputs), tmp_path / "plain"))["beta"]
    original = EDMFamily.log_likelihood_ratios

    def scaled(self, *arguments):
        real_B, fake_B, loss_B = original(self, *arguments)
        return LikelihoodRatios(factor * real_B, factor * fake_B, loss_B)

    monkeypatch.setattr(EDMFamily, "log_likelihood_ratios", scaled)
    larger = found(run_in_process("train", spec_of(inputs), tmp_path / "scaled"))["beta"]
    assert larger == pytest.approx(plain / factor, rel=1e-3)


def test_clipping_and_average_leave_the_beta_as_it_is(inputs, tmp_path):
    plain = found(run_in_process("train", spec_of(inputs), tmp_path / "plain"))
    other = spec_of(inputs, max_gradient_norm=1e-3, ema_half_life_kimg=0.0)
    assert found(run_in_process("train", other, tmp_path / "other")) == plain


def test_alpha_warm_up_and_length_of_the_probe_count(inputs, tmp_path):
    betas = set()
    for index, (alpha, training) in enumerate(
        [(0.5, {}), (0.0, {}), (0.5, {"probe_kimg": 0.128}), (0.5, {"warmup_kimg": 0.128})]
    ):
        spec = inputs.train_spec(objective=AUTO | {"alpha": alpha}, training=PROBE | training)
        betas.add(found(run_in_process("train", spec, tmp_path / str(index)))["beta"])
    assert len(betas) == 4


def test_large_alphas_count_alike(inputs, tmp_path):
    found_betas = set()
    for alpha in (0.5, 1.0, 6.0):
        spec = inputs.train_spec(objective=AUTO | {"alpha": alpha}, training=PROBE)
        found_betas.add(found(run_in_process("train", spec, tmp_path / str(alpha)))["beta"])
    assert len(found_betas) == 1


@pytest.mark.parametrize(("kimg", "num_steps"), [(0.064, 4), (0.64, FEWEST_PROBE_STEPS), (1000, 6250), (1500, 9375)])
def test_probe_without_a_length_takes_a_tenth_of_the_trial_and_some_steps_at_least(inputs, kimg, num_steps):
    training = inputs.train_spec()["training"] | {"kimg": kimg}
    assert TrainingSettings.model_validate(training).num_probe_steps == num_steps


def test_trial_with_auto_killed_after_any_event_and_run_again_equals_undisturbed(inputs, tmp_path):
    for resumed in killed_after_each_event(spec_of(inputs), tmp_path):
        took_up_a_state = resumed[0]["resumed_from_kimg"] is not None
        assert bool(of_type(resumed, "beta")) != took_up_a_state


def test_probe_that_is_stopped_leaves_nothing_and_starts_again(inputs, tmp_path):
    def stop_in_probe(event, stop):
        stop.requested = event.get("phase") == "probe"

    with pytest.raises(Interrupted):
        run_in_process("train", spec_of(inputs), tmp_path / "stopped", stop_in_probe)
    assert list((tmp_path / "stopped").iterdir()) == []
    undisturbed = run_in_process("train", spec_of(inputs), tmp_path / "undisturbed")
    assert results(run_in_process("train", spec_of(inputs), tmp_path / "stopped")) == results(undisturbed)


def test_state_without_the_beta_that_was_found_is_refused(inputs, tmp_path):
    run_in_process("train", spec_of(inputs), tmp_path)
    path = tmp_path / "state.safetensors"
    state = read_state(path)
    write_state(path, SavedState(state.header.model_copy(update={"beta": None}), state.tensors))
    with pytest.raises(CorruptCheckpoint, match="does not say the beta"):
        run_in_process("train", spec_of(inputs), tmp_path)


def test_ratios_that_do_not_move_are_refused_with_advice(inputs, tmp_path):
    spec = spec_of(inputs, learning_rate=1e-30)
    with pytest.raises(InvalidSpec, match=r"raise training\.probe_kimg") as caught:
        run_in_process("train", spec, tmp_path)
    assert caught.value.param == "objective.beta"


def test_probe_of_less_than_an_image_takes_one_step_in_which_nothing_moves(inputs, tmp_path):
    spec = inputs.train_spec(objective=AUTO, training={"probe_kimg": 0.0004})
    with pytest.raises(InvalidSpec, match=r"probe of 1 steps: raise training\.probe_kimg"):
        run_in_process("train", spec, tmp_path)


def test_probe_trains_a_loss_without_a_sigmoid(inputs, tmp_path, monkeypatch):
    betas = []

    def watched(real_B, fake_B, *, alpha, beta):
        betas.append(beta)
        return ddo_loss(real_B, fake_B, alpha=alpha, beta=beta)

    monkeypatch.setattr("ddo_engine.training_loss.ddo_loss", watched)
    events = run_in_process("train", spec_of(inputs), tmp_path)
    assert betas == [None] * 4 + [found(events)["beta"]] * 8
