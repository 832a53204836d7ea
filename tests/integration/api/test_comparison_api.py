"""Checkpoints of several jobs beside one another: ranked under one protocol, refused under two."""

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from service.models import Evaluation
from tests.job_rows import RowWorker

ROUND_1 = {0: (4.0, 3.5), 1: (4.5, 3.8)}


def fid(_index: int, position: int, kimg: float, num_samples: int) -> float:
    found = 5.0 if position < 0 else ROUND_1[position][max(int(kimg) - 1, 0)]
    return found + (0.0 if num_samples == 50 else 0.01)


@pytest.fixture
def best_of(client: httpx.Client, inputs, sessions: sessionmaker[Session]):
    """From changes of the body to a job's best checkpoint, and its base."""

    def best_of(shift: float = 0.0, **changes: object) -> tuple[str, str]:
        body = inputs.complete_body() | {"rounds": 1, "evaluation": {"num_samples": 50}} | changes
        job_id = client.post("/jobs", json=body).json()["id"]
        RowWorker(sessions, lambda *place: fid(*place) + shift).run()
        listed = client.get(f"/jobs/{job_id}/checkpoints").json()["data"]
        return listed[0]["id"], next(each["id"] for each in listed if each["round_index"] == 0)

    return best_of


def compare(client: httpx.Client, *ids: str, **params: str) -> httpx.Response:
    return client.get("/comparison", params={"of": list(ids), **params})


def test_comparison_ranks_checkpoints_of_several_jobs_under_one_protocol(client, best_of) -> None:
    (first, base), (second, _) = best_of(), best_of(shift=-1.0)
    found = compare(client, base, first, second).json()
    assert [(each["rank"], each["value"], each["checkpoint_id"]) for each in found["data"]] == [
        (1, 2.5, second),
        (2, 3.5, first),
        (3, 5.0, base),
    ]
    assert (found["metric"], found["lower_is_better"]) == ("fid", True)
    assert found["protocol"]["num_samples"] == 50
    assert {each["evaluation"]["fingerprint"] for each in found["data"]} == {found["fingerprint"]}
    best, _, last = found["data"]
    assert (best["round_index"], best["trial_index"], best["alpha"], best["kimg"]) == (1, 0, 2.0, 2.0)
    assert (last["round_index"], last["trial_index"], last["alpha"]) == (0, None, None)


def test_comparison_of_two_protocols_is_refused_and_says_which_parts_differ(client, best_of) -> None:
    (first, _), (second, _) = best_of(), best_of(evaluation={"num_samples": 80}, sampler={"num_steps": 9})
    answer = compare(client, first, second)
    assert answer.status_code == 409
    problem = answer.json()
    assert problem["code"] == "protocols_differ"
    assert problem["differences"] == [
        {"param": "num_samples", "values": {first: 50, second: 80}},
        {"param": "sampler.num_steps", "values": {first: 18, second: 9}},
    ]
    assert "num_samples is 50 against 80; sampler.num_steps is 18 against 9" in problem["detail"]


def test_comparison_of_jobs_that_confirm_takes_the_numbers_of_the_most_samples(client, best_of) -> None:
    confirm = {"num_samples": 80, "finalists": 2}
    (first, _), (second, _) = best_of(confirm=confirm), best_of(confirm=confirm, shift=1.0)
    found = compare(client, second, first).json()
    assert found["protocol"]["num_samples"] == 80
    assert [each["value"] for each in found["data"]] == [3.51, 4.51]
    (third, _) = best_of()
    assert compare(client, first, third).json()["protocol"]["num_samples"] == 50


def test_comparison_of_evaluations_is_of_just_these(client, best_of) -> None:
    (first, _), (second, _) = best_of(confirm={"num_samples": 80, "finalists": 2}), best_of()
    mine = client.get("/comparison", params={"of": [first, second]}).json()
    numbers = {each["checkpoint_id"]: each["evaluation"]["evaluation_id"] for each in mine["data"]}
    assert compare(client, *numbers.values()).json()["data"] == mine["data"]
    job_id = mine["data"][0]["job_id"]
    listed = client.get(f"/jobs/{job_id}/checkpoints").json()["data"]
    (confirmed,) = [each for each in listed[0]["evaluations"] if each["num_samples"] == 80]
    answer = compare(client, confirmed["evaluation_id"], numbers[second])
    parts = {part["param"]: list(part["values"].values()) for part in answer.json()["differences"]}
    assert parts.keys() == {"num_samples", "seed"}
    assert parts["num_samples"] == [80, 50]


def test_comparison_equal_values_share_a_rank(client, best_of) -> None:
    (first, base), (second, other_base) = best_of(), best_of()
    found = compare(client, base, first, second, other_base).json()
    assert [each["rank"] for each in found["data"]] == [1, 1, 3, 3]


def test_comparison_by_another_metric_has_its_own_order(client, best_of, sessions) -> None:
    (first, base), (second, _) = best_of(), best_of()
    assert compare(client, first, second, metric="recall").json()["code"] == "metric_not_measured"
    with sessions.begin() as session:
        for recall, checkpoint_id in ((0.4, first), (0.6, second), (0.5, base)):
            row = session.query(Evaluation).filter_by(checkpoint_id=checkpoint_id).first()
            row.metrics = row.metrics | {"recall": recall}
    found = compare(client, first, second, base, metric="recall").json()
    assert [each["checkpoint_id"] for each in found["data"]] == [second, base, first]
    assert found["lower_is_better"] is False
    answer = compare(client, first, second, metric="beauty")
    assert (answer.status_code, answer.json()["param"]) == (422, "metric")


def test_comparison_of_what_is_not_there_says_which(client, other_client, best_of, inputs) -> None:
    first, base = best_of()
    answer = compare(client, first, "ckpt_none")
    assert (answer.status_code, answer.json()["param"]) == (404, "of[1]")
    assert compare(other_client, first, base).status_code == 404
    for ids, param in (((first,), "of"), ((first, base, first), "of[2]")):
        answer = compare(client, *ids)
        assert (answer.status_code, answer.json()["param"]) == (422, param)
    assert compare(client, first, "a\0b").status_code == 404
