"""Refusals of spec files."""

import json

import pytest

from ddo_engine.errors import InvalidSpec
from ddo_engine.spec import EvaluateSpec, GenerateSpec, TrainSpec
from ddo_engine.spec_file import read_spec
from tests.engine_inputs import EngineInputs, merged


@pytest.fixture
def inputs(tmp_path):
    names = ("base.safetensors", "data.zip", "fakes.zip", "features.safetensors")
    for name in names:
        (tmp_path / name).write_bytes(b"only read later")
    return EngineInputs(tmp_path, *(tmp_path / name for name in names))


def refusal(tmp_path, content, model=TrainSpec):
    path = tmp_path / "spec.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InvalidSpec) as caught:
        read_spec(path, model)
    return caught.value


def test_spec_that_is_complete_is_read(tmp_path, inputs):
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(inputs.train_spec(kind=...)))
    spec = read_spec(path, TrainSpec)
    assert spec.training.batch_size == 16
    assert spec.reference_set[0].path == str(inputs.reference_set)


@pytest.mark.parametrize(
    ("overrides", "param"),
    [
        ({"training": {"learning_rate": 0}}, "training.learning_rate"),
        ({"training": {"kimg": "NaN"}}, "training.kimg"),
        ({"training": {"batch_size": 1000}}, "training"),
        ({"training": {"epochs": 3}}, "training.epochs"),
        ({"training": {"evaluate_every_kimg": ...}}, "training.evaluate_every_kimg"),
        ({"objective": {"kind": "ddo", "alpha": -1, "beta": 1}}, "objective.alpha"),
        ({"objective": {"kind": "ddo", "alpha": 1, "beta": 0}}, "objective.beta"),
        ({"objective": {"kind": "ddo", "alpha": 1}}, "objective.beta"),
        ({"objective": {"kind": "gan"}}, "objective"),
        ({"sampler": {"num_steps": 1}}, "sampler.num_steps"),
        ({"sampler": {"sigma_min": 100}}, "sampler"),
        ({"reference_set": ...}, None),
        ({"reference_set": [{"sha256": "0" * 64}]}, "reference_set.0"),
        ({"reference_set": ["missing.zip"]}, "reference_set.0"),
        ({"feature_network": ...}, None),
        ({"checkpoint": "/nowhere/base.safetensors"}, "checkpoint"),
        ({"dataset": 7}, "dataset"),
        ({"seed": -1}, "seed"),
        ({"kind": "evaluate"}, "kind"),
        ({"grey_levels": 1}, "grey_levels"),
    ],
)
def test_spec_with_a_bad_field_is_refused_naming_it(tmp_path, inputs, overrides, param):
    error = refusal(tmp_path, inputs.train_spec(**overrides))
    assert error.param == param
    assert "\n" not in error.message
    if param is not None:
        assert error.message.startswith(f"{param}:")


@pytest.mark.parametrize("content", ["", "{", "[1]", '"text"', '{"seed": NaN}', "[" * 100_000, "{}"])
def test_spec_that_is_no_object_or_no_json_is_refused(tmp_path, content):
    assert refusal(tmp_path, content).message


def test_spec_file_that_is_missing_is_refused(tmp_path):
    with pytest.raises(InvalidSpec, match="cannot be read"):
        read_spec(tmp_path / "nowhere.json", TrainSpec)


def test_spec_with_a_bad_item_of_a_list_is_refused_naming_the_item(tmp_path, inputs):
    spec = {
        "checkpoint": str(inputs.checkpoint),
        "dataset": str(inputs.dataset),
        "feature_network": str(inputs.feature_network),
        "evaluations": [{"num_samples": 10}, {"num_samples": 1}],
    }
    assert refusal(tmp_path, spec, EvaluateSpec).param == "evaluations.1.num_samples"
    assert refusal(tmp_path, merged(spec, {"evaluations": []}), EvaluateSpec).param == "evaluations"


def test_spec_whose_seeds_would_repeat_images_is_refused(tmp_path, inputs):
    spec = {"checkpoint": str(inputs.checkpoint), "first_seed": 2**32 - 10, "num_samples": 11}
    assert "seeds end at 2**32 - 1" in refusal(tmp_path, spec, GenerateSpec).message
    (tmp_path / "spec.json").write_text(json.dumps(spec | {"num_samples": 10}))
    assert read_spec(tmp_path / "spec.json", GenerateSpec).num_samples == 10


def test_spec_with_several_bad_fields_says_how_many(tmp_path, inputs):
    error = refusal(tmp_path, inputs.train_spec(seed=-1, grey_levels=0))
    assert "(and 1 more)" in error.message
