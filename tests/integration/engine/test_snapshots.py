"""Averages beside the one that is evaluated, and others put together from them."""

import json
from pathlib import Path

import pytest
import torch

from ddo_engine.checkpoint import load_checkpoint, read_manifest
from ddo_engine.command_line import main
from ddo_engine.errors import IncompatibleInputs, InvalidSpec
from ddo_engine.reconstruction import reconstruct_average
from tests.disturbed_trials import killed_after_each_event, stopped_after_step
from tests.engine_inputs import run_in_process

STDS = [0.05, 0.07, 0.1]
LONG = {"kimg": 3.2, "evaluate_every_kimg": 0.4, "save_state_every_kimg": None}  # 200 steps


def snapshots_of(events):
    return [event for event in events if event.get("role") == "snapshot"]


@pytest.fixture(scope="module")
def snapshots(inputs, tmp_path_factory):
    """By length, the files of a long trial in order."""
    workdir = tmp_path_factory.mktemp("snapshots")
    events = run_in_process("train", inputs.train_spec(training=LONG | {"ema_snapshot_stds": STDS}), workdir)
    files = {std: [] for std in STDS}
    for event in snapshots_of(events):
        files[event["info"]["provenance"]["ema_std"]].append(Path(event["path"]))
    assert {len(paths) for paths in files.values()} == {8}
    return files


def weights(path):
    return torch.cat([parameter.detach().flatten() for parameter in load_checkpoint(path).model.parameters()])


def test_snapshot_of_the_length_that_is_evaluated_equals_it(inputs, tmp_path):
    training = {"ema_half_life_kimg": None, "ema_std": 0.1, "ema_snapshot_stds": [0.05, 0.1]}
    spec = inputs.train_spec(training=training, evaluation=..., feature_network=...)
    events = run_in_process("train", spec, tmp_path)
    (checkpoint,) = [event["path"] for event in events if event.get("role") == "checkpoint"]
    short, same = snapshots_of(events)
    assert torch.equal(weights(same["path"]), weights(checkpoint))
    assert not torch.equal(weights(short["path"]), weights(checkpoint))
    assert same["path"].endswith("snapshot-0.1-0.128.safetensors")
    assert read_manifest(same["path"]).provenance["images"] == 128


def test_snapshots_change_nothing_else_of_the_trial(inputs, tmp_path):
    plain = run_in_process("train", inputs.train_spec(), tmp_path / "plain")
    beside = run_in_process("train", inputs.train_spec(training={"ema_snapshot_stds": STDS}), tmp_path / "beside")
    for kind in ("metric", "evaluation"):
        assert [event for event in plain if event["type"] == kind] == [
            event for event in beside if event["type"] == kind
        ]
    assert [event["kimg"] for event in snapshots_of(beside)] == [0.064] * 3 + [0.128] * 3


def test_trial_with_snapshots_killed_after_any_event_and_run_again_equals_undisturbed(inputs, tmp_path):
    spec = inputs.train_spec(training={"ema_snapshot_stds": [0.05, 0.1], "kimg": 0.096, "evaluate_every_kimg": 0.048})
    killed_after_each_event(spec, tmp_path)


@pytest.mark.parametrize("std", [0.05, 0.1])
@pytest.mark.parametrize("kimg", [None, 1.2])
def test_stored_length_comes_back(snapshots, tmp_path, std, kimg):
    out = tmp_path / "again.safetensors"
    stored = [*snapshots[0.05], *snapshots[0.1]]
    report = reconstruct_average(stored, out, std=std, kimg=kimg)
    expected = snapshots[std][-1 if kimg is None else 2]
    assert report["coefficients"].pop(expected.name) == pytest.approx(1, abs=1e-6)
    assert max(map(abs, report["coefficients"].values())) < 1e-6
    torch.testing.assert_close(weights(out), weights(expected), rtol=0, atol=1e-6)


def test_length_between_is_put_together_almost_as_if_it_had_been_kept(snapshots, tmp_path):
    out = tmp_path / "between.safetensors"
    reconstruct_average([*snapshots[0.05], *snapshots[0.1]], out, std=0.07)
    kept = weights(snapshots[0.07][-1])
    nearest = min(float((weights(snapshots[std][-1]) - kept).norm()) for std in (0.05, 0.1))
    assert float((weights(out) - kept).norm()) < 0.05 * nearest


def test_command_writes_a_checkpoint_that_says_what_it_was_made_of(snapshots, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    files = [str(path) for path in (*snapshots[0.05], *snapshots[0.1])]
    assert main(["reconstruct", "--std", "0.08", *files, "-o", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["destination"], report["ema_std"], report["kimg"]) == (str(out), 0.08, 3.2)
    provenance = read_manifest(out).provenance
    assert sum(provenance["reconstructed_from"].values()) == pytest.approx(1)
    assert len(provenance["reconstructed_from"]) == 16
    assert provenance["ema_std"] == 0.08
    assert "step" not in provenance
    assert not any(parameter.isnan().any() for parameter in load_checkpoint(out).model.parameters())


def test_wishes_that_cannot_be_met_are_refused(snapshots, inputs, tmp_path):
    out = tmp_path / "out.safetensors"
    with pytest.raises(InvalidSpec, match="give a relative standard deviation"):
        reconstruct_average(snapshots[0.05], out, std=0.5)
    with pytest.raises(InvalidSpec, match="none can be made for a later time"):
        reconstruct_average(snapshots[0.05], out, std=0.05, kimg=9.0)
    with pytest.raises(InvalidSpec, match="each of them once"):
        reconstruct_average([snapshots[0.05][0]] * 2, out, std=0.05)
    with pytest.raises(IncompatibleInputs, match="is not a snapshot"):
        reconstruct_average([inputs.checkpoint], out, std=0.05)
    other = run_in_process(
        "train", inputs.train_spec(seed=4, training={"ema_snapshot_stds": [0.05]}), tmp_path / "other"
    )
    with pytest.raises(IncompatibleInputs, match="not of the same trial"):
        reconstruct_average([snapshots[0.1][0], Path(snapshots_of(other)[0]["path"])], out, std=0.07)
    assert not out.exists()


def test_snapshots_of_a_trial_that_went_on_under_another_engine_go_together(inputs, tmp_path, monkeypatch):
    spec = inputs.train_spec(training={"ema_snapshot_stds": STDS})
    before = stopped_after_step(spec, tmp_path, 5)
    monkeypatch.setattr("ddo_engine.provenance.ENGINE_VERSION", "99.0")
    after = run_in_process("train", spec | {"training": spec["training"] | {"save_state_every_kimg": 0.064}}, tmp_path)
    files = [Path(event["path"]) for event in snapshots_of(before) + snapshots_of(after)]
    versions = {read_manifest(path).provenance["engine_version"] for path in files}
    assert len(versions) == 2
    reconstruct_average(files, tmp_path / "out.safetensors", std=0.08)
    assert read_manifest(tmp_path / "out.safetensors").provenance["engine_version"] in versions - {"99.0"}
