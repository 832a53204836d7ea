"""What a trial keeps in memory while it runs: no network twice, no state that is taken up."""

import gc

import pytest

from ddo_engine.errors import Interrupted
from ddo_engine.families.diffusion.denoiser import Denoiser
from ddo_engine.state_file import SavedState
from ddo_engine.trial import Trial
from tests.engine_inputs import run_in_process


def living(kind: type) -> list[object]:
    gc.collect()
    return [thing for thing in gc.get_objects() if issubclass(type(thing), kind)]


@pytest.fixture
def held(monkeypatch):
    """Fills with the numbers of networks and saved states that live when a trial starts to run, and did not before."""
    before = {kind: living(kind) for kind in (Denoiser, SavedState)}  # kept, so that nothing new gets their identity
    found, original = {}, Trial.run

    def run(trial: Trial) -> None:
        for kind, known in before.items():
            ids = {id(thing) for thing in known}
            found[kind] = sum(id(thing) not in ids for thing in living(kind))
        original(trial)

    monkeypatch.setattr(Trial, "run", run)
    return found


def test_trial_keeps_target_average_and_one_reference(inputs, tmp_path, held):
    run_in_process("train", inputs.train_spec(), tmp_path)
    assert held[Denoiser] == 3


def test_trial_that_is_taken_up_lets_go_of_the_state_that_it_read(inputs, tmp_path, held):
    def stop_at_once(event, stop):
        stop.requested = stop.requested or event["type"] == "metric"

    with pytest.raises(Interrupted):
        run_in_process("train", inputs.train_spec(), tmp_path, stop_at_once)
    events = run_in_process("train", inputs.train_spec(), tmp_path)
    assert events[0]["resumed_from_kimg"] > 0
    assert held == {Denoiser: 3, SavedState: 0}
