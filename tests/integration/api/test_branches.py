"""Jobs that go on from a checkpoint of another: where they start, what they inherit, what is refused."""

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from service.api.checkpoints.repository import lineages
from service.models import Checkpoint, Job, WorkUnit
from service.statuses import UnitKind
from tests.job_rows import RowWorker

LATER = {"from_round": 3, "training": {"P_std": 3.0}, "grid": {"alpha": [1.0], "beta": [0.1]}}


def _fid(index: int, position: int, kimg: float, num_samples: int) -> float:
    """Round 2 is the best; of each round, trial 1 at 1 kimg."""
    return 10.0 if position < 0 else {1: 8.0, 2: 5.0}.get(index, 9.0) - position + kimg / 10


@pytest.fixture
def job(client: httpx.Client, inputs, sessions: sessionmaker[Session]) -> str:
    """A job of six rounds that ended after the third, which brought nothing."""
    body = inputs.complete_body() | {"name": "first", "rounds": 6, "round_overrides": [LATER], "metadata": {"a": "b"}}
    job_id = client.post("/jobs", json=body).json()["id"]
    RowWorker(sessions, _fid).run()
    assert client.get(f"/jobs/{job_id}").json()["termination_reason"] == "no_improvement"
    return job_id


def branch(client: httpx.Client, job_id: str, body: dict[str, object], **headers: str) -> dict:
    answer = client.post(f"/jobs/{job_id}/branch", json=body, headers=headers)
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"] == f"/jobs/{answer.json()['id']}"
    return answer.json()


def winner(client: httpx.Client, job_id: str, round_index: int) -> str:
    return client.get(f"/jobs/{job_id}/rounds/{round_index}").json()["winner"]["checkpoint_id"]


def test_branch_starts_from_the_winner_and_goes_on_as_the_job_would_have(client, job) -> None:
    made = branch(client, job, {"from_round": 1})

    chosen = winner(client, job, 1)
    assert made["parent"] == {"checkpoint_id": chosen, "job_id": job, "round_index": 1}
    spec, inherited = made["spec"], client.get(f"/jobs/{job}").json()["spec"]
    assert spec["base_checkpoint"] == f"checkpoint:{chosen}"
    assert (spec["name"], spec["rounds"]) == (None, 5)
    assert spec["round_overrides"] == [LATER | {"from_round": 2, "grid": LATER["grid"]}]
    same = set(spec) - {"name", "rounds", "round_overrides", "base_checkpoint"}
    assert {name: spec[name] for name in same} == {name: inherited[name] for name in same}
    assert client.get(f"/jobs/{made['id']}").json() == made
    assert client.get("/jobs").json()["data"][0]["parent"] == made["parent"]


def test_branch_starts_from_the_best_if_nothing_is_said(client, job) -> None:
    made = branch(client, job, {})

    assert made["parent"]["checkpoint_id"] == client.get(f"/jobs/{job}").json()["best_checkpoint_id"]
    assert made["spec"]["rounds"] == 4
    assert made["spec"]["training"]["P_std"] == 3.0  # that of round 3, which follows
    assert made["spec"]["round_overrides"] == []


def test_branch_may_start_from_any_checkpoint_and_change_any_setting(client, job) -> None:
    lost = client.get(f"/jobs/{job}/checkpoints").json()["data"][-1]

    changes = {"name": "second", "rounds": 2, "training": {"P_std": 2.0}, "stop": {"patience_rounds": 2}, "seed": 8}
    made = branch(client, job, {"from_checkpoint": lost["id"]} | changes)

    assert made["parent"]["checkpoint_id"] == lost["id"]
    assert (made["name"], made["spec"]["rounds"], made["spec"]["seed"]) == ("second", 2, 8)
    assert made["spec"]["training"]["P_std"] == 2.0
    assert made["spec"]["training"]["kimg"] == 2.0
    assert made["spec"]["stop"]["patience_rounds"] == 2


def test_branch_of_round_0_starts_from_the_base_with_all_rounds(client, job) -> None:
    made = branch(client, job, {"from_round": 0})

    assert (made["spec"]["rounds"], made["spec"]["round_overrides"]) == (6, [LATER])


