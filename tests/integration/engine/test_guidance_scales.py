"""The curve over guidance scales: same samples but for the scale, events that no interruption loses or doubles."""

import pytest
import torch

from ddo_engine.checkpoint import CheckpointManifest, save_checkpoint
from ddo_engine.errors import Interrupted, InvalidSpec
from ddo_engine.evaluation import Evaluator
from ddo_engine.evaluation.parts import Measured
from ddo_engine.state_file import read_state
from tests.disturbed_trials import killed_after_each_event
from tests.engine_inputs import NETWORK, EngineInputs, results, run_in_process, write_checkpoint
from tests.tiny_families import EDM2, VAR, randomised
from tests.var_inputs import inputs_of, make_var_inputs, train_spec

SCALES = [2.0, 1.0, 0.5]  # 1 is none: the sampler's own is 3
IMAGES = torch.zeros(4, 1, 4, 4, dtype=torch.uint8)


@pytest.fixture(scope="module")
def var_inputs(tmp_path_factory) -> EngineInputs:
    return make_var_inputs(tmp_path_factory.mktemp("var-inputs"))


def guided_spec(inputs, scales=SCALES, *, scale=3.0, **evaluation):
    """A trial of a conditional diffusion model that is guided by itself without labels."""
    return inputs.train_spec(
        sampler={"guidance_scale": scale, "guide_sees_labels": False},
        evaluation={"guidance_scales": scales, **evaluation},
    )


def of_type(events, kind):
    return [event for event in events if event["type"] == kind]


def scale_of(event):
    return event["protocol"]["sampler"]["guidance_scale"]


def kept(events):
    return [event["kimg"] for event in of_type(events, "file") if event["role"] == "checkpoint"]


def numbers(events):
    """What was measured, by step and scale."""
    return {(event["kimg"], scale_of(event)): event for event in of_type(events, "evaluation")}


def test_trial_measures_every_scale_at_every_evaluation_its_own_first(inputs, tmp_path):
    found = of_type(run_in_process("train", guided_spec(inputs), tmp_path), "evaluation")
    assert [(event["kimg"], scale_of(event)) for event in found] == [
        (kimg, scale) for kimg in (0.064, 0.128) for scale in [3.0, *SCALES]
    ]
    assert len({event["fingerprint"] for event in found}) == 4
    assert all(
        before["fingerprint"] == after["fingerprint"] for before, after in zip(found[:4], found[4:], strict=True)
    )
    assert len({event["metrics"]["fid"] for event in found}) == 8


@pytest.mark.parametrize("family", ["edm", "var"])
def test_every_scale_has_the_numbers_and_the_fingerprint_that_a_sampler_of_this_scale_has(
    inputs, var_inputs, tmp_path, family
):
    """Common random numbers: only the scale differs."""

    def spec(scale, scales):
        if family == "edm":
            return guided_spec(inputs, scales, scale=scale)
        return train_spec(var_inputs, sampler={"guidance_scale": scale}, evaluation={"guidance_scales": scales})

    curve = numbers(run_in_process("train", spec(1.0, [2.0, 0.0]), tmp_path / "curve"))
    for scale in (0.0, 1.0, 2.0):
        alone = numbers(run_in_process("train", spec(scale, []), tmp_path / f"alone-{scale}"))
        assert alone
        assert all(curve[place] == event for place, event in alone.items())


@pytest.mark.parametrize("family", ["edm2", "var"])
def test_curve_has_pairs_of_fid_and_inception_score(inputs, var_inputs, tmp_path, family):
    """As in the paper's figure 6, where the feature network is a classifier."""
    spec = {"kind": "evaluate", "feature_network": str(inputs.feature_network)}
    spec |= {"evaluations": [{"num_samples": 48, "inception_score_splits": 2, "guidance_scales": [2.0, 4.0]}]}
    if family == "var":
        spec = inputs_of(var_inputs, **spec)
    else:
        checkpoint = tmp_path / "edm2.safetensors"
        model = randomised("edm2", EDM2, seed=1)
        save_checkpoint(checkpoint, model, CheckpointManifest(family="edm2", network=EDM2))
        sampler = {"num_steps": 3, "state_dtype": "float32", "guide_sees_labels": False}
        spec |= {"checkpoint": str(checkpoint), "dataset": str(inputs.dataset), "sampler": sampler}
    found = of_type(run_in_process("evaluate", spec, tmp_path / "evaluation"), "evaluation")
    unguided = 0.0 if family == "var" else 1.0
    assert [scale_of(event) for event in found] == [unguided, 2.0, 4.0]
    pairs = {(event["metrics"]["fid"], event["metrics"]["inception_score"]) for event in found}
    assert len(pairs) == 3
    assert all(score >= 1 for _, score in pairs)


def test_evaluate_measures_every_scale_with_the_numbers_of_the_trial(inputs, tmp_path):
    trained = run_in_process("train", guided_spec(inputs), tmp_path / "trial")
    (file, *_) = [event for event in of_type(trained, "file") if event["role"] == "checkpoint"]
    spec = guided_spec(inputs)
    spec = {name: spec[name] for name in ("dataset", "feature_network", "sampler")} | {
        "kind": "evaluate",
        "checkpoint": file["path"],
        "evaluations": [spec["evaluation"], {"num_samples": 40}],
    }
    events = run_in_process("evaluate", spec, tmp_path / "evaluation")
    found = of_type(events, "evaluation")
    assert [(event["protocol"]["num_samples"], scale_of(event)) for event in found] == [
        *((48, scale) for scale in [3.0, *SCALES]),
        (40, 3.0),
    ]
    expected = numbers(trained)
    assert all(event == expected[event["kimg"], scale_of(event)] for event in found[:4])
    progress = [event for event in of_type(events, "progress") if event["phase"] == "evaluation"]
    assert {event["total"] for event in progress} == {4 * 48, 40}
    assert max(event["done"] for event in progress) == 4 * 48


