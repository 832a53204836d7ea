"""Creating, reading, listing and cancelling jobs."""

import threading
import time

import httpx
import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from service.models import Job, WorkUnit
from service.statuses import JobStatus
from service.transitions import move_job
from tests.job_rows import RowWorker


def create(client: httpx.Client, body: dict[str, object], **headers: str) -> dict:
    answer = client.post("/jobs", json=body, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.json()


def count(sessions: sessionmaker[Session], model: type) -> int:
    with sessions() as session:
        return session.scalar(select(func.count()).select_from(model))


def test_create_job_with_preset_returns_the_complete_spec(client, inputs) -> None:
    answer = client.post("/jobs", json=inputs.body(name="first", rounds=3))
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert job["status"] == "validating"
    assert job["name"] == "first"
    assert job["spec"]["rounds"] == 3
    assert job["spec"]["training"]["kimg"] == 51.2
    assert job["spec"]["dataset"].items() >= {"uri": inputs.dataset, "grey_levels": 17}.items()
    assert job["progress"] == {"fraction": 0.0, "units_done": 0, "units_planned": 2 + 3 * (1 + 4 + 2), "running": []}
    assert answer.headers["Location"] == f"/jobs/{job['id']}"
    assert client.get(f"/jobs/{job['id']}").json() == job


def test_create_job_without_preset_queues_its_validation_and_rings(client, inputs, sessions, valkey) -> None:
    job = create(client, inputs.complete_body())
    with sessions() as session:
        unit = session.scalars(select(WorkUnit)).one()
        assert (unit.job_id, unit.kind, unit.status) == (job["id"], "validate", "queued")
    deadline = time.monotonic() + 5
    with valkey.connect() as broker:
        while not broker.llen("ddo-units") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert broker.llen("ddo-units") == 1
        assert unit.id in str(broker.lrange("ddo-units", 0, -1))


def test_create_job_dry_run_returns_the_plan_and_writes_nothing(client, inputs, sessions) -> None:
    answer = client.post("/jobs?dry_run=true", json=inputs.complete_body())
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    assert plan["units"] == {"validate": 1, "baseline": 1, "reference": 4, "trial": 4, "confirm": 0}
    assert plan["trials"] == 4
    assert plan["trained_images"] == 4 * 2000
    # base, two reference sets, two evaluations in each of four trials
    assert plan["generated_images"] == 50 + 2 * 101 + 4 * 2 * 50
    assert plan["network_evaluations"] == 8 * 4 * 2000 + 35 * (50 + 2 * 101 + 4 * 2 * 50)
    assert plan["storage"] == {
        "checkpoints": 9,
        "checkpoint_bytes": 9000,
        "snapshot_bytes": 0,
        "state_bytes": 4 * 4 * 1000,
        "input_bytes": 1700,
        "total_bytes": 9000 + 16000 + 1700,
    }
    assert count(sessions, Job) == 0


def test_dry_run_counts_averages_in_the_storage(client, inputs) -> None:
    body = inputs.complete_body()
    body["training"] |= {"ema_snapshot_stds": [0.05, 0.1, 0.2]}
    storage = client.post("/jobs?dry_run=true", json=body).json()["storage"]
    assert (storage["checkpoints"], storage["checkpoint_bytes"]) == (9, 9000)
    assert storage["snapshot_bytes"] == 3 * 8 * 1000
    assert storage["state_bytes"] == 4 * (4 + 3) * 1000
    assert storage["total_bytes"] == 9000 + 24000 + 28000 + 1700


def test_dry_run_shows_each_phase_of_settings(client, inputs) -> None:
    later = {"from_round": 4, "training": {"P_std": 3.0}, "grid": {"alpha": [1.0], "beta": [0.1]}}
    body = inputs.complete_body() | {"rounds": 6, "round_overrides": [later]}

    phases = client.post("/jobs?dry_run=true", json=body).json()["phases"]

    assert [(phase["first_round"], phase["last_round"]) for phase in phases] == [(1, 3), (4, 6)]
    assert [phase["training"]["P_std"] for phase in phases] == [1.2, 3.0]
    assert [phase["units"] for phase in phases] == [
        {"reference": 6, "trial": 6, "confirm": 0},
        {"reference": 6, "trial": 3, "confirm": 0},
    ]


def test_planned_units_are_those_that_the_planner_makes(client, inputs, sessions) -> None:
    body = inputs.complete_body() | {"confirm": {"num_samples": 80, "finalists": 5}}
    plan = client.post("/jobs?dry_run=true", json=body).json()
    job = create(client, body)
    # every round beats the one before, so that none stops the job
    RowWorker(sessions, lambda index, position, kimg, samples: 10 - index - kimg / 10 - position / 100).run()
    with sessions() as session:
        made = dict(session.execute(select(WorkUnit.kind, func.count()).group_by(WorkUnit.kind)).all())
    assert plan["units"] == made
    done = client.get(f"/jobs/{job['id']}").json()
    assert done["status"] == "succeeded"
    assert done["progress"]["fraction"] == 1.0
    assert done["progress"]["units_done"] == done["progress"]["units_planned"]


def test_create_job_same_key_and_body_returns_the_same_job(client, inputs, sessions) -> None:
    first = create(client, inputs.body(), **{"Idempotency-Key": "k1"})
    reordered = dict(reversed(inputs.body().items()))
    again = client.post("/jobs", json=reordered, headers={"Idempotency-Key": "k1"})
    assert (again.status_code, again.json()) == (200, first)
    assert count(sessions, Job) == 1


def test_create_job_same_key_after_the_input_is_gone_returns_the_same_job(client, inputs) -> None:
    first = create(client, inputs.body(), **{"Idempotency-Key": "k1"})
    (inputs.root / "train.zip").unlink()
    again = client.post("/jobs", json=inputs.body(), headers={"Idempotency-Key": "k1"})
    assert (again.status_code, again.json()["id"]) == (200, first["id"])


def test_create_job_same_key_other_body_is_refused(client, inputs, sessions) -> None:
    create(client, inputs.body(), **{"Idempotency-Key": "k1"})
    answer = client.post("/jobs", json=inputs.body(rounds=5), headers={"Idempotency-Key": "k1"})
    assert answer.status_code == 422
    assert answer.json()["code"] == "idempotency_mismatch"
    assert count(sessions, Job) == 1


def test_create_job_same_key_of_another_tenant_makes_another_job(client, other_client, inputs) -> None:
    mine = create(client, inputs.body(), **{"Idempotency-Key": "k1"})
    theirs = create(other_client, inputs.body(), **{"Idempotency-Key": "k1"})
    assert mine["id"] != theirs["id"]


def test_create_job_without_key_twice_makes_two_jobs(client, inputs, sessions) -> None:
    create(client, inputs.body())
    create(client, inputs.body())
    assert count(sessions, Job) == 2


def test_create_job_same_key_concurrently_makes_exactly_one(client, inputs, sessions) -> None:
    answers: list[httpx.Response] = []
    barrier = threading.Barrier(8)

    def post() -> None:
        barrier.wait()
        answers.append(client.post("/jobs", json=inputs.body(), headers={"Idempotency-Key": "raced"}))

    threads = [threading.Thread(target=post) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert count(sessions, Job) == 1
    assert count(sessions, WorkUnit) == 1


def test_create_job_with_the_broker_gone_succeeds(client, inputs, app) -> None:
    app.state.doorbell._app.conf.broker_url = "redis://127.0.0.1:1/0"
    create(client, inputs.body())


def test_list_jobs_pages_newest_first_without_gaps(client, inputs) -> None:
    ids = [create(client, inputs.body(name=f"job {index}"))["id"] for index in range(5)]
    first = client.get("/jobs", params={"limit": 2}).json()
    assert [job["id"] for job in first["data"]] == ids[:2:-1]
    assert first["has_more"] is True
    second = client.get("/jobs", params={"limit": 3, "after": first["next_after"]}).json()
    assert [job["id"] for job in second["data"]] == ids[2::-1]
    assert (second["has_more"], second["next_after"]) == (False, None)


def test_list_jobs_filters_by_status(client, inputs, sessions) -> None:
    first, second, third = (create(client, inputs.body())["id"] for _ in range(3))
    with sessions.begin() as session:
        move_job(session, first, JobStatus.FAILED)
        move_job(session, second, JobStatus.QUEUED)
    answer = client.get("/jobs", params={"status": ["failed", "queued"]}).json()
    assert [job["id"] for job in answer["data"]] == [second, first]
    answer = client.get("/jobs", params={"status": "validating"}).json()
    assert [job["id"] for job in answer["data"]] == [third]


def test_list_jobs_shows_only_the_tenants_own(client, other_client, inputs) -> None:
    create(client, inputs.body())
    assert other_client.get("/jobs").json()["data"] == []


@pytest.mark.parametrize("after", ["job_none", "\0", "x" * 3000])
def test_list_jobs_with_an_unknown_cursor_is_refused(client, after) -> None:
    answer = client.get("/jobs", params={"after": after})
    assert (answer.status_code, answer.json()["code"], answer.json()["param"]) == (422, "invalid_cursor", "after")


def test_cancel_a_queued_job_ends_it_at_once_and_again_changes_nothing(client, inputs, sessions) -> None:
    job = create(client, inputs.body())
    first = client.post(f"/jobs/{job['id']}/cancel")
    assert first.status_code == 200
    assert (first.json()["status"], first.json()["termination_reason"]) == ("cancelled", "cancelled_by_user")
    assert client.post(f"/jobs/{job['id']}/cancel").json() == first.json()
    with sessions() as session:
        assert session.scalars(select(WorkUnit.status)).all() == ["cancelled"]


def test_cancel_a_running_job_waits_for_its_worker(client, inputs, sessions) -> None:
    job = create(client, inputs.body())
    RowWorker(sessions, lambda *_: 1.0).claim()
    answer = client.post(f"/jobs/{job['id']}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelling")
    assert [unit["kind"] for unit in answer.json()["progress"]["running"]] == ["validate"]


def test_cancel_a_finished_job_is_a_conflict(client, inputs, sessions) -> None:
    job = create(client, inputs.body())
    with sessions.begin() as session:
        move_job(session, job["id"], JobStatus.FAILED)
    answer = client.post(f"/jobs/{job['id']}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_already_ended")
    assert client.get(f"/jobs/{job['id']}").json()["status"] == "failed"
