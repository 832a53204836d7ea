"""Every kind of bad ``POST /jobs`` body gets a problem with a code, the field to blame and a sentence: never a 500."""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import func, select

from service.models import Job
from tests.api_server import Inputs

Change = Callable[[dict[str, Any], Inputs], Any]


@dataclass(frozen=True)
class Api:
    client: httpx.Client
    inputs: Inputs
    count_jobs: Callable[[], int]


@pytest.fixture(scope="module")
def api(shared_app: FastAPI, shared_client: httpx.Client, shared_inputs: Inputs) -> Api:
    """One API for all of these: nothing that they send may leave a trace."""
    root, sessions = shared_inputs.root, shared_app.state.sessions
    (root / "folder").mkdir()
    (root / "huge").write_bytes(b"x" * 20_000)
    (root.parent / "secret").write_text("not for jobs")
    (root / "link").symlink_to(root.parent / "secret")
    (root / "dangling").symlink_to(root.parent / "nothing")

    def count_jobs() -> int:
        with sessions() as session:
            return session.scalar(select(func.count()).select_from(Job))

    return Api(shared_client, shared_inputs, count_jobs)


def put(path: str, value: Any) -> Change:
    """Set the field at a dotted path."""

    def change(body: dict[str, Any], _: Inputs) -> dict[str, Any]:
        *parents, last = path.split(".")
        target = body
        for name in parents:
            target = target[name]
        target[last] = value
        return body

    return change


def put_input(path: str, name: Callable[[Path], str]) -> Change:
    """Set the field to a URI that depends on where the inputs lie."""
    return lambda body, inputs: put(path, name(inputs.root))(body, inputs)


def drop(path: str) -> Change:
    def change(body: dict[str, Any], _: Inputs) -> dict[str, Any]:
        *parents, last = path.split(".")
        target = body
        for name in parents:
            target = target[name]
        del target[last]
        return body

    return change


