"""What a job says of its baselines: never ranked, and shown with what tells their protocol from the base's."""

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select

from service.leases import fail
from service.models import Event
from service.statuses import UnitKind
from tests.api_server import Inputs
from tests.job_rows import RowWorker

DISCRIMINATOR = {"kimg": 1.0, "batch_size": 10, "learning_rate": 1e-3}
BASELINES = [
    {"kind": "mle"},
    {"kind": "guidance", "scales": [1.5, 2.0]},
    {"kind": "discriminator_guidance", "weights": [1.0], "training": DISCRIMINATOR},
]
CONFIRM = {"num_samples": 80, "finalists": 1}


def fid(index: int, position: int, kimg: float, num_samples: int) -> float:
    """The base has 5, trials 4, what continued training gives 1: better than all that may win."""
    if position < 0:
        return 5.0
    return (1.0 + kimg / 10 if index == 0 else 4.0 - index / 10 + position / 100) + num_samples / 1e6


def submit(client: httpx.Client, inputs: Inputs, **changes: object) -> str:
    answer = client.post("/jobs", json=inputs.complete_body() | {"baselines": BASELINES} | changes)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def baselines_of(client: httpx.Client, job_id: str) -> list[dict]:
    path = client.get(f"/jobs/{job_id}").json()["links"]["baselines"]
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


@pytest.fixture(scope="module")
def job(shared_client: httpx.Client, shared_inputs: Inputs, shared_app: FastAPI) -> str:
    """A job that has ended, for tests that only look."""
    job_id = submit(shared_client, shared_inputs, confirm=CONFIRM)
    RowWorker(shared_app.state.sessions, fid).run()
    return job_id


def test_baselines_are_worked_on_after_all_that_serves_the_rounds(client, inputs, sessions) -> None:
    submit(client, inputs)

    done = RowWorker(sessions, fid).run()

    of_baselines = [unit.baseline_index is not None for unit in done]
    assert of_baselines == sorted(of_baselines)
    assert sum(of_baselines) == 5
    kinds = [(unit.kind, unit.baseline_index, unit.position) for unit in done if unit.baseline_index is not None]
    assert kinds[-2:] == [(UnitKind.BASELINE_DISCRIMINATOR, 2, 0), (UnitKind.BASELINE_EVALUATION, 2, 0)]


def test_job_ends_with_its_last_baseline_and_progress_counts_them(client, inputs, sessions) -> None:
    job_id = submit(client, inputs)
    worker, seen = RowWorker(sessions, fid), []
    while worker.step() is not None:
        told = client.get(f"/jobs/{job_id}").json()
        seen.append((told["status"], told["rounds_completed"], told["progress"]["fraction"]))

    assert seen[-2][:2] == ("running", 2)
    assert seen[-1] == ("succeeded", 2, 1.0)
    fractions = [fraction for _, _, fraction in seen]
    assert fractions == sorted(fractions)
    assert fractions[-2] < 1
    progress = client.get(f"/jobs/{job_id}").json()["progress"]
    assert progress["units_done"] == progress["units_planned"] == 1 + 1 + 2 * 4 + 5


def test_baseline_that_is_best_of_all_neither_wins_nor_ranks(shared_client, job) -> None:
    found = shared_client.get(f"/jobs/{job}").json()
    assert (found["base_fid"], round(found["best_fid"], 2)) == (5.0, 3.8)
    mle = baselines_of(shared_client, job)[0]
    assert mle["best"]["fid"] < mle["confirmed"]["fid"] < found["best_fid"]
    listed = shared_client.get(f"/jobs/{job}/checkpoints").json()["data"]
    assert [each["rank"] for each in listed if each["baseline_index"] == 0] == [None, None]
    assert all(each["baseline_index"] is None for each in listed[:-2])
    best = shared_client.get(f"/jobs/{job}/best").json()
    assert (best["id"], best["baseline_index"]) == (found["best_checkpoint_id"], None)
    rounds = shared_client.get(f"/jobs/{job}/rounds").json()["data"]
    assert mle["checkpoint_id"] not in {item["winner"]["checkpoint_id"] for item in rounds}


def test_trained_baseline_shows_its_evaluations_and_offers_its_checkpoint(shared_client, job) -> None:
    mle = baselines_of(shared_client, job)[0]
    assert (mle["kind"], mle["status"], mle["error"], mle["warnings"]) == ("mle", "succeeded", None, [])
    assert [(each["kimg"], each["num_samples"], each["differs"]) for each in mle["evaluations"]] == [
        (1.0, 50, []),
        (2.0, 50, []),
        (1.0, 80, []),
    ]
    assert mle["best"] == mle["evaluations"][0]
    assert mle["confirmed"] == mle["evaluations"][2]
    base = shared_client.get(f"/jobs/{job}/rounds/0").json()["winner"]
    assert mle["confirmed"]["fingerprint"] == base["measured"]["fingerprint"]
    download = shared_client.post(f"/checkpoints/{mle['checkpoint_id']}/download", json={}).json()
    assert download["filename"] == f"{job}-baseline0-1kimg.safetensors"
    lineage = [each["lineage"] for each in shared_client.get(f"/jobs/{job}/checkpoints").json()["data"]]
    assert [base["checkpoint_id"], mle["checkpoint_id"]] in lineage


