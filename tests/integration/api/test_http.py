"""What every request gets: authentication, request ids, problems, health, metrics, the OpenAPI document."""

import json
import socket
import threading
import time

import httpx
import pytest

from ddo_engine.presets import PRESETS
from service.admin import main as admin
from service.api.jobs import repository
from service.auth import revoke_keys
from service.models import ApiKey
from tests.api_server import client_of, serving

OPEN = ("/healthz", "/readyz")


def test_requests_without_or_with_a_wrong_key_are_refused(client, url, sessions) -> None:
    good = client.headers["Authorization"]
    for value in (None, "", "Bearer", "Bearer ddo_wrong", f"Basic {good[7:]}", f"{good}x", good[:-1], "Bearer \xff"):
        headers = [] if value is None else [(b"Authorization", value.encode("latin-1"))]
        answer = httpx.get(f"{url}/jobs", headers=headers, trust_env=False)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), value
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.headers["content-type"] == "application/problem+json"


def test_every_path_but_health_and_objects_needs_a_key(client, url) -> None:
    document = client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method in operations:
            filled = path.format(
                job_id="job_x", round_index=1, trial_index=0, checkpoint_id="ckpt_x", artifact_id="art_x"
            )
            answer = httpx.request(method, url + filled, trust_env=False)
            assert (answer.status_code == 401) is (path not in OPEN), path


def test_revoked_key_is_refused_at_once(client, sessions) -> None:
    assert client.get("/jobs").status_code == 200
    with sessions.begin() as session:
        key = session.query(ApiKey).one()
        assert revoke_keys(session, key.prefix) == [key.id]
    assert client.get("/jobs").status_code == 401


def test_keys_are_stored_as_hashes_only(client, sessions) -> None:
    key = client.headers["Authorization"].removeprefix("Bearer ")
    with sessions() as session:
        row = session.query(ApiKey).one()
    assert key.startswith(row.prefix)
    assert len(row.prefix) == 12
    assert key not in json.dumps({column.name: str(getattr(row, column.name)) for column in ApiKey.__table__.columns})


def test_admin_command_creates_and_revokes_keys(url, settings, monkeypatch, capsys) -> None:
    monkeypatch.setattr("service.admin.settings", lambda: settings)
    assert admin(["create-key", "acme", "laptop"]) == 0
    key = capsys.readouterr().out.strip()
    with client_of(url, key) as client:
        assert client.get("/jobs").status_code == 200
        assert admin(["revoke-key", key[:12]]) == 0
        assert client.get("/jobs").status_code == 401
    assert admin(["revoke-key", key[:12]]) == 1
    assert "no such key" in capsys.readouterr().err


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/{job}",
        "/jobs/{job}/rounds",
        "/jobs/{job}/rounds/0",
        "/jobs/{job}/rounds/1/trials/0/metrics",
        "/jobs/{job}/checkpoints",
        "/jobs/{job}/best",
        "/jobs/{job}/events",
    ],
)
def test_another_tenants_job_is_not_found(client, other_client, inputs, path) -> None:
    job = client.post("/jobs", json=inputs.body()).json()["id"]
    theirs = other_client.get(path.format(job=job))
    unknown = other_client.get(path.format(job="job_000000000000000000000000000"))
    assert theirs.status_code == unknown.status_code == 404
    assert {**theirs.json(), "request_id": ""} == {**unknown.json(), "request_id": ""}


def test_another_tenants_job_cannot_be_cancelled(client, other_client, inputs) -> None:
    job = client.post("/jobs", json=inputs.body()).json()
    assert other_client.post(f"/jobs/{job['id']}/cancel").status_code == 404
    assert client.get(f"/jobs/{job['id']}").json()["status"] == "validating"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/jobs/", 404, "not_found"),
        ("GET", "/jobs/job_x", 404, "not_found"),
        ("GET", "/jobs/%00", 404, "not_found"),
        ("GET", "/jobs/%ff%fe", 404, "not_found"),
        ("GET", "/jobs/%ed%a0%80", 404, "not_found"),
        ("GET", f"/jobs/{'x' * 5000}", 404, "not_found"),
        ("POST", "/checkpoints/ckpt_x/download", 404, "not_found"),
        ("POST", "/checkpoints/%00/download", 404, "not_found"),
        ("DELETE", "/jobs", 405, "method_not_allowed"),
        ("PUT", "/jobs/job_x", 405, "method_not_allowed"),
        ("GET", "/jobs?limit=0", 422, "validation_failed"),
        ("GET", "/jobs?limit=ten", 422, "validation_failed"),
        ("GET", "/jobs?limit=99999999999999999999999", 422, "validation_failed"),
        ("GET", "/jobs?status=done", 422, "validation_failed"),
        ("GET", "/jobs/job_x/rounds/-1", 422, "validation_failed"),
        ("GET", "/jobs/job_x/rounds/99999999999", 422, "validation_failed"),
        ("GET", "/jobs/job_x/rounds/one", 422, "validation_failed"),
        ("GET", "/jobs/job_x/rounds/1/trials/0/metrics?since_kimg=nan", 422, "validation_failed"),
        ("GET", "/jobs/job_x/rounds/1/trials/0/metrics?since_kimg=inf", 422, "validation_failed"),
        ("GET", "/jobs/job_x/events?after=9223372036854775808", 422, "validation_failed"),
        ("POST", "/jobs?dry_run=maybe", 422, "validation_failed"),
    ],
)
def test_bad_requests_are_problems(shared_client, method, path, status, code) -> None:
    answer = shared_client.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"]
    if status == 405:
        assert answer.headers["Allow"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [("trace-1.a_B", True), ("a" * 128, True), ("a" * 129, False), ("a b", False), ("", False), ('"; x="', False)],
)
def test_request_id_is_kept_if_it_is_a_plain_one(shared_client, given, kept) -> None:
    returned = shared_client.get("/healthz", headers={"X-Request-ID": given}).headers["X-Request-ID"]
    assert (returned == given) is kept
    assert returned


