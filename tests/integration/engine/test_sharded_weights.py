"""Two processes that hold half of the weights each do what one with all of them does: numbers, files, how they end."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from ddo_engine.checkpoint import CheckpointManifest, load_checkpoint, save_checkpoint
from ddo_engine.errors import InvalidSpec
from ddo_engine.files import sha256_of
from ddo_engine.state_file import read_state
from tests.disturbed_trials import stopped_after_step
from tests.engine_inputs import make_inputs, merged, results, run_in_process, write_checkpoint
from tests.integration.engine.test_resume import UNET
from tests.integration.engine.test_several_processes import assert_close, tensors
from tests.rank_cases import Case, Outcome, run_in_processes, run_ranks
from tests.tiny_families import EDM2, randomised
from tests.var_inputs import make_var_inputs
from tests.var_inputs import train_spec as var_train_spec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
FAMILIES = ["edm", "edm2", "edm2 mle", "var", "var online"]
EVERY = ("evaluate_every_kimg", "save_state_every_kimg")
# Rank 1 fails in step 4, of memory or for good.
STRUCK = """
import os, sys, torch
from ddo_engine.command_line import main
from ddo_engine.training_loss import DDOTrainingLoss
mishap, *arguments = sys.argv[1:]
loss = DDOTrainingLoss.__call__
def struck(self, network, step, rows):
    if step == 3 and os.environ["RANK"] == "1":
        if mishap == "memory":
            raise torch.OutOfMemoryError("none left")
        os.kill(os.getpid(), 9)
    return loss(self, network, step, rows)
DDOTrainingLoss.__call__ = struck
sys.exit(main(arguments))
"""


@dataclass(frozen=True)
class Runs:
    """What trials by two processes gave, and the specs that they were given."""

    folder: Path
    specs: dict[str, dict[str, Any]]
    outcomes: dict[str, list[Outcome]]
    struck: dict[str, list[Any]]

    def workdir(self, name: str) -> Path:
        return self.folder / name.replace(" ", "-")

    def finished(self, name: str) -> list[dict[str, Any]]:
        """Return the events of the process that leads, once no process failed."""
        assert [outcome.error for outcome in self.outcomes[name]] == [None, None], self.outcomes[name]
        return self.outcomes[name][0].events


def specs_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Return trials that between them have every setting that looks at more than one weight at a time."""
    inputs = make_inputs(folder / "inputs")
    var = make_var_inputs(folder / "inputs-var")
    write_checkpoint(folder / "unet.safetensors", UNET)
    manifest = CheckpointManifest(family="edm2", network=EDM2)
    save_checkpoint(folder / "edm2.safetensors", randomised("edm2", EDM2, seed=1), manifest)
    edm2 = {
        "checkpoint": str(folder / "edm2.safetensors"),
        "sampler": {"state_dtype": "float32"},
        "training": {
            "ema_half_life_kimg": None,
            "ema_std": 0.1,
            "ema_snapshot_stds": [0.05, 0.15],
            "non_finite_gradients": "replace",
        },
    }
    # Half precision rounds the gradient of every part of a batch: one process is to cut it as two do.
    halves = {"micro_batch_size": 8}
    half = {"precision": "bfloat16", "weight_decay": 0.1, "max_gradient_norm": 1.0} | halves
    length = {name: inputs.train_spec()["training"][name] for name in ("kimg", *EVERY)}
    online = {
        "online_reference_set": {"batch_size": 3},
        "reference_set": [],
        "objective": {"kind": "ddo", "alpha": 20, "beta": "auto"},
        "training": {"label_dropout": 0.5, "precision": "float16", "probe_kimg": 0.032} | halves,
    }
    edm = {"augment_probability": 0.3, "weight_decay": 0.1, "max_gradient_norm": 0.5, "micro_batch_size": 4}
    return {
        "edm": inputs.train_spec(checkpoint=str(folder / "unet.safetensors"), training=edm),
        "edm2": inputs.train_spec(**edm2),
        "edm2 mle": merged(inputs.train_spec(**edm2), {"objective": {"kind": "mle"}, "reference_set": ...}),
        "var": var_train_spec(var, training=half | length),
        "var online": merged(var_train_spec(var), online),
        "no blocks": inputs.train_spec(),
    }