def test_trial_with_scales_killed_after_any_event_and_run_again_equals_undisturbed(inputs, tmp_path):
    spec = guided_spec(inputs, [1.0], rank_by="best_scale")
    spec["training"] |= {"kimg": 0.064, "evaluate_every_kimg": 0.032}
    killed_after_each_event(spec, tmp_path)


@pytest.mark.parametrize("rank_by", ["sampler_scale", "best_scale"])
@pytest.mark.parametrize("stopped_after", [1, 2, 3, 4])
def test_trial_stopped_between_scales_goes_on_with_the_next(inputs, tmp_path, rank_by, stopped_after):
    """No event of an evaluation is lost or comes twice, and no scale is measured twice."""
    spec = guided_spec(inputs, rank_by=rank_by)
    undisturbed = run_in_process("train", spec, tmp_path / "undisturbed")
    events = []

    def stop_after_scale(event, stop):
        events.append(event)
        stop.requested = len(of_type(events, "evaluation")) >= stopped_after

    with pytest.raises(Interrupted):
        run_in_process("train", spec, tmp_path / "stopped", stop_after_scale)
    assert len(of_type(events, "evaluation")) == stopped_after
    resumed = run_in_process("train", spec, tmp_path / "stopped")
    assert of_type(events + resumed, "evaluation") == of_type(undisturbed, "evaluation")
    assert kept(events + resumed) == kept(undisturbed)
    assert results(events + resumed) == results(undisturbed)


@pytest.mark.parametrize(
    ("rank_by", "fids", "expected"),
    [
        # of the first evaluation at 3, 2, 1, 0.5, then of the second
        ("sampler_scale", [5.0, 1.0, 6.0, 6.0, 4.0, 6.0, 6.0, 6.0], [0.064, 0.128]),
        ("best_scale", [5.0, 1.0, 6.0, 6.0, 4.0, 6.0, 6.0, 6.0], [0.064]),
        ("sampler_scale", [5.0, 4.0, 6.0, 6.0, 6.0, 3.0, 2.0, 6.0], [0.064]),
        ("best_scale", [5.0, 4.0, 6.0, 6.0, 6.0, 3.0, 2.0, 6.0], [0.064, 0.128]),
    ],
)
def test_trial_keeps_what_is_best_by_the_scales_that_rank(inputs, tmp_path, monkeypatch, rank_by, fids, expected):
    made_up = iter(fids)
    monkeypatch.setattr(Evaluator, "evaluate", lambda *_, **__: Measured({"fid": next(made_up)}, IMAGES))
    assert kept(run_in_process("train", guided_spec(inputs, rank_by=rank_by), tmp_path)) == expected


def test_checkpoint_is_known_before_any_of_its_numbers(inputs, tmp_path):
    events = run_in_process("train", guided_spec(inputs), tmp_path)
    kinds = [event.get("role") or event["type"] for event in events if event.get("kimg") == 0.064]
    told = [kind for kind in kinds if kind in ("checkpoint", "evaluation", "state")]
    assert told == ["state", "checkpoint", *["evaluation"] * 4, "state"]


def test_state_of_a_job_without_scales_is_that_of_before_there_were_any(inputs, tmp_path):
    run_in_process("train", inputs.train_spec(), tmp_path)
    identity = read_state(tmp_path / "state.safetensors").header.identity
    assert identity["evaluation"] == {"num_samples": 48, "seed": 5, "neighbours": 3, "inception_score_splits": None}


@pytest.mark.parametrize("command", ["validate", "train", "evaluate"])
def test_scale_without_anything_to_guide_by_is_refused_by_name(inputs, tmp_path, command):
    unlabelled = tmp_path / "unlabelled.safetensors"
    write_checkpoint(unlabelled, NETWORK | {"label_dim": 0})
    spec = guided_spec(inputs, [2.0], scale=1.0) | {"checkpoint": str(unlabelled)}
    field = "evaluation"
    if command == "validate":
        spec = {name: spec[name] for name in ("checkpoint", "dataset", "feature_network", "sampler", "evaluation")}
    elif command == "evaluate":
        spec = {name: spec[name] for name in ("checkpoint", "dataset", "feature_network", "sampler")} | {
            "evaluations": [spec["evaluation"]]
        }
        field = "evaluations[0]"
    with pytest.raises(InvalidSpec, match="at a scale of 2, nothing to guide with") as error:
        run_in_process(command, spec, tmp_path)
    assert error.value.param == f"{field}.guidance_scales[0]"


def test_scale_of_an_unconditional_var_is_refused_by_name(inputs, tmp_path):
    inputs = make_var_inputs(tmp_path / "inputs")
    network = VAR | {"num_classes": 0}
    model = randomised("var", network, seed=1)
    save_checkpoint(inputs.checkpoint, model, CheckpointManifest(family="var", network=network))
    spec = inputs_of(inputs, feature_network=str(inputs.feature_network), evaluation={"num_samples": 48})
    spec["evaluation"]["guidance_scales"] = [1.5]
    with pytest.raises(InvalidSpec, match="no class to guide towards") as error:
        run_in_process("validate", spec, tmp_path)
    assert error.value.param == "evaluation.guidance_scales[0]"