AUTOGUIDANCE = {"kind": "autoguidance", "scales": [2.0], "guide": "file:///inputs/guide.safetensors"}
CORRECTED = {"kind": "discriminator_guidance", "training": {"kimg": 1.0, "batch_size": 10, "learning_rate": 1e-3}}
# (what is wrong, baselines, param below baselines)
BAD_BASELINES: list[tuple[str, Any, str]] = [
    ("not a list", {"kind": "mle"}, ""),
    ("of no kind", [{}], "[0]"),
    ("of an unknown kind", [{"kind": "mle"}, {"kind": "gan"}], "[1]"),
    ("a misspelt field", [{"kind": "mle", "kimgs": 1.0}], "[0].kimgs"),
    ("a number as a string", [{"kind": "mle", "kimg": "1.0"}], "[0].kimg"),
    ("shorter than a batch", [{"kind": "mle", "kimg": 0.01}], "[0].kimg"),
    ("twice the same", [{"kind": "mle"}, {"kind": "mle"}], "[1]"),
    ("too many", [{"kind": "mle", "kimg": 1.0 + index} for index in range(17)], ""),
    ("CCA of a diffusion model", [{"kind": "cca", "alpha": 1.0, "beta": 0.1}], "[0].kind"),
    ("CCA without alpha", [{"kind": "cca", "beta": 0.1}], "[0].alpha"),
    ("guidance without scales", [{"kind": "guidance"}], "[0].scales"),
    ("no scale", [{"kind": "guidance", "scales": []}], "[0].scales"),
    ("scales that repeat", [{"kind": "guidance", "scales": [2.0, 2]}], "[0].scales"),
    ("a scale below 0", [{"kind": "guidance", "scales": [-1.0]}], "[0].scales[0]"),
    ("a scale that does not guide", [{"kind": "guidance", "scales": [2.0, 1.0]}], "[0].scales[1]"),
    ("a weight that does not correct", [CORRECTED | {"weights": [0.0]}], "[0].weights[0]"),
    ("guidance twice", [{"kind": "guidance", "scales": [scale]} for scale in (2.0, 3.0)], "[1].kind"),
    ("no guide", [{"kind": "autoguidance", "scales": [2.0]}], "[0].guide"),
    ("a guide that is no URI", [AUTOGUIDANCE | {"guide": "guide.pkl"}], "[0].guide"),
    ("a discriminator without training", [{"kind": "discriminator_guidance"}], "[0].training"),
    (
        "a discriminator's batch of 0",
        [CORRECTED | {"training": CORRECTED["training"] | {"batch_size": 0}}],  # type: ignore[operator]
        "[0].training.batch_size",
    ),
]
# (what is wrong, change of a good body, code, param)
BAD_FIELDS: list[tuple[str, Change, str, str | None]] = [
    ("unknown field", put("learning_rate", 1e-4), "validation_failed", "learning_rate"),
    ("unknown nested field", put("training.lr", 1e-4), "validation_failed", "training.lr"),
    ("unknown preset", put("preset", "cifar"), "validation_failed", "preset"),
    ("preset is a number", put("preset", 3), "validation_failed", "preset"),
    ("no base checkpoint", drop("base_checkpoint"), "validation_failed", "base_checkpoint"),
    ("no dataset", drop("dataset"), "validation_failed", "dataset"),
    ("no dataset uri", drop("dataset.uri"), "validation_failed", "dataset.uri"),
    ("no grid", drop("grid"), "validation_failed", "grid"),
    ("no training", drop("training"), "validation_failed", "training"),
    ("dataset is a string", put("dataset", "file:///data.zip"), "validation_failed", "dataset"),
    ("empty alphas", put("grid.alpha", []), "validation_failed", "grid.alpha"),
    ("empty grid", put("grid", {}), "validation_failed", "grid.alpha"),
    ("alpha below 0", put("grid.alpha", [1.0, -0.5]), "validation_failed", "grid.alpha[1]"),
    ("alpha too large", put("grid.alpha", [1e7]), "validation_failed", "grid.alpha[0]"),
    ("alpha is a string", put("grid.alpha", ["2"]), "validation_failed", "grid.alpha[0]"),
    ("alpha is true", put("grid.alpha", [True]), "validation_failed", "grid.alpha[0]"),
    ("alpha is null", put("grid.alpha", [None]), "validation_failed", "grid.alpha[0]"),
    ("alpha is not a list", put("grid.alpha", 2.0), "validation_failed", "grid.alpha"),
    ("alpha repeats", put("grid.alpha", [2, 2.0]), "validation_failed", "grid.alpha"),
    ("beta is 0", put("grid.beta", [0]), "validation_failed", "grid.beta[0]"),
    ("grid too large", put("grid", {"alpha": list(range(32)), "beta": [1, 2, 3, 4, 5]}), "validation_failed", "grid"),
    ("too many alphas", put("grid.alpha", list(range(33))), "validation_failed", "grid.alpha"),
    ("no rounds", put("rounds", 0), "validation_failed", "rounds"),
    ("too many rounds", put("rounds", 101), "validation_failed", "rounds"),
    ("half a round", put("rounds", 1.5), "validation_failed", "rounds"),
    ("rounds as a string", put("rounds", "2"), "validation_failed", "rounds"),
    ("rounds with 4000 digits", put("rounds", 10**4000), "validation_failed", "rounds"),
    ("kimg below a batch", put("training.kimg", 0.05), "validation_failed", "training"),
    ("warm-up beyond the end", put("training.warmup_kimg", 3.0), "validation_failed", "training"),
    ("learning rate 0", put("training.learning_rate", 0), "validation_failed", "training.learning_rate"),
    ("learning rate above 1", put("training.learning_rate", 2), "validation_failed", "training.learning_rate"),
    ("Adam beta of 1", put("training.adam_betas", [0.9, 1.0]), "validation_failed", "training.adam_betas"),
    ("one Adam beta", put("training.adam_betas", [0.9]), "validation_failed", "training.adam_betas[1]"),
    (
        "EMA half-life below 0",
        put("training.ema_half_life_kimg", -1),
        "validation_failed",
        "training.ema_half_life_kimg",
    ),
    ("two averages", put("training.ema_std", 0.1), "validation_failed", "training"),
    ("no average", put("training.ema_half_life_kimg", None), "validation_failed", "training"),
    ("power average of everything", put("training.ema_std", 0.5), "validation_failed", "training.ema_std"),
    ("unknown schedule", put("training.schedule", {"kind": "step"}), "validation_failed", "training.schedule"),
    (
        "EDM2's schedule without its decay",
        put("training.schedule", {"kind": "edm2"}),
        "validation_failed",
        "training.schedule.decay_reference_batches",
    ),
    (
        "schedule's number as a string",
        put("training.schedule", {"kind": "edm2", "decay_reference_batches": "2000"}),
        "validation_failed",
        "training.schedule.decay_reference_batches",
    ),
    ("P_std 0", put("training.P_std", 0), "validation_failed", "training.P_std"),
    ("batch of 0", put("training.batch_size", 0), "validation_failed", "training.batch_size"),
    ("sigmas reversed", put("sampler", {"sigma_min": 80, "sigma_max": 1}), "validation_failed", "sampler"),
    ("one sampling step", put("sampler", {"num_steps": 1}), "validation_failed", "sampler.num_steps"),
    (
        "a discriminator's weight",
        put("sampler", {"discriminator_weight": 1.0}),
        "validation_failed",
        "sampler.discriminator_weight",
    ),
    ("unknown labels", put("sampler", {"labels": "mine"}), "validation_failed", "sampler.labels"),
    ("one grey level", put("dataset.grey_levels", 1), "validation_failed", "dataset.grey_levels"),
    (
        "more shards than samples",
        put("reference_set", {"num_samples": 2, "shards": 3}),
        "validation_failed",
        "reference_set",
    ),
    ("reference set of no kind", put("reference_set", {"kind": "lazy"}), "validation_failed", "reference_set"),
    (
        "online fakes of a diffusion model",
        put("reference_set", {"kind": "online"}),
        "validation_failed",
        "reference_set.kind",
    ),
    (
        "a round's P_std below 0",
        put("round_overrides", [{"from_round": 2, "training": {"P_std": -1}}]),
        "validation_failed",
        "round_overrides[0].training.P_std",
    ),
    (
        "a round's misspelt field",
        put("round_overrides", [{"from_round": 2, "training": {"Pstd": 1.0}}]),
        "validation_failed",
        "round_overrides[0].training.Pstd",
    ),
    (
        "a round's number as a string",
        put("round_overrides", [{"from_round": 2, "training": {"P_std": "3.0"}}]),
        "validation_failed",
        "round_overrides[0].training.P_std",
    ),
    (
        "a round's settings that do not go together",
        put("round_overrides", [{"from_round": 2, "training": {"warmup_kimg": 99.0}}]),
        "validation_failed",
        "round_overrides[0].training",
    ),
    (
        "a round with another sampler",
        put("round_overrides", [{"from_round": 2, "sampler": {"num_steps": 9}}]),
        "validation_failed",
        "round_overrides[0].sampler",
    ),
    (
        "rounds out of order",
        put("round_overrides", [{"from_round": index, "training": {"P_std": 1.0}} for index in (3, 2)]),
        "validation_failed",
        "round_overrides",
    ),
    ("no patience", put("stop", {"patience_rounds": 0}), "validation_failed", "stop.patience_rounds"),
    ("noise twice", put("stop", {"evaluation_noise": 0.1, "noise_seeds": 2}), "validation_failed", "stop"),
    ("one sample", put("evaluation.num_samples", 1), "validation_failed", "evaluation.num_samples"),
    (
        "fewer samples than neighbours",
        put("evaluation", {"num_samples": 5, "neighbours": 5}),
        "validation_failed",
        "evaluation.num_samples",
    ),
    ("confirmed on too few", put("confirm", {"num_samples": 3}), "validation_failed", "confirm.num_samples"),
    ("subsets of more than the samples", put("evaluation.kid_subsets", 5), "validation_failed", "evaluation"),
    ("uneven splits", put("evaluation.inception_score_splits", 7), "validation_failed", "evaluation"),
    (
        "confirmed on uneven splits",
        lambda body, _: (
            body | {"evaluation": {"num_samples": 50, "inception_score_splits": 10}, "confirm": {"num_samples": 55}}
        ),
        "validation_failed",
        "confirm.num_samples",
    ),
    (
        "augmented more than always",
        put("training.augment_probability", 1.1),
        "validation_failed",
        "training.augment_probability",
    ),
    *(
        (f"baselines: {what}", put("baselines", baselines), "validation_failed", f"baselines{param}")
        for what, baselines, param in BAD_BASELINES
    ),
    (
        "a baseline's guide that is not there",
        lambda body, inputs: put("baselines", [{**AUTOGUIDANCE, "guide": (inputs.root / "no").as_uri()}])(body, inputs),
        "input_not_found",
        "baselines[0].guide",
    ),
    (
        "a VAR guided by another network",
        lambda body, _: body | {"sampler": {"kind": "autoregressive"}, "baselines": [AUTOGUIDANCE]},
        "validation_failed",
        "baselines[0].kind",
    ),
    (
        "a VAR corrected by a discriminator",
        lambda body, _: body | {"sampler": {"kind": "autoregressive"}, "baselines": [CORRECTED]},
        "validation_failed",
        "baselines[0].kind",
    ),
    ("no finalists", put("confirm", {"num_samples": 50, "finalists": 0}), "validation_failed", "confirm.finalists"),
    ("seed below 0", put("seed", -1), "validation_failed", "seed"),
    ("seed too large", put("seed", 2**31), "validation_failed", "seed"),
    ("empty name", put("name", ""), "validation_failed", "name"),
    ("name too long", put("name", "n" * 121), "validation_failed", "name"),
    ("NUL in a string", put("name", "a\0b"), "validation_failed", "name"),
    ("NUL in a metadata key", put("metadata", {"a\0": "b"}), "validation_failed", "metadata"),
    ("metadata value is a number", put("metadata", {"run": 3}), "validation_failed", "metadata.run"),
    ("metadata key too long", put("metadata", {"k" * 65: "v"}), "validation_failed", f"metadata.{'k' * 65}"),
    ("too much metadata", put("metadata", {f"k{i}": "v" for i in range(17)}), "validation_failed", "metadata"),
    ("infinite number", put("training.kimg", 1e999), "validation_failed", "training.kimg"),
    ("base is no URI", put("base_checkpoint", "base.safetensors"), "validation_failed", "base_checkpoint"),
    ("base is a path", put("base_checkpoint", "/data/base.safetensors"), "validation_failed", "base_checkpoint"),
    ("URI with a space", put("dataset.uri", "file:///a b.zip"), "validation_failed", "dataset.uri"),
    ("URI too long", put("dataset.uri", "file:///" + "a" * 2048), "validation_failed", "dataset.uri"),
    ("https URI", put("dataset.uri", "https://example.com/d.zip"), "uri_not_allowed", "dataset.uri"),
    ("metadata service", put("dataset.uri", "http://169.254.169.254/latest"), "uri_not_allowed", "dataset.uri"),
    ("data URI", put("dataset.uri", "data:application/zip;base64,UEsFBg"), "uri_not_allowed", "dataset.uri"),
    ("our own object", put("dataset.uri", "object:t/tenant/inputs/aa.zip"), "uri_not_allowed", "dataset.uri"),
    ("file outside the roots", put("base_checkpoint", "file:///etc/passwd"), "uri_not_allowed", "base_checkpoint"),
    ("missing outside the roots", put("base_checkpoint", "file:///no/such"), "uri_not_allowed", "base_checkpoint"),
    ("file of another host", put("dataset.uri", "file://host/data.zip"), "uri_not_allowed", "dataset.uri"),
    ("relative file URI", put("dataset.uri", "file:data.zip"), "uri_not_allowed", "dataset.uri"),
    ("dots", put_input("dataset.uri", lambda root: f"{root.as_uri()}/../secret"), "uri_not_allowed", "dataset.uri"),
    (
        "encoded dots",
        put_input("dataset.uri", lambda root: f"{root.as_uri()}/%2e%2e/secret"),
        "uri_not_allowed",
        "dataset.uri",
    ),
    (
        "link that leads out",
        put_input("dataset.uri", lambda root: (root / "link").as_uri()),
        "uri_not_allowed",
        "dataset.uri",
    ),
    (
        "dangling link that leads out",
        put_input("dataset.uri", lambda root: (root / "dangling").as_uri()),
        "uri_not_allowed",
        "dataset.uri",
    ),
    ("bucket that is not open", put("dataset.uri", "s3://private/data.zip"), "uri_not_allowed", "dataset.uri"),
    ("bucket without a key", put("dataset.uri", "s3://allowed/"), "uri_not_allowed", "dataset.uri"),
    (
        "missing file",
        put_input("dataset.uri", lambda root: (root / "no.zip").as_uri()),
        "input_not_found",
        "dataset.uri",
    ),
    ("Inception that is not here", put("feature_network", "inception"), "input_not_found", "feature_network"),
    ("unknown feature network", put("feature_network", "resnet"), "validation_failed", "feature_network"),
    ("folder", put_input("dataset.uri", lambda root: (root / "folder").as_uri()), "input_not_found", "dataset.uri"),
    (
        "file name too long",
        put_input("dataset.uri", lambda root: f"{root.as_uri()}/{'n' * 300}"),
        "input_not_found",
        "dataset.uri",
    ),
    ("NUL in a URI", put_input("dataset.uri", lambda root: f"{root.as_uri()}/a%00b"), "uri_not_allowed", "dataset.uri"),
    (
        "file too large",
        put_input("feature_network", lambda root: (root / "huge").as_uri()),
        "input_too_large",
        "feature_network",
    ),
]


