"""What a trial keeps in memory while it runs: no network twice."""

import gc

import pytest

from ddo_engine.errors import Interrupted
from ddo_engine.families.diffusion.denoiser import Denoiser
from ddo_engine.trial import Trial
from tests.engine_inputs import run_in_process


def living(kind: type) -> list[object]:
    gc.collect()
    return [thing for thing in gc.get_objects() if issubclass(type(thing), kind)]


@pytest.fixture
def held(monkeypatch):
    """Fills with the number of networks that live when a trial starts to run, and did not before."""
    before = living(Denoiser)  # kept, so that nothing new gets their identity
    found, original = [], Trial.run

    def run(trial: Trial) -> None:
        ids = {id(thing) for thing in before}
        found.append(sum(id(thing) not in ids for thing in living(Denoiser)))
        original(trial)

    monkeypatch.setattr(Trial, "run", run)
    return found


def test_trial_keeps_target_average_and_one_reference(inputs, tmp_path, held):
    run_in_process("train", inputs.train_spec(), tmp_path)
    assert held == [3]


def test_trial_that_is_taken_up_keeps_no_more_than_a_fresh_one(inputs, tmp_path, held):
    def stop_at_once(event, stop):
        stop.requested = stop.requested or event["type"] == "metric"

    with pytest.raises(Interrupted):
        run_in_process("train", inputs.train_spec(), tmp_path, stop_at_once)
    events = run_in_process("train", inputs.train_spec(), tmp_path)
    assert events[0]["resumed_from_kimg"] > 0
    assert held == [3, 3]
