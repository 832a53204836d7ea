"""The OpenAPI document: FastAPI's, with the job's schemas put in, since its body is read by our own strict parser."""

from collections.abc import Mapping, Sequence
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
    "with_baselines": {
        "summary": "What DDO is to be compared with, under the same protocol",
        "value": {
            "preset": "digits",
            **_EXAMPLE_INPUTS,
            "baselines": [
                {"kind": "mle"},
                {"kind": "guidance", "scales": [1.5, 2.0]},
                {"kind": "autoguidance", "guide": "file:///data/digits/early.safetensors", "scales": [2.0]},
                {
                    "kind": "discriminator_guidance",
                    "weights": [1.0, 2.0],
                    "training": {"kimg": 51.2, "batch_size": 256, "learning_rate": 3e-4},
                },
            ],
        },
    },
    "complete": {
        "summary": "Everything said",
        "value": {
            "base_checkpoint": "s3://models/edm-cifar10-32x32-uncond-vp.safetensors",
            "dataset": {"uri": "s3://datasets/cifar10-32x32.zip"},
            "feature_network": "inception",
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
    _relax(_SPEC, None, schemas, changed, suffix=_CHANGED)
    branch = changed.pop(_SPEC + _CHANGED)
    properties = {name: told for name, told in branch["properties"].items() if name not in NOT_IN_BRANCHES}
    point = BranchPoint.model_json_schema(ref_template=_REF + "{model}")["properties"]
    description = "Where in the job to start, and fields of the new job that differ from what it inherits."
    branch |= {"title": _BRANCH, "description": description, "properties": point | properties}
    return changed | {_BRANCH: branch}


def _relax(
    name: str,
    filled: Sequence[Any] | None,
    schemas: Mapping[str, Any],
    relaxed: dict[str, Any],
    suffix: str = _FROM_PRESET,
) -> str:
    """Add a copy of ``schemas[name]`` for bodies that are laid over one of ``filled``, and return its name.

    It requires only what none of them gives, so it never demands what the server does not.

    Args:
        name: Of an object's schema.
        filled: What bodies may be laid over; None: something that gives every field.
        schemas: All that there are.
        relaxed: Where the copy goes, and those of the objects in it.
        suffix: What its name has more.
    """
    schema = deepcopy(schemas[name])
    left_to_client = schema.get("required", [])
    for field, told in schema["properties"].items():
        given = None if filled is None else [values[field] for values in filled if field in values]
        if given != [] and _relax_field(told, given, schemas, relaxed, suffix):
            left_to_client = [other for other in left_to_client if other != field]
    relaxed[name + suffix] = schema | {"title": name + suffix, "required": left_to_client}
    return name + suffix


def _relax_field(
    told: dict[str, Any],
    filled: Sequence[Any] | None,
    schemas: Mapping[str, Any],
    relaxed: dict[str, Any],
    suffix: str,
) -> bool:
    """Let a field, whose schema is ``told``, refer to relaxed copies of its objects, be it one or a union of several.

    Returns:
        Whether a body may leave it out: nothing in it is left to the client.
    """
    complete = True
    for member in told.get("oneOf") or told.get("anyOf") or [told]:
        name = member.get("$ref", "").removeprefix(_REF)
        properties = schemas.get(name, {}).get("properties", {})
        kind = properties.get("kind", {}).get("const")
        fitting = None if filled is None else [values for values in filled if _is_laid_over(values, kind)]
        if properties and fitting != []:
            member["$ref"] = _REF + _relax(name, fitting, schemas, relaxed, suffix)
            complete = complete and not relaxed[name + suffix]["required"]
    if "oneOf" in told:
        # a part of an object may fit several kinds: which it is, is said by what it is laid over
        told["anyOf"] = told.pop("oneOf")
        told.pop("discriminator", None)
    return complete


def _is_laid_over(values: Any, kind: str | None) -> bool:
    """Whether an object of a kind is laid over values, as :func:`ddo_engine.presets.merge` has it, or replaces them."""
    return isinstance(values, Mapping) and values.get("kind", kind) == kind