def test_sampled_baseline_is_of_the_base_and_says_what_differs(shared_client, job) -> None:
    _, guidance, corrected = baselines_of(shared_client, job)
    base = shared_client.get(f"/jobs/{job}/rounds/0").json()["winner"]
    assert guidance["checkpoint_id"] == corrected["checkpoint_id"] == base["checkpoint_id"]
    assert [(each["scale"], each["num_samples"]) for each in guidance["evaluations"]] == [
        (1.5, 50),
        (1.5, 80),
        (2.0, 50),
        (2.0, 80),
    ]
    assert guidance["confirmed"]["num_samples"] == 80
    for each in guidance["evaluations"]:
        assert each["fingerprint"] != base["measured"]["fingerprint"]
        assert each["differs"] == [
            {"field": "sampler.guidance_scale", "base": 1.0, "baseline": each["scale"]},
            {"field": "sampler.guide_sees_labels", "base": True, "baseline": False},
        ]
    weight = {"field": "sampler.discriminator_weight", "base": None, "baseline": 1.0}
    assert [each["differs"] for each in corrected["evaluations"]] == [[weight]] * 2
    assert len(shared_client.get(f"/jobs/{job}/best").json()["evaluations"]) == 2
    listed = shared_client.get(f"/jobs/{job}/checkpoints").json()["data"]
    of_base = next(each for each in listed if each["id"] == base["checkpoint_id"])
    assert {each["fid"] for each in of_base["evaluations"]} == {5.0}
    assert len(of_base["evaluations"]) == 2


def test_baseline_that_fails_fails_alone(client, inputs, sessions) -> None:
    job_id = submit(client, inputs, confirm=CONFIRM)
    worker = RowWorker(sessions, fid)
    while (claimed := worker.claim()) is not None:
        if claimed.baseline_index in (0, 2):
            with sessions.begin() as session:
                fail(session, claimed, {"code": "diverged", "message": "the loss is not finite", "param": None})
        else:
            worker.do(claimed)

    found = client.get(f"/jobs/{job_id}").json()
    assert (found["status"], found["termination_reason"], found["error"]) == ("succeeded", "completed", None)
    mle, guidance, corrected = baselines_of(client, job_id)
    assert [each["status"] for each in (mle, guidance, corrected)] == ["failed", "succeeded", "failed"]
    assert mle["error"] == corrected["error"] == {"code": "diverged", "message": "the loss is not finite"}
    assert (mle["best"], mle["evaluations"], [each["kind"] for each in corrected["units"]]) == (
        None,
        [],
        ["baseline_discriminator"],
    )


def test_cancelling_a_job_cancels_its_baselines(client, inputs, sessions) -> None:
    job_id = submit(client, inputs)
    worker = RowWorker(sessions, fid)
    worker.step()
    waiting = [each["status"] for each in baselines_of(client, job_id)]
    assert client.post(f"/jobs/{job_id}/cancel").json()["status"] == "cancelled"

    assert waiting == ["queued", "queued", "pending"]
    assert [each["status"] for each in baselines_of(client, job_id)] == ["cancelled"] * 3
    assert worker.step() is None


def test_dry_run_counts_baselines(client, inputs) -> None:
    plain = client.post("/jobs?dry_run=true", json=inputs.complete_body()).json()
    body = inputs.complete_body() | {"baselines": BASELINES, "confirm": CONFIRM}
    confirmed = client.post("/jobs?dry_run=true", json=inputs.complete_body() | {"confirm": CONFIRM}).json()
    plan = client.post("/jobs?dry_run=true", json=body).json()

    assert plain["baselines"] == []
    assert "baseline_trial" not in plain["units"]
    mle, guidance, corrected = plan["baselines"]
    # two rounds of 2,000 real images and as many fakes: 8,000, evaluated each 1,000
    assert (mle["trained_images"], mle["generated_images"]) == (8000, 8 * 50 + 80)
    assert mle["network_evaluations"] == 3 * 8000 + (8 * 50 + 80) * 35
    assert guidance["network_evaluations"] == 2 * 130 * 70
    assert corrected["network_evaluations"] == 2 * 3 * 1000 + 130 * 70
    assert plan["units"] == confirmed["units"] | {
        "baseline_trial": 1,
        "baseline_evaluation": 4,
        "baseline_discriminator": 1,
    }
    more = sum(each["network_evaluations"] for each in plan["baselines"])
    assert plan["network_evaluations"] - confirmed["network_evaluations"] == more
    storage, before = plan["storage"], confirmed["storage"]
    assert storage["checkpoints"] - before["checkpoints"] == 8
    assert storage["state_bytes"] - before["state_bytes"] == 4 * 1000


def test_branch_has_baselines_only_if_given(shared_client, job) -> None:
    plain = shared_client.post(f"/jobs/{job}/branch", json={"rounds": 1})
    given = shared_client.post(f"/jobs/{job}/branch", json={"rounds": 1, "baselines": [{"kind": "mle", "kimg": 3.0}]})

    assert plain.json()["spec"]["baselines"] == []
    assert given.json()["spec"]["baselines"] == [{"kind": "mle", "kimg": 3.0}]


def test_branch_may_start_from_what_a_baseline_trained(shared_client, job) -> None:
    trained = baselines_of(shared_client, job)[0]["checkpoint_id"]
    made = shared_client.post(f"/jobs/{job}/branch", json={"from_checkpoint": trained}).json()
    assert made["parent"] == {"checkpoint_id": trained, "job_id": job, "round_index": 0}


def test_events_of_baselines_name_them(shared_client, job, shared_app) -> None:
    with shared_app.state.sessions() as session:
        told = session.scalars(select(Event).where(Event.job_id == job, Event.type == "baseline.evaluated")).all()
    assert {event.data.get("objective") for event in told} == {None, "mle"}
    assert {event.data.get("guidance_scale") for event in told} == {None, 1.5, 2.0}
    assert {event.data.get("discriminator_weight") for event in told} == {None, 1.0}
    assert sorted(event.data["baseline_index"] for event in told) == [0, 0, 0, 1, 1, 1, 1, 2, 2]