def assert_problem(answer: httpx.Response, code: str, param: str | None) -> dict[str, Any]:
    """Check the shape of an error, its code and the field that it blames."""
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["code"], problem["param"]) == (code, param), problem
    assert problem["status"] == answer.status_code
    assert {"type", "title", "detail", "request_id"} <= problem.keys()
    for sentence in [problem["detail"], *(error["message"] for error in problem.get("errors", []))]:
        assert sentence.endswith((".", ".)")), sentence
        assert len(sentence.split()) >= 3, sentence
        assert "Input should" not in sentence  # the library's words say what is wrong, not what to do
        assert "Value error" not in sentence
    return problem


@pytest.mark.parametrize(
    ("change", "code", "param"), [case[1:] for case in BAD_FIELDS], ids=[case[0] for case in BAD_FIELDS]
)
def test_post_job_with_a_bad_field_is_a_problem(api: Api, change: Change, code: str, param: str | None) -> None:
    body = change(copy.deepcopy(api.inputs.complete_body()), api.inputs)
    for query in ("", "?dry_run=true"):
        raw = json.dumps(body).replace("Infinity", "1e999")
        answer = api.client.post(f"/jobs{query}", content=raw, headers={"Content-Type": "application/json"})
        assert_problem(answer, code, param)
    assert api.count_jobs() == 0


