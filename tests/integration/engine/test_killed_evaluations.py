"""An evaluation that is killed goes on behind what it has drawn, alone and inside a trial; the numbers are the same."""

import json
import subprocess
import sys
import time

import pytest

from ddo_engine.evaluation import Evaluator, drawing
from tests.engine_inputs import REPOSITORY, Killed, results, run_in_process

WITHOUT_DELAY = """
import sys
from ddo_engine import command_line
from ddo_engine.evaluation import drawing
drawing.PART_SECONDS = 0.0
sys.exit(command_line.main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def every_batch_is_a_part(monkeypatch):
    monkeypatch.setattr(drawing, "PART_SECONDS", 0.0)


@pytest.fixture
def batches(monkeypatch):
    """Return the batches that are drawn from here on."""
    drawn = []
    draw = Evaluator._draw

    def noted(self, model, family, seeds, sampler):
        drawn.append(seeds)
        return draw(self, model, family, seeds, sampler)

    monkeypatch.setattr(Evaluator, "_draw", noted)
    return drawn


def evaluate_spec(inputs, **overrides):
    spec = {name: str(getattr(inputs, name)) for name in ("checkpoint", "dataset", "feature_network")}
    sampler = {"num_steps": 18, "batch_size": 64}
    return spec | {"kind": "evaluate", "sampler": sampler, "evaluations": [{"num_samples": 2000}]} | overrides


def test_killed_process_of_an_evaluation_is_followed_by_one_that_draws_the_rest(inputs, tmp_path):
    (tmp_path / "spec.json").write_text(json.dumps(evaluate_spec(inputs)))
    command = [sys.executable, "-c", WITHOUT_DELAY, "evaluate", str(tmp_path / "spec.json"), "--device", "cpu"]
    killed = subprocess.Popen(
        [*command, "--threads", "1", "--workdir", str(tmp_path / "work"), "--cache", str(tmp_path / "cache")],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
    )
    while killed.poll() is None and not list(tmp_path.glob("cache/evaluation-*/0000064-*")):
        time.sleep(0.005)
    killed.kill()
    assert killed.wait(10) < 0, "it ended before it could be killed"
    # another attempt has another folder
    events = run_in_process("evaluate", evaluate_spec(inputs), tmp_path / "again", cache=tmp_path / "cache")
    told = [event["done"] for event in events if event.get("phase") == "evaluation"]
    assert told[0] >= 128
    undisturbed = run_in_process("evaluate", evaluate_spec(inputs), tmp_path / "undisturbed")
    assert results(events) == results(undisturbed)
    assert not list(tmp_path.glob("*/evaluation-*"))


@pytest.mark.parametrize("batch", [1, 3])
def test_trial_killed_in_an_evaluation_trains_no_step_and_draws_no_batch_twice(
    inputs, tmp_path, monkeypatch, batches, batch
):
    spec = inputs.train_spec(sampler={"batch_size": 16})  # two evaluations of three batches
    undisturbed = run_in_process("train", spec, tmp_path / "undisturbed")
    first, rest = batches[:3], batches[3:]
    batches.clear()
    draw = Evaluator._draw

    def die(self, model, family, seeds, sampler):
        if len(batches) == 3 + batch - 1:
            raise Killed
        return draw(self, model, family, seeds, sampler)

    events = []
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "_draw", die)
        with pytest.raises(Killed):
            run_in_process("train", spec, tmp_path / "killed", lambda event, _: events.append(event))
    assert batches == first + rest[: batch - 1]
    resumed = run_in_process("train", spec, tmp_path / "killed")
    assert batches == first + rest
    assert [event for event in resumed if event["type"] == "metric"] == []
    assert results(events + resumed) == results(undisturbed)
    assert not list(tmp_path.glob("killed/evaluation-*"))
