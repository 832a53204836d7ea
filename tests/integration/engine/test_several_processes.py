"""Two processes do the work of one: the same numbers, the same files, and one fate.

What torchrun adds is in test_torchrun.py.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from ddo_engine import events
from ddo_engine.checkpoint import CheckpointManifest, save_checkpoint
from ddo_engine.errors import Interrupted
from ddo_engine.files import sha256_of
from ddo_engine.interruption import StopRequest
from ddo_engine.state_file import read_state
from tests.engine_inputs import EngineInputs, make_inputs, merged, results, run_in_process, write_checkpoint
from tests.integration.engine.test_resume import UNET
from tests.rank_cases import Case, Outcome, run_in_processes
from tests.tiny_families import EDM2, randomised
from tests.var_inputs import inputs_of, make_var_inputs
from tests.var_inputs import train_spec as var_train_spec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
FAMILIES = ["edm", "edm2", "var", "var online"]
MISHAPS = ["drift", "nan", "memory", "stop"]
# A sum over a batch is cut where the batch is, and Adam's division enlarges what differs. Of weights of about 1.
TOLERANCE = 2e-5


@dataclass(frozen=True)
class Runs:
    """What one start of two processes gave, and the specs that it was given."""

    folder: Path
    specs: dict[str, dict[str, Any]]
    outcomes: dict[str, list[Outcome]]
    events_alone: dict[Path, list[dict[str, Any]]] = field(default_factory=dict)

    def workdir(self, name: str) -> Path:
        """Return the folder of one case."""
        return self.folder / name.replace(" ", "-")

    def alone(self, name: str, **training: Any) -> tuple[list[dict[str, Any]], Path]:
        """Run a trial in this process, once; return its events and folder."""
        workdir = self.folder / "alone" / f"{name.replace(' ', '-')}-{'-'.join(map(str, training.values()))}"
        if workdir not in self.events_alone:
            spec = merged(self.specs[name], {"training": training})
            self.events_alone[workdir] = run_in_process("train", spec, workdir)
        return self.events_alone[workdir], workdir


def spec_of_families(folder: Path, inputs: EngineInputs) -> dict[str, dict[str, Any]]:
    write_checkpoint(folder / "unet.safetensors", UNET)
    edm = inputs.train_spec(checkpoint=str(folder / "unet.safetensors"), training={"augment_probability": 0.3})
    save_checkpoint(
        folder / "edm2.safetensors", randomised("edm2", EDM2, seed=1), CheckpointManifest(family="edm2", network=EDM2)
    )
    var = make_var_inputs(folder / "var")
    online = {
        "online_reference_set": {"batch_size": 16},
        "reference_set": [],
        "objective": {"kind": "ddo", "alpha": 20, "beta": 0.02},
    }
    return {
        "edm": edm,
        "edm2": inputs.train_spec(checkpoint=str(folder / "edm2.safetensors"), sampler={"state_dtype": "float32"}),
        "var": var_train_spec(var, training={"label_dropout": 0.0}),
        "var online": merged(var_train_spec(var, training={"label_dropout": 0.5}), online),
        "mle": inputs.train_spec(objective={"kind": "mle"}, reference_set=..., training={"micro_batch_size": 3}),
        "generate": inputs_of(var, num_samples=50, first_seed=7),
        "evaluate": {
            "checkpoint": str(inputs.checkpoint),
            "dataset": str(inputs.dataset),
            "feature_network": str(inputs.feature_network),
            "denoising_dataset": str(inputs.dataset),
            "sampler": {"num_steps": 3, "batch_size": 16},
            "evaluations": [{"num_samples": 75, "seed": 5, "neighbours": 3, "inception_score_splits": 3}],
        },
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    folder = tmp_path_factory.mktemp("several")
    inputs = make_inputs(folder / "inputs")
    specs = spec_of_families(folder, inputs)
    specs |= {
        "edm again": specs["edm"],
        "uneven": merged(specs["edm"], {"training": {"batch_size": 15, "kimg": 0.12, "evaluate_every_kimg": 0.06}}),
        "one row": merged(specs["edm"], {"training": {"batch_size": 1}}),
        "auto": merged(specs["edm"], {"objective": {"beta": "auto"}}),
    } | {mishap: inputs.train_spec() for mishap in MISHAPS}
    specs |= {"resumed": specs["stop"], "evaluate the rest": specs["evaluate"]}
    runs = Runs(folder, specs, {})
    stop_evaluation(specs["evaluate"], runs.workdir("evaluate the rest"))
    cases = []
    for name, spec in specs.items():
        command = name.split()[0] if name.startswith(("generate", "evaluate")) else "train"
        workdir = runs.workdir("stop" if name == "resumed" else name)
        cases.append(Case(command, spec, str(workdir), name if name in MISHAPS else None))
    outcomes = run_in_processes(cases, num_processes=2, folder=folder / "processes")
    return Runs(folder, specs, dict(zip(specs, outcomes, strict=True)))


def stop_evaluation(spec: dict[str, Any], workdir: Path) -> None:
    """Let one process draw two batches of sixteen."""

    def stop_in_third(event: dict[str, Any], stop: StopRequest) -> None:
        stop.requested = (event["type"], event.get("done")) == ("progress", 32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events, "MIN_PROGRESS_INTERVAL_SECONDS", 0.0)
        with pytest.raises(Interrupted):
            run_in_process("evaluate", spec, workdir, stop_in_third)
    assert len(list(workdir.glob("evaluation-*/0000000-0000032.safetensors"))) == 1


def finished(runs: Runs, name: str) -> list[dict[str, Any]]:
    """Return the events of the process that leads, once no process failed."""
    assert [outcome.error for outcome in runs.outcomes[name]] == [None, None], runs.outcomes[name]
    return runs.outcomes[name][0].events


def numbers(events: list[dict[str, Any]]) -> list[dict[str, float]]:
    return [
        event["values"] if event["type"] == "metric" else event["metrics"]
        for event in events
        if event["type"] in ("metric", "evaluation")
    ]


def tensors(workdir: Path) -> dict[str, torch.Tensor]:
    return dict(read_state(workdir / "state.safetensors").tensors)


@pytest.mark.parametrize("name", FAMILIES)
def test_trial_of_two_processes_equals_one_that_accumulates_their_rows_to_the_bit(runs, name):
    """The sum over processes is the sum that accumulation makes."""
    events = finished(runs, name)
    alone, workdir = runs.alone(name, micro_batch_size=8)
    assert numbers(events) == numbers(alone)
    ours, theirs = tensors(runs.workdir(name)), tensors(workdir)
    assert [key for key in theirs if not torch.equal(ours[key], theirs[key])] == []


def assert_close(our_workdir, our_events, their_workdir, their_events) -> None:
    """Losses, ratios and weights agree but for rounding."""
    for ours, theirs in zip(numbers(our_events), numbers(their_events), strict=True):
        for key in theirs.keys() - {"fid", "precision", "recall"}:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-3, abs=TOLERANCE), key
    our_tensors, their_tensors = tensors(our_workdir), tensors(their_workdir)
    for key, tensor in their_tensors.items():
        # Keys that all move by the same change no attention: the gradient of their bias is rounding and nothing else.
        if key.startswith(("target.", "ema.")) and not key.endswith("qkv.bias"):
            torch.testing.assert_close(our_tensors[key], tensor, rtol=0, atol=TOLERANCE, msg=key)


@pytest.mark.parametrize("name", [*FAMILIES, "mle", "uneven"])
def test_trial_of_two_processes_equals_one_with_the_same_batch(runs, name):
    events = finished(runs, name)
    alone, workdir = runs.alone(name, micro_batch_size=...)
    assert_close(runs.workdir(name), events, workdir, alone)


def test_trial_of_two_processes_repeats_itself_to_the_bit(runs):
    again = finished(runs, "edm again")
    assert results(finished(runs, "edm")) == results(again)
    hashes = [sha256_of(runs.workdir(name) / "state.safetensors") for name in ("edm", "edm again")]
    assert hashes[0] == hashes[1]


def test_state_of_two_processes_says_so(runs):
    assert read_state(runs.workdir("edm") / "state.safetensors").header.numerics["processes"] == "2"


def test_beta_found_by_two_processes_is_that_of_one(runs):
    found = [event["beta"] for event in finished(runs, "auto") if event["type"] == "beta"]
    alone, _ = runs.alone("auto", micro_batch_size=8)
    assert found == [event["beta"] for event in alone if event["type"] == "beta"]
    assert len(found) == 1


@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_samples_of_two_processes_are_those_of_one_to_the_bit(runs, command):
    alone = run_in_process(command, runs.specs[command], runs.folder / "alone" / command)
    assert results(finished(runs, command)) == results(alone)
    kinds = {event["type"] for event in results(alone)}
    assert ("file" if command == "generate" else "evaluation") in kinds


def test_evaluation_of_one_process_is_ended_by_two_with_the_same_numbers(runs):
    assert results(finished(runs, "evaluate the rest")) == results(finished(runs, "evaluate"))
    # Its parts were theirs, or they would lie there still.
    assert {path.suffix for path in runs.workdir("evaluate the rest").iterdir()} == {".png"}


@pytest.mark.parametrize(("command", "phase", "total"), [("generate", "sampling", 50), ("evaluate", "evaluation", 75)])
def test_progress_counts_the_images_of_all_processes(runs, command, phase, total):
    told = [event for event in finished(runs, command) if event["type"] == "progress" and event["phase"] == phase]
    assert (told[0]["done"], told[-1]["done"], told[-1]["total"]) == (0, total, total)


def test_only_the_process_that_leads_writes(runs):
    for name in ("edm", "generate", "evaluate"):
        other = runs.outcomes[name][1].events
        assert [event for event in other if event["type"] == "file"] == []
    announced = {Path(event["path"]).name for event in finished(runs, "edm") if event["type"] == "file"}
    assert {path.name for path in runs.workdir("edm").iterdir()} == announced


@pytest.mark.parametrize(
    ("mishap", "code", "named"),
    [
        ("drift", "engine_error", "after 4 steps the weights of process 1 differ from those of process 0"),
        ("nan", "diverged", "the loss is not finite after 3 steps"),
        ("memory", "out_of_memory", r"lower training\.batch_size"),
        ("stop", "interrupted", "run the same command again"),
    ],
)
def test_what_happens_to_one_process_ends_all_with_the_same_error(runs, mishap, code, named):
    outcomes = runs.outcomes[mishap]
    assert [outcome.error for outcome in outcomes] == [code, code]
    assert outcomes[0].message == outcomes[1].message
    with pytest.raises(AssertionError, match=named):
        raise AssertionError(outcomes[0].message)
    states = [event["kimg"] for event in outcomes[0].events if event.get("role") == "state"]
    # the stop comes in the evaluation, before which there was a state, too
    assert states == ([0.032, 0.064, 0.064] if mishap == "stop" else [0.032])
    assert read_state(runs.workdir(mishap) / "state.safetensors").header.step == 2 or mishap == "stop"


def test_trial_stopped_by_the_request_to_one_process_and_run_again_equals_undisturbed(runs):
    events = runs.outcomes["stop"][0].events + finished(runs, "resumed")
    assert runs.outcomes["resumed"][0].events[0]["resumed_from_kimg"] == 0.064
    alone, workdir = runs.alone("stop", micro_batch_size=8)
    assert numbers(results(events)) == numbers(alone)
    ours, theirs = tensors(runs.workdir("stop")), tensors(workdir)
    assert [key for key in theirs if not torch.equal(ours[key], theirs[key])] == []


@pytest.fixture(scope="module")
def three(runs) -> dict[str, list[Outcome]]:
    """Three processes: the rows do not divide, and a ring of sums has an order."""
    folder = runs.folder / "three"
    cases = {
        "meetings": Case("meetings", {}, ""),
        "edm": Case("train", runs.specs["edm"], str(folder / "edm")),
        "edm again": Case("train", runs.specs["edm"], str(folder / "edm-again")),
        "generate": Case("generate", runs.specs["generate"], str(folder / "generate")),
    }
    return dict(zip(cases, run_in_processes(list(cases.values()), num_processes=3, folder=folder), strict=True))


def test_meetings_of_three_processes_give_each_the_same(three):
    common = {
        "sums": [[[3.0, 9.0], [6.0, 12.0]], [[7.0, 7.0], [7.0, 7.0]], None, [0.1 + 0.1 + 0.1] * 3],
        "rows": [[float(row), -float(row)] for row in range(7)],
        "errors": [["of 2", "here"], ["of 0", "here"]],
        "any": [False, True],
        "from leader": 0,
    }
    found = [outcome.events[0] for outcome in three["meetings"]]
    assert found == [common | {"collected": [0, 1, 2]}, common | {"collected": []}, common | {"collected": []}]


def test_trial_of_three_processes_repeats_itself_and_equals_one(runs, three):
    alone, workdir = runs.alone("edm", micro_batch_size=...)
    assert [outcome.error for outcome in three["edm"]] == [None] * 3
    assert results(three["edm"][0].events) == results(three["edm again"][0].events)
    assert_close(runs.folder / "three" / "edm", three["edm"][0].events, workdir, alone)


def test_samples_of_three_processes_are_those_of_two(runs, three):
    assert results(three["generate"][0].events) == results(finished(runs, "generate"))


def test_batch_with_fewer_rows_than_processes_is_refused(runs):
    for outcome in runs.outcomes["one row"]:
        assert (outcome.error, outcome.param) == ("invalid_spec", "training.batch_size")
        assert "1 rows are too few for 2 processes" in outcome.message