# (what is wrong, raw body, code, param)
BAD_BODIES: list[tuple[str, bytes, str, str | None]] = [
    ("empty", b"", "validation_failed", "base_checkpoint"),
    ("empty object", b"{}", "validation_failed", "base_checkpoint"),
    ("list", b"[]", "validation_failed", None),
    ("null", b"null", "validation_failed", None),
    ("string", b'"job"', "validation_failed", None),
    ("number", b"12", "validation_failed", None),
    ("cut off", b'{"rounds": 2', "malformed_json", None),
    ("single quotes", b"{'rounds': 2}", "malformed_json", None),
    ("trailing comma", b'{"rounds": 2,}', "malformed_json", None),
    ("NaN", b'{"seed": NaN}', "malformed_json", None),
    ("Infinity", b'{"seed": Infinity}', "malformed_json", None),
    ("minus Infinity", b'{"seed": -Infinity}', "malformed_json", None),
    ("lone surrogate", b'{"name": "\\ud800"}', "malformed_json", None),
    ("not UTF-8", b'{"name": "\xff"}', "malformed_json", None),
    ("UTF-16", '{"rounds": 2}'.encode("utf-16"), "malformed_json", None),
    ("nested 5,000 deep", b"[" * 5000 + b"]" * 5000, "malformed_json", None),
    ("nested 5,000 deep in a field", b'{"metadata":' + b'{"a":' * 2500 + b"1" + b"}" * 2501, "malformed_json", None),
    ("integer of 5,000 digits", b'{"seed": ' + b"9" * 5000 + b"}", "malformed_json", None),
    ("binary", bytes(range(256)), "malformed_json", None),
    ("gzip", b"\x1f\x8b\x08\x00", "malformed_json", None),
    ("key with a surrogate", b'{"\\udfff": 1}', "malformed_json", None),
    ("key with NUL", b'{"a\\u0000": 1}', "validation_failed", None),
    (
        "thousands of unknown fields",
        json.dumps({f"f{i}": i for i in range(1000)}).encode(),
        "validation_failed",
        "base_checkpoint",
    ),
    ("too large", b'{"name": "' + b"n" * 20_000 + b'"}', "body_too_large", None),
]