def test_branch_runs_from_the_stored_checkpoint_and_its_lineage_leads_back(client, job, sessions) -> None:
    chosen = winner(client, job, 2)
    made = branch(client, job, {"from_round": 2, "rounds": 1})
    done = RowWorker(sessions, lambda index, *_: 5.0 - index).run()

    (validate,) = [unit for unit in done if unit.kind is UnitKind.VALIDATE]
    with sessions() as session:
        stored = session.get_one(Checkpoint, chosen)
        assert validate.spec.checkpoint.uri == f"object:{stored.object_key}"
        assert validate.spec.checkpoint.sha256 == stored.sha256
        assert session.get_one(Job, made["id"]).parent_checkpoint_id == chosen
        assert session.query(WorkUnit).filter_by(job_id=made["id"]).count() == len(done)
    best = client.get(f"/jobs/{made['id']}/best").json()
    before = next(row for row in client.get(f"/jobs/{job}/checkpoints").json()["data"] if row["id"] == chosen)
    base = winner(client, made["id"], 0)
    assert best["lineage"] == [*before["lineage"], base, best["id"]]
    assert len(before["lineage"]) == 3
    with sessions() as session:
        own = set(session.scalars(select(Checkpoint.id).where(Checkpoint.job_id == made["id"])))
        assert lineages(session, made["id"]).keys() == own


def test_job_may_name_a_checkpoint_as_its_base(client, inputs, job) -> None:
    chosen = winner(client, job, 2)
    body = inputs.complete_body() | {"base_checkpoint": f"checkpoint:{chosen}"}

    answer = client.post("/jobs", json=body)

    assert answer.status_code == 201, answer.text
    assert answer.json()["parent"] == {"checkpoint_id": chosen, "job_id": job, "round_index": 2}
    assert client.post("/jobs?dry_run=true", json=body).json()["storage"]["checkpoint_bytes"] == 9 * 1


def test_branch_with_the_same_key_and_request_is_made_once(client, job, sessions) -> None:
    first = branch(client, job, {"rounds": 2}, **{"Idempotency-Key": "mine"})
    RowWorker(sessions, lambda *_: 1.0).run()

    again = client.post(f"/jobs/{job}/branch", json={"rounds": 2}, headers={"Idempotency-Key": "mine"})
    other = client.post(f"/jobs/{job}/branch", json={"rounds": 3}, headers={"Idempotency-Key": "mine"})
    elsewhere = client.post(f"/jobs/{first['id']}/branch", json={"rounds": 2}, headers={"Idempotency-Key": "mine"})

    assert (again.status_code, again.json()["id"]) == (200, first["id"])
    for answer in (other, elsewhere):
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")


def test_branch_dry_run_shows_the_plan_and_creates_nothing(client, job) -> None:
    answer = client.post(f"/jobs/{job}/branch?dry_run=true", json={"from_round": 1})

    assert answer.status_code == 200, answer.text
    assert [(phase["first_round"], phase["last_round"]) for phase in answer.json()["phases"]] == [(1, 1), (2, 5)]
    assert len(client.get("/jobs").json()["data"]) == 1


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"from_round": 5}, 422, "no_such_round", "from_round"),
        ({"from_round": -1}, 422, "validation_failed", "from_round"),
        ({"from_round": "1"}, 422, "validation_failed", "from_round"),
        ({"from_checkpoint": "ckpt_0"}, 422, "no_such_checkpoint", "from_checkpoint"),
        ({"from_checkpoint": "ckpt_0", "from_round": 1}, 422, "validation_failed", "from_checkpoint"),
        ({"base_checkpoint": "file:///x"}, 422, "validation_failed", "base_checkpoint"),
        ({"preset": "digits"}, 422, "validation_failed", "preset"),
        ({"training": {"P_std": 0}}, 422, "validation_failed", "training.P_std"),
        ({"ronds": 3}, 422, "validation_failed", "ronds"),
        ({"dataset": {"uri": "file:///etc/passwd"}}, 422, "uri_not_allowed", "dataset.uri"),
        ([1], 422, "validation_failed", None),
    ],
)
def test_branch_that_cannot_be_is_refused_by_name(client, job, body, status, code, param) -> None:
    answer = client.post(f"/jobs/{job}/branch", json=body)

    assert (answer.status_code, answer.json()["code"], answer.json()["param"]) == (status, code, param), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_branch_of_a_round_without_winner_conflicts(client, inputs, sessions) -> None:
    job_id = client.post("/jobs", json=inputs.complete_body()).json()["id"]
    assert client.post(f"/jobs/{job_id}/branch", json={}).json()["code"] == "nothing_measured_yet"
    RowWorker(sessions, _fid).step()

    answer = client.post(f"/jobs/{job_id}/branch", json={"from_round": 1})

    assert (answer.status_code, answer.json()["code"]) == (409, "round_has_no_winner")


def test_branch_of_another_tenants_job_or_checkpoint_is_refused(client, other_client, inputs, job) -> None:
    chosen = winner(client, job, 2)

    assert other_client.post(f"/jobs/{job}/branch", json={}).status_code == 404
    answer = other_client.post("/jobs", json=inputs.complete_body() | {"base_checkpoint": f"checkpoint:{chosen}"})
    assert (answer.status_code, answer.json()["code"]) == (422, "no_such_checkpoint")
    assert answer.json()["param"] == "base_checkpoint"