def strike(mishap: str, spec: dict[str, Any], workdir: Path) -> list[Any]:
    workdir.mkdir(exist_ok=True)
    (workdir / "spec.json").write_text(json.dumps(spec))
    arguments = ["-c", STRUCK, mishap, "train", str(workdir / "spec.json"), "--workdir", str(workdir)]
    return run_ranks([*arguments, "--device", "cpu", "--shard-weights"], 2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    folder = tmp_path_factory.mktemp("sharded")
    specs = specs_in(folder)
    var = specs["var"]
    struck = {mishap: strike(mishap, var, folder / "struck") for mishap in ("memory", "kill")}
    stopped_after_step(specs["edm2"], folder / "stopped-alone", 3)
    specs |= {
        "stop": var,
        "resumed": merged(var, {"state": {"path": str(folder / "stop" / "state.safetensors")}}),
        "resumed from one": specs["edm2"] | {"state": {"path": str(folder / "stopped-alone" / "state.safetensors")}},
        "struck": var,
        "nan": var,
        "drift": var,
        "uneven": merged(var, {"training": {"batch_size": 15}}),
    }
    cases = [
        Case(
            "train",
            spec,
            str(folder / name.replace(" ", "-")),
            name if name in ("stop", "nan", "drift") else None,
            True,
        )
        for name, spec in specs.items()
    ]
    outcomes = run_in_processes([*cases, Case("layout", {}, "")], num_processes=2, folder=folder / "processes")
    return Runs(folder, specs, dict(zip([*specs, "layout"], outcomes, strict=True)), struck)


@pytest.fixture(scope="module")
def alone(runs):
    """Return what runs a trial in this process, once: its events and folder."""
    known: dict[str, tuple[list[dict[str, Any]], Path]] = {}

    def run(name: str) -> tuple[list[dict[str, Any]], Path]:
        if name not in known:
            workdir = runs.folder / "alone" / name.replace(" ", "-")
            known[name] = run_in_process("train", runs.specs[name], workdir), workdir
        return known[name]

    return run


def told_after(kimg: float, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    told = [event for event in events if (event.get("kimg") or 0) > kimg]
    assert {"metric", "evaluation"} <= {event["type"] for event in told}
    return told


@pytest.mark.parametrize("name", FAMILIES)
def test_sharded_trial_equals_that_of_one_process(runs, alone, name):
    events, workdir = alone(name)
    assert read_state(runs.workdir(name) / "state.safetensors").header.numerics["weights"] == "sharded"
    assert_close(runs.workdir(name), runs.finished(name), workdir, events)


@pytest.mark.parametrize("name", FAMILIES)
def test_files_of_a_sharded_trial_are_whole(runs, alone, name):
    events, workdir = alone(name)
    assert {path.name for path in runs.workdir(name).iterdir()} == {path.name for path in workdir.iterdir()}
    ours, theirs = tensors(runs.workdir(name)), tensors(workdir)
    assert {key: (each.shape, each.dtype) for key, each in ours.items()} == {
        key: (each.shape, each.dtype) for key, each in theirs.items()
    }
    for event in events:
        if event.get("role") in ("checkpoint", "snapshot"):
            one, other = (
                load_checkpoint(folder / Path(event["path"]).name) for folder in (runs.workdir(name), workdir)
            )
            assert {key: (each.shape, each.dtype) for key, each in one.model.state_dict().items()} == {
                key: (each.shape, each.dtype) for key, each in other.model.state_dict().items()
            }
            assert one.manifest.provenance == other.manifest.provenance
    last = next(event for event in reversed(events) if event.get("role") == "checkpoint")
    published = load_checkpoint(runs.workdir(name) / Path(last["path"]).name).model.state_dict()
    if last["kimg"] == runs.specs[name]["training"]["kimg"]:
        assert all(torch.equal(each, ours[f"ema.{key}"]) for key, each in published.items())


def test_sharded_trial_taken_up_by_two_processes_equals_undisturbed_to_the_bit(runs):
    assert [outcome.error for outcome in runs.outcomes["stop"]] == ["interrupted"] * 2
    assert runs.finished("resumed")[0]["resumed_from_kimg"] == 0.064
    told = runs.outcomes["stop"][0].events + runs.finished("resumed")
    assert results(told) == results(runs.finished("var"))
    hashes = [sha256_of(runs.workdir(name) / "state.safetensors") for name in ("var", "resumed")]
    assert hashes[0] == hashes[1]


def test_state_of_one_process_is_taken_up_sharded(runs, alone):
    assert runs.finished("resumed from one")[0]["resumed_from_kimg"] == 0.048
    undisturbed, workdir = alone("edm2")
    assert_close(
        runs.workdir("resumed from one"),
        told_after(0.048, runs.finished("resumed from one")),
        workdir,
        told_after(0.048, undisturbed),
    )


def test_sharded_state_is_taken_up_by_one_process(runs, alone, tmp_path):
    events = run_in_process("train", runs.specs["resumed"], tmp_path)
    undisturbed, workdir = alone("var")
    assert_close(tmp_path, told_after(0.064, events), workdir, told_after(0.064, undisturbed))


def test_error_of_one_process_amid_a_pass_ends_all_and_is_told_once(runs):
    leader, other = runs.struck["memory"]
    errors = [json.loads(line) for line in leader.stdout.splitlines() if json.loads(line)["type"] == "error"]
    assert [(event["code"], event["param"]) for event in errors] == [("out_of_memory", "training.batch_size")]
    assert (leader.returncode, other.returncode) == (71, 71), leader.stderr
    assert other.stdout == ""


def test_killed_process_ends_the_other_and_the_same_command_goes_on_to_the_same_bits(runs):
    leader, other = runs.struck["kill"]
    told = [json.loads(line) for line in leader.stdout.splitlines()]
    assert told[0]["resumed_from_kimg"] == 0.032
    assert (leader.returncode, other.returncode) == (70, -9)
    assert runs.finished("struck")[0]["resumed_from_kimg"] == 0.032
    assert sha256_of(runs.workdir("struck") / "state.safetensors") == sha256_of(
        runs.workdir("var") / "state.safetensors"
    )


@pytest.mark.parametrize(
    ("mishap", "code", "named"),
    [
        ("nan", "diverged", "the loss is not finite after 3 steps"),
        ("drift", "engine_error", "after 4 steps the weights"),
    ],
)
def test_what_happens_to_one_process_ends_all_with_the_same_error(runs, mishap, code, named):
    outcomes = runs.outcomes[mishap]
    assert [outcome.error for outcome in outcomes] == [code, code]
    assert outcomes[0].message == outcomes[1].message
    assert named in str(outcomes[0].message)
    assert read_state(runs.workdir(mishap) / "state.safetensors").header.step == 2


@pytest.mark.parametrize(
    ("name", "param", "named"),
    [
        ("no blocks", "shard_weights", "a MLPPrecond of the family 'edm' has no blocks to cut it at"),
        ("uneven", "training.batch_size", "15 rows do not divide evenly among 2 processes"),
    ],
)
def test_what_cannot_be_sharded_is_refused(runs, name, param, named):
    for outcome in runs.outcomes[name]:
        assert (outcome.error, outcome.param) == ("invalid_spec", param)
        assert named in str(outcome.message)


def test_one_process_has_nothing_to_shard(runs, tmp_path):
    with pytest.raises(InvalidSpec, match="there is one process") as caught:
        run_in_process("train", runs.specs["var"], tmp_path, shard_weights=True)
    assert caught.value.param == "shard_weights"


def test_rows_come_together_and_what_is_taken_of_them_counts_each_once(runs):
    first, second = (outcome.events[0] for outcome in runs.outcomes["layout"])
    assert (first["own rows"], second["own rows"]) == ([[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]])
    for found in (first, second):
        assert found["same"]
        assert found["norm"] == pytest.approx(found["norm expected"])
        assert found["counted"] == 13
        assert found["scale"] == 2.0
        assert found["gradients"]["number"] == 1.0
    # d(output)/d(hidden) = the second layer's weights, 3 … 5; inputs are 1 and 2, summed over the processes.
    assert first["gradients"]["0.weight"] + second["gradients"]["0.weight"] == [
        [3.0 * (3 + row)] * 2 for row in range(3)
    ]
    assert (first["gradients"]["1.bias"], second["gradients"]["1.bias"]) == ([2.0], [])