@pytest.mark.parametrize(
    ("raw", "code", "param"), [case[1:] for case in BAD_BODIES], ids=[case[0] for case in BAD_BODIES]
)
def test_post_job_with_a_bad_body_is_a_problem(api: Api, raw: bytes, code: str, param: str | None) -> None:
    answer = api.client.post("/jobs", content=raw, headers={"Content-Type": "application/json"})
    assert_problem(answer, code, param)
    assert api.count_jobs() == 0


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "\xff"]
)
def test_post_job_with_another_media_type_is_a_problem(api: Api, media_type: str) -> None:
    raw = json.dumps(api.inputs.complete_body()).encode()
    answer = api.client.post("/jobs", content=raw, headers=[(b"Content-Type", media_type.encode("latin-1"))])
    assert answer.status_code == 415
    assert_problem(answer, "unsupported_media_type", None)


def test_post_job_too_large_without_a_declared_length_is_a_problem(api: Api) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"name": "'
        for _ in range(30):
            yield b"n" * 1000

    answer = api.client.post("/jobs", content=chunks(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert_problem(answer, "body_too_large", None)


@pytest.mark.parametrize("key", ["", "k" * 256, "Schlüssel"])
def test_post_job_with_a_bad_idempotency_key_is_a_problem(api: Api, key: str) -> None:
    answer = api.client.post(
        "/jobs", json=api.inputs.complete_body(), headers=[(b"Idempotency-Key", key.encode("latin-1"))]
    )
    assert_problem(answer, "validation_failed", "Idempotency-Key")
    assert api.count_jobs() == 0


def test_post_job_with_many_mistakes_lists_every_one(api: Api) -> None:
    body = api.inputs.complete_body() | {"rounds": 0, "seed": -1, "grid": {"alpha": [-1], "beta": [0]}, "extra": 1}
    problem = assert_problem(api.client.post("/jobs", json=body), "validation_failed", "rounds")
    named = [error["param"] for error in problem["errors"]]
    assert named == ["rounds", "grid.alpha[0]", "grid.beta[0]", "seed", "extra"]


def test_post_job_with_a_misspelt_field_names_the_right_one(api: Api) -> None:
    body = api.inputs.complete_body()
    body["training"]["learning_rat"] = 1e-4  # type: ignore[index]
    problem = assert_problem(api.client.post("/jobs", json=body), "validation_failed", "training.learning_rat")
    assert "'learning_rate'" in problem["detail"]


def test_post_job_with_several_bad_inputs_lists_every_one(api: Api) -> None:
    body = api.inputs.complete_body() | {"base_checkpoint": "https://example.com/a", "feature_network": "object:t/x"}
    problem = assert_problem(api.client.post("/jobs", json=body), "uri_not_allowed", "base_checkpoint")
    assert [error["param"] for error in problem["errors"]] == ["base_checkpoint", "feature_network"]


def test_post_job_answers_alike_for_existing_and_missing_files_outside(api: Api) -> None:
    def answer(uri: str) -> dict[str, Any]:
        problem: dict[str, Any] = api.client.post(
            "/jobs", json=api.inputs.complete_body() | {"base_checkpoint": uri}
        ).json()
        del problem["request_id"]
        return problem

    secret = (api.inputs.root.parent / "secret").as_uri()
    assert answer(secret) == answer(f"{secret}-not-there") == answer("file:///etc/shadow")


def test_post_job_while_the_input_store_is_down_asks_to_try_again(api: Api) -> None:
    body = api.inputs.complete_body() | {"base_checkpoint": "s3://allowed/base.safetensors"}
    answer = api.client.post("/jobs", json=body)
    assert (answer.status_code, answer.json()["code"]) == (503, "input_unavailable")
    assert answer.headers["Retry-After"]
    assert answer.json()["param"] == "base_checkpoint"
