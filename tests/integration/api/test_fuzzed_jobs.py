"""Whatever JSON is sent, the answer is a job, a plan or a problem."""

import copy
import json
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddo_engine.spec import TrainingSettings
from tests.api_server import Inputs

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**400), max_value=10**400)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        [
            "file:///etc/passwd",
            "s3://allowed/a",
            "checkpoint:ckpt_0",
            "checkpoint:",
            "\0",
            "\ud800",
            "NaN",
            "-1",
            "1e999",
            "digits",
            "heun",
            "var",
        ]
    )
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
PATHS = st.sampled_from(
    [
        *[
            ("preset",),
            ("name",),
            ("seed",),
            ("rounds",),
            ("metadata",),
            ("base_checkpoint",),
            ("confirm",),
            ("sampler",),
        ],
        *[("dataset",), ("dataset", "uri"), ("dataset", "grey_levels"), ("grid",), ("grid", "alpha"), ("grid", "beta")],
        *[("training",), ("training", "kimg"), ("training", "adam_betas"), ("training", "save_state_every_kimg")],
        *[("autoencoder",), ("guide",), ("dataset", "transform"), ("dataset", "resolution"), ("dataset", "convert")],
        *[("sampler", "kind"), ("sampler", "rho"), ("sampler", "top_k"), ("sampler", "num_steps")],
        *[("training", "schedule"), ("training", "ema_std"), ("training", "augment_probability")],
        *[("reference_set",), ("reference_set", "shards"), ("evaluation",), ("evaluation", "neighbours"), ("unknown",)],
        *[("round_overrides",), ("stop",), ("stop", "noise_seeds"), ("stop", "min_improvement")],
    ]
)
ROUND_FIELDS = st.sampled_from([*TrainingSettings.model_fields, "unknown"])
OVERRIDES = st.lists(
    st.fixed_dictionaries(
        {"from_round": st.integers(1, 5) | JSON},
        optional={
            "training": st.dictionaries(ROUND_FIELDS, JSON | st.floats(0, 10), max_size=3) | JSON,
            "grid": JSON,
        },
    ),
    max_size=3,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(PATHS, JSON, min_size=1, max_size=3))
def test_post_job_with_any_json_is_never_a_server_error(
    shared_client: httpx.Client, shared_inputs: Inputs, changes: dict[tuple[str, ...], Any]
) -> None:
    body: dict[str, Any] = copy.deepcopy(shared_inputs.complete_body())
    for path, value in sorted(changes.items()):
        target: Any = body
        for name in path[:-1]:
            target = target.setdefault(name, {}) if isinstance(target, dict) else None
        if isinstance(target, dict):
            target[path[-1]] = value
    raw = json.dumps(body).encode()
    answer = shared_client.post("/jobs", content=raw, headers={"Content-Type": "application/json"})
    if answer.status_code == 201:
        assert answer.json()["status"] == "validating"
        return
    # an s3:// input that is allowed cannot be asked for: its endpoint is not there
    assert 400 <= answer.status_code < 500 or answer.json()["code"] == "input_unavailable", answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"].endswith((".", ".)"))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(overrides=OVERRIDES)
def test_post_job_with_any_round_settings_is_never_a_server_error(
    shared_client: httpx.Client, shared_inputs: Inputs, overrides: list[Any]
) -> None:
    body = shared_inputs.complete_body() | {"round_overrides": overrides}
    answer = shared_client.post(
        "/jobs?dry_run=true", content=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.dictionaries(st.sampled_from(["from_round", "from_checkpoint", "rounds", "training"]), JSON) | JSON)
def test_branch_with_any_json_is_never_a_server_error(
    shared_client: httpx.Client, shared_inputs: Inputs, body: Any
) -> None:
    job_id = shared_client.get("/jobs?limit=1").json()["data"] or [
        shared_client.post("/jobs", json=shared_inputs.complete_body()).json()
    ]
    answer = shared_client.post(
        f"/jobs/{job_id[0]['id']}/branch",
        content=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    # nothing of the job was measured, so there is nothing to branch from
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=200))
def test_post_job_with_any_bytes_is_never_a_server_error(shared_client: httpx.Client, raw: bytes) -> None:
    answer = shared_client.post("/jobs", content=raw, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
