"""The published schemas of bodies say of partial ones what the server says."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from ddo_engine.presets import merge
from ddo_engine.spec import JobSpec
from service.api.jobs.operations import parse_spec
from service.api.problems import Unprocessable
from tests.job_rows import job_spec

INPUTS = {
    "base_checkpoint": "file:///inputs/base.safetensors",
    "dataset": {"uri": "file:///inputs/data.zip"},
    "feature_network": "file:///inputs/features.safetensors",
}
EDM2_SCHEDULE = {"kind": "edm2", "decay_reference_batches": 5.0}
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}


@pytest.fixture
def schemas(shared_client) -> dict[str, Any]:
    return shared_client.get("/openapi.json").json()["components"]["schemas"]


def _fits(value: object, schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> bool:
    """Whether a JSON value is valid by a schema, as far as its structure goes: types, fields, constants, unions."""

    def fits(item: object, below: Mapping[str, Any]) -> bool:
        return _fits(item, below, schemas)

    if "$ref" in schema and not fits(value, schemas[schema["$ref"].rsplit("/", 1)[1]]):
        return False
    if "anyOf" in schema and not any(fits(value, member) for member in schema["anyOf"]):
        return False
    if "oneOf" in schema and sum(fits(value, member) for member in schema["oneOf"]) != 1:
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "pattern" in schema and isinstance(value, str) and not re.search(schema["pattern"], value):
        return False
    if "type" in schema and not isinstance(value, _TYPES[schema["type"]]):
        return False
    if isinstance(value, dict):
        fields = schema.get("properties", {})
        if not set(schema.get("required", [])) <= value.keys():
            return False
        if schema.get("additionalProperties") is False and not value.keys() <= fields.keys():
            return False
        return all(fits(item, fields[name]) for name, item in value.items() if name in fields)
    return not isinstance(value, list) or all(fits(item, schema.get("items", {})) for item in value)


def _is_accepted(body: dict[str, Any]) -> bool:
    try:
        parse_spec(body)
    except Unprocessable:
        return False
    return True


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("edm2-s-img64", {"reference_set": {"shards": 2}}),
        ("edm2-s-img64", {"reference_set": {"kind": "offline", "shards": 2}}),
        ("edm2-s-img64", {"reference_set": {}}),
        ("var-d16", {"reference_set": {"decode": False}}),
        ("var-d16", {"reference_set": {"kind": "offline", "num_samples": 50}}),
        ("edm2-s-img64", {"training": {"schedule": {"decay_reference_batches": 70.0}}}),
        ("edm2-s-img64", {"training": {"schedule": {"kind": "edm2"}}}),
        ("var-d16", {"training": {"schedule": {"decay": "cos"}}}),
        ("edm2-s-img64", {"training": {"schedule": {"kind": "cosine"}, "kimg": 5000.0}}),
        ("edm2-s-img64", {"training": {"schedule": {}}}),
        ("digits", {"confirm": {"finalists": 1}}),
        ("digits", {"confirm": None}),
        ("digits", {"sampler": {"labels": "dataset"}}),
        ("digits", {"sampler": {"kind": "dpm_solver_v3", "num_steps": 10}}),
        ("var-d16", {"sampler": {"top_k": 900}}),
        ("digits", {"grid": {"beta": ["auto", 0.5]}}),
    ],
)
def test_openapi_of_a_job_takes_what_a_preset_completes(schemas, preset: str, changes: dict[str, Any]) -> None:
    body = INPUTS | {"preset": preset} | changes
    assert _is_accepted(body)
    assert _fits(body, schemas["JobSpecFromPreset"], schemas)


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": {}},
        {"reference_set": {"kind": "online", "shards": 2}},
        {"reference_set": {"shard": 2}},
        {"reference_set": {"kind": "streamed"}},
        {"training": {"schedule": {"kind": "edm", "decay_reference_batches": 70.0}}},
        {"training": {"schedule": {"decays": "cos"}}},
        {"confirm": {"finalist": 1}},
        {"sampler": {"kind": "dpm_solver_v3", "S_churn": 1.0}},
        {"grid": {"beta": ["found"]}},
    ],
)
def test_openapi_of_a_job_refuses_what_no_preset_completes(schemas, changes: dict[str, Any]) -> None:
    body = INPUTS | {"preset": "edm2-s-img64"} | changes
    assert not _is_accepted(body)
    assert not _fits(body, schemas["JobSpecFromPreset"], schemas)


@pytest.mark.parametrize(
    ("job", "changes"),
    [
        ({}, {"reference_set": {"shards": 1}}),
        ({}, {"reference_set": {}}),
        ({"confirm": {"num_samples": 80}}, {"confirm": {"finalists": 2}}),
        ({}, {"confirm": {"num_samples": 80}}),
        ({"confirm": {"num_samples": 80}}, {"confirm": None}),
        ({}, {"sampler": {"batch_size": 32}}),
        (
            {"training": job_spec().training.model_dump() | {"schedule": EDM2_SCHEDULE}},
            {"training": {"schedule": {"kind": "edm2"}, "P_std": 2.0}},
        ),
        ({}, {"stop": {"noise_seeds": 2}, "evaluation": {"seed": 3}, "grid": {"beta": ["auto"]}}),
    ],
)
def test_openapi_of_a_branch_takes_what_its_job_completes(
    schemas, job: dict[str, Any], changes: dict[str, Any]
) -> None:
    JobSpec.model_validate(merge(job_spec(**job).model_dump(mode="json"), changes))
    assert _fits({"from_round": 1} | changes, schemas["Branch"], schemas)


@pytest.mark.parametrize(
    "changes",
    [
        {"reference_set": {"shard": 1}},
        {"reference_set": {"kind": "online", "shards": 1}},
        {"confirm": {"num_sample": 80}},
        {"training": {"schedule": {"kind": "step"}}},
        {"round_overrides": [{"training": {"P_std": 3.0}}]},
    ],
)
def test_openapi_of_a_branch_refuses_what_no_job_completes(schemas, changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        JobSpec.model_validate(merge(job_spec().model_dump(mode="json"), changes))
    assert not _fits(changes, schemas["Branch"], schemas)