def test_unexpected_exception_is_a_problem_without_its_text(client, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(repository, "list_jobs", fail)
    answer = client.get("/jobs")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret" not in answer.text


def test_database_outage_is_503_and_heals(client, postgres, app) -> None:
    engine = app.state.sessions.kw["bind"]
    good = engine.url
    assert client.get("/readyz").status_code == 200
    engine.dispose()
    engine.pool._creator, creator = _refuse, engine.pool._creator
    try:
        answer = client.get("/jobs")
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        assert answer.headers["Retry-After"] == "5"
        unready = client.get("/readyz")
        assert unready.status_code == 503
        assert unready.json()["checks"]["database"]["ok"] is False
        assert unready.json()["checks"]["broker"] == {"ok": True, "reason": None}
        assert client.get("/healthz").json() == {"status": "ok"}
        assert str(good.host) not in unready.text
    finally:
        engine.pool._creator = creator
    assert client.get("/jobs").status_code == 200


def _refuse(*_: object) -> None:
    import psycopg

    raise psycopg.OperationalError("connection to server failed")


def test_readiness_names_a_broker_and_a_store_that_do_not_answer(settings, tmp_path) -> None:
    from service.main import create_app

    (tmp_path / "occupied").write_text("a file where the folder should be")
    broken = settings.model_copy(
        update={
            "broker_url": type(settings.broker_url)("redis://:hunter2secret@127.0.0.1:1/0"),
            "storage_url": (tmp_path / "occupied").as_uri(),
        }
    )
    app = create_app(broken)
    with serving(app) as url:
        answer = httpx.get(f"{url}/readyz", trust_env=False)
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    checks = answer.json()["checks"]
    assert checks["database"]["ok"]
    assert "broker" in checks["broker"]["reason"]
    assert "storage folder" in checks["storage"]["reason"]
    assert "hunter2" not in answer.text


def test_metrics_count_jobs_units_and_requests(client, inputs) -> None:
    client.post("/jobs", json=inputs.body())
    text = client.get("/metrics").text
    assert 'ddo_jobs{status="validating"} 1.0' in text
    assert 'ddo_jobs{status="failed"} 0.0' in text
    assert 'ddo_units{kind="validate",status="queued"} 1.0' in text
    assert 'ddo_http_requests_total{method="POST",route="/jobs",status="201"} 1.0' in text


def test_client_that_leaves_in_the_middle_of_its_body_is_no_failure_of_the_service(client, url) -> None:
    address = httpx.URL(url)
    head = (
        "POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
        f"Authorization: {client.headers['Authorization']}\r\n\r\n"
    )
    with socket.create_connection((address.host, address.port)) as connection:
        connection.sendall(head.encode() + b"{")
        time.sleep(0.3)  # long enough to be authenticated and read
    deadline = time.monotonic() + 10
    while 'method="POST",route="/jobs"' not in (text := client.get("/metrics").text):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert 'ddo_http_requests_total{method="POST",route="/jobs",status="499"} 1.0' in text


def test_presets_are_listed(shared_client) -> None:
    listed = shared_client.get("/presets").json()["data"]
    assert [preset["name"] for preset in listed] == sorted(PRESETS)
    assert all(preset["description"] and preset["settings"]["rounds"] for preset in listed)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_preset_with_nothing_but_inputs_has_a_plan(shared_client, shared_inputs, name) -> None:
    body = shared_inputs.body(preset=name, rounds=PRESETS[name].settings["rounds"])

    answer = shared_client.post("/jobs?dry_run=true", json=body)

    assert answer.status_code == 200, answer.text
    plan = answer.json()
    overrides = PRESETS[name].settings.get("round_overrides", [])
    assert [phase["first_round"] for phase in plan["phases"]] == [1, *(item["from_round"] for item in overrides)]
    assert plan["phases"][-1]["last_round"] == PRESETS[name].settings["rounds"]
    assert plan["trials"] == sum(phase["units"]["trial"] for phase in plan["phases"])


def test_openapi_documents_every_operation(shared_client) -> None:
    document = shared_client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for name in ("JobSpec", "JobSpecFromPreset", "Problem", "JobDetail"):
        assert name in schemas
    text = json.dumps(document)
    references = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert references <= schemas.keys()
    assert "HTTPValidationError" not in text
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"]
            if path not in OPEN:
                assert operation["security"] == [{"ApiKey": []}], path
                assert "application/problem+json" in operation["responses"]["401"]["content"]


def test_openapi_requires_with_a_preset_only_what_it_leaves_out(shared_client) -> None:
    schemas = shared_client.get("/openapi.json").json()["components"]["schemas"]
    assert set(schemas["JobSpecFromPreset"]["required"]) == {"preset", "base_checkpoint", "dataset", "feature_network"}
    assert schemas["DatasetSettingsFromPreset"]["required"] == ["uri"]
    assert schemas["TrainingSettingsFromPreset"]["required"] == []
    assert {"grid", "training", "rounds"} <= set(schemas["JobSpec"]["required"])


def test_openapi_examples_are_valid_jobs(shared_client) -> None:
    from service.api.jobs.operations import parse_spec

    operation = shared_client.get("/openapi.json").json()["paths"]["/jobs"]["post"]
    examples = operation["requestBody"]["content"]["application/json"]["examples"]
    assert [parse_spec(example["value"]).rounds for example in examples.values()] == [2, 3, 2, 12]


def test_more_requests_than_connections_are_all_answered(client) -> None:
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(client.get("/jobs").status_code)) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 60
