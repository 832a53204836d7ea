"""The OpenAPI document: FastAPI's, with the job's schemas put in, since its body is read by our own strict parser."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from ddo_engine.presets import PRESETS
from ddo_engine.spec import JobSpec
from service.api.jobs.parents import NOT_IN_BRANCHES, BranchPoint
from service.api.jobs.schemas import JobDetail, JobPlan
from service.api.problems import Problem

_REF = "#/components/schemas/"
_SPEC = JobSpec.__name__
_FROM_PRESET = "FromPreset"
_BRANCH = "Branch"
_CHANGED = "Changed"

DESCRIPTION = """
Finetunes likelihood-based image models by **Direct Discriminative Optimization** (arXiv:2503.01103): rounds of
self-play in which every trial of an (alpha, beta) grid trains against samples of the last round's best model.

1. `POST /jobs` with a base checkpoint, a dataset and a preset.
2. Poll `GET /jobs/{id}` and `GET /jobs/{id}/rounds`, or follow `GET /jobs/{id}/events`.
3. `POST /checkpoints/{id}/download` for a signed URL of the best checkpoint.

Errors are `application/problem+json` (RFC 9457) with a stable `code`, the `param` to blame and a `request_id`.
"""

_EXAMPLE_INPUTS = {
    "base_checkpoint": "file:///data/digits/base.safetensors",
    "dataset": {"uri": "file:///data/digits/train.zip"},
    "feature_network": "file:///data/digits/features.safetensors",
}
_EXAMPLES = {
    "preset": {
        "summary": "A preset fills the settings",
        "value": {"preset": "digits", "name": "digits, first try", **_EXAMPLE_INPUTS},
    },
    "preset_with_changes": {
        "summary": "Fields that are given win over the preset's",
        "value": {"preset": "digits", **_EXAMPLE_INPUTS, "rounds": 3, "grid": {"alpha": [4.0]}},
    },
    "complete": {
        "summary": "Everything said",
        "value": {
            "base_checkpoint": "s3://models/edm-cifar10-32x32-uncond-vp.safetensors",
            "dataset": {"uri": "s3://datasets/cifar10-32x32.zip"},
            "feature_network": "s3://models/features.safetensors",
            "rounds": 12,
            "grid": {"alpha": [0.5, 1, 2, 4, 6], "beta": [0.01, 0.02, 0.05, 0.1]},
            "training": {
                "kimg": 1500,
                "batch_size": 512,
                "learning_rate": 1.5e-4,
                "warmup_kimg": 1500,
                "ema_half_life_kimg": 250,
                "evaluate_every_kimg": 50,
            },
            "reference_set": {"num_samples": 50000, "shards": 4},
            "evaluation": {"num_samples": 50000},
        },
    },
}


def job_request_body() -> dict[str, Any]:
    """Return the ``requestBody`` of ``POST /jobs``: a complete job, or one that a preset completes."""
    either = {"anyOf": [{"$ref": f"{_REF}{_SPEC}{_FROM_PRESET}"}, {"$ref": _REF + _SPEC}]}
    return {"required": True, "content": {"application/json": {"schema": either, "examples": _EXAMPLES}}}


def branch_request_body() -> dict[str, Any]:
    """Return the ``requestBody`` of ``POST /jobs/{id}/branch``: where to start, and what changes."""
    examples = {
        "best": {"summary": "On from the best, for three more rounds", "value": {"rounds": 3}},
        "round": {
            "summary": "Back to round 2, with a wider distribution of noise levels",
            "value": {"from_round": 2, "training": {"P_std": 2.0}},
        },
    }
    schema = {"$ref": _REF + _BRANCH}
    return {"required": False, "content": {"application/json": {"schema": schema, "examples": examples}}}


def install(app: FastAPI) -> None:
    """Let ``app.openapi()`` return the whole document, built once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas |= _job_schemas() | _model_schemas(Problem)
            for model in (JobDetail, JobPlan):
                schemas[model.__name__]["properties"]["spec"] = {
                    "$ref": _REF + _SPEC,
                    "description": model.model_fields["spec"].description,
                }
            # FastAPI documents its own shape of errors, which this API never answers with
            schemas.pop("HTTPValidationError", None)
            schemas.pop("ValidationError", None)
            problem = {"description": "A parameter is wrong.", "content": _problem_content()}
            for operations in document["paths"].values():
                for operation in operations.values():
                    if "HTTPValidationError" in str(operation["responses"].get("422")):
                        operation["responses"]["422"] = problem
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _problem_content() -> dict[str, Any]:
    return {"application/problem+json": {"schema": {"$ref": f"{_REF}Problem"}}}


def _model_schemas(model: type[Problem] | type[JobSpec]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template=_REF + "{model}")
    return {**schema.pop("$defs", {}), model.__name__: schema}


def _job_schemas() -> dict[str, Any]:
    schemas = _model_schemas(JobSpec)
    relaxed: dict[str, Any] = {}
    _relax(_SPEC, [preset.settings for preset in PRESETS.values()], schemas, relaxed)
    job = relaxed[_SPEC + _FROM_PRESET]
    job["required"] = ["preset", *job["required"]]
    job["properties"]["preset"] = {"type": "string", "enum": sorted(PRESETS), "description": "Settings to start from."}
    job["description"] = "A finetuning job that a preset completes: fields given here win over the preset's."
    return schemas | relaxed | _branch_schemas(schemas)


def _branch_schemas(schemas: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of a branch: any field of a job that it inherits, and of the objects in it, none required."""
    changed: dict[str, Any] = {}
    _relax(_SPEC, [_all_fields(_SPEC, schemas)], schemas, changed, suffix=_CHANGED)
    branch = changed.pop(_SPEC + _CHANGED)
    properties = {name: told for name, told in branch["properties"].items() if name not in NOT_IN_BRANCHES}
    point = BranchPoint.model_json_schema(ref_template=_REF + "{model}")["properties"]
    description = "Where in the job to start, and fields of the new job that differ from what it inherits."
    branch |= {"title": _BRANCH, "description": description, "properties": point | properties}
    return changed | {_BRANCH: branch}


def _all_fields(name: str, schemas: Mapping[str, Any]) -> dict[str, Any]:
    inner = {field: told.get("$ref", "").removeprefix(_REF) for field, told in schemas[name]["properties"].items()}
    return {
        field: _all_fields(below, schemas) if "properties" in schemas.get(below, {}) else None
        for field, below in inner.items()
    }


def _relax(
    name: str,
    filled: list[Mapping[str, Any]],
    schemas: Mapping[str, Any],
    relaxed: dict[str, Any],
    suffix: str = _FROM_PRESET,
) -> str:
    """Add a copy of ``schemas[name]`` that requires only what some of ``filled`` leaves out, and return its name."""
    schema = deepcopy(schemas[name])
    always = set.intersection(*(set(values) for values in filled))
    schema["required"] = [field for field in schema.get("required", []) if field not in always]
    for field in always:
        inner = [values[field] for values in filled]
        reference = schema["properties"][field].get("$ref", "")
        if reference and all(isinstance(values, Mapping) for values in inner):
            below = _relax(reference.removeprefix(_REF), inner, schemas, relaxed, suffix)
            schema["properties"][field]["$ref"] = _REF + below
    # a field of which a preset fills a part stays required where another part is left to the client
    schema["required"] += [
        field
        for field in sorted(always & set(schemas[name].get("required", [])))
        if relaxed.get(schema["properties"][field].get("$ref", "").removeprefix(_REF), {}).get("required")
    ]
    schema["title"] = name + suffix
    relaxed[name + suffix] = schema
    return name + suffix
