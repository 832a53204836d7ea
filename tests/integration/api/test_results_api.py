"""What a job found: rounds, trials, curves, checkpoints, the best one, its download."""

from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from ddo_engine.spec import BetaFound, Metric, TrainingWarning
from service.models import Checkpoint, Evaluation
from service.reports import record_beta, record_metric, record_warning
from service.statuses import UnitKind
from tests.job_rows import RowWorker, sha256

# by round: of the base, then of (trial 0 at 1 and 2 kimg, trial 1 at 1 and 2 kimg)
SEARCH = {0: 5.0, 1: (4.0, 3.0, 3.5, 3.6), 2: (2.5, 2.9, 2.0, 2.2)}
# the larger evaluation turns the order of round 1's finalists round, and finds the base worse than the search did
CONFIRM = {0: 6.0, 1: (4.4, 4.4, 4.0, 4.2), 2: (3.5, 3.5, 3.0, 3.0)}


def fid(index: int, position: int, kimg: float, num_samples: int) -> float:
    table = SEARCH if num_samples == 50 else CONFIRM
    return table[0] if position < 0 else table[index][2 * position + int(kimg) - 1]


@pytest.fixture
def job(client: httpx.Client, inputs, sessions: sessionmaker[Session]) -> str:
    """A finished job of two rounds, two trials each, two finalists confirmed on more samples."""
    body = inputs.complete_body() | {"confirm": {"num_samples": 80, "finalists": 2}}
    job_id = client.post("/jobs", json=body).json()["id"]
    RowWorker(sessions, fid).run()
    return job_id


def test_finished_job_is_judged_by_the_confirm_protocol(client, job) -> None:
    found = client.get(f"/jobs/{job}").json()
    assert (found["status"], found["termination_reason"]) == ("succeeded", "completed")
    assert (found["base_fid"], found["best_fid"], found["improvement_percent"]) == (6.0, 3.0, 50.0)
    assert found["rounds_completed"] == 2
    listed = client.get("/jobs").json()["data"][0]
    assert listed == {name: value for name, value in found.items() if name not in ("spec", "progress", "links")}


def test_job_without_confirm_is_judged_by_the_search_protocol(client, inputs, sessions) -> None:
    job_id = client.post("/jobs", json=inputs.complete_body()).json()["id"]
    RowWorker(sessions, fid).run()
    found = client.get(f"/jobs/{job_id}").json()
    assert (found["base_fid"], found["best_fid"], found["improvement_percent"]) == (5.0, 2.0, 60.0)


def test_ended_job_says_why_in_a_sentence(client, job) -> None:
    found = client.get(f"/jobs/{job}").json()
    assert found["termination_message"] == "All 2 rounds done: the FID has come to 3."
    last = client.get(f"/jobs/{job}/events?limit=1000").json()["data"][-1]
    assert last["type"] == "job.succeeded"
    assert last["data"] == {"termination_reason": "completed", "termination_message": found["termination_message"]}


def test_rounds_show_the_settings_that_their_trials_had(client, inputs, sessions) -> None:
    later = {"from_round": 2, "training": {"P_std": 3.0}, "grid": {"alpha": [1.0, 3.0], "beta": [0.1]}}
    body = inputs.complete_body() | {"round_overrides": [later]}
    job_id = client.post("/jobs", json=body).json()["id"]
    done = RowWorker(sessions, fid).run()

    rounds = client.get(f"/jobs/{job_id}/rounds").json()["data"]

    assert [item["settings"] and item["settings"]["training"]["P_std"] for item in rounds] == [None, 1.2, 3.0]
    assert rounds[1]["settings"]["grid"] == {"alpha": [2.0, 4.0], "beta": [0.5]}
    assert rounds[2]["settings"]["grid"] == later["grid"]
    assert [(trial["alpha"], trial["beta"]) for trial in rounds[2]["trials"]] == [(1.0, 0.1), (3.0, 0.1)]
    assert [unit.spec.training.P_std for unit in done if unit.kind is UnitKind.TRIAL] == [1.2, 1.2, 3.0, 3.0]
    assert client.get(f"/jobs/{job_id}/rounds/2").json() == rounds[2]
    assert client.get(f"/jobs/{job_id}").json()["progress"]["fraction"] == 1.0


def test_best_agrees_with_the_planner(client, job, sessions) -> None:
    from service.models import Job

    with sessions() as session:
        decided = session.get_one(Job, job).best_checkpoint_id
    assert client.get(f"/jobs/{job}").json()["best_checkpoint_id"] == decided
    assert client.get(f"/jobs/{job}/best").json()["id"] == decided


def test_best_is_the_base_where_nothing_beats_it(client, inputs, sessions) -> None:
    job_id = client.post("/jobs", json=inputs.complete_body()).json()["id"]
    RowWorker(sessions, lambda index, position, kimg, samples: 5.0 if position < 0 else 5.0 + kimg).run()
    found = client.get(f"/jobs/{job_id}").json()
    assert (found["status"], found["termination_reason"]) == ("succeeded", "no_improvement")
    assert (found["best_fid"], found["improvement_percent"]) == (5.0, 0.0)
    best = client.get(f"/jobs/{job_id}/best").json()
    assert (best["round_index"], best["trial_index"], best["lineage"]) == (0, None, [best["id"]])


def test_best_before_anything_is_measured_is_not_found(client, inputs) -> None:
    job_id = client.post("/jobs", json=inputs.body()).json()["id"]
    answer = client.get(f"/jobs/{job_id}/best")
    assert (answer.status_code, answer.json()["code"]) == (404, "nothing_measured_yet")
    assert client.get(f"/jobs/{job_id}/rounds").json()["data"] == []
    assert client.get(f"/jobs/{job_id}/checkpoints").json()["data"] == []


def test_evaluations_under_another_fingerprint_are_never_ranked(client, job, sessions) -> None:
    with sessions.begin() as session:
        checkpoint = session.scalars(select(Checkpoint).where(Checkpoint.unit_id.is_not(None))).first()
        session.add(
            Evaluation(
                job_id=job,
                unit_id=checkpoint.unit_id,
                checkpoint_id=checkpoint.id,
                kimg=checkpoint.kimg,
                fingerprint=sha256("another metrics version"),
                protocol={"num_samples": 80, "seed": 1_000_000, "sampler": {"guidance_scale": 1.0}},
                metrics={"fid": 0.001},
            )
        )
    assert client.get(f"/jobs/{job}").json()["best_fid"] == 3.0


def test_rounds_tell_the_chain(client, job) -> None:
    base, first, second = client.get(f"/jobs/{job}/rounds").json()["data"]
    assert [base["round_index"], base["status"], base["trials"]] == [0, "completed", []]
    assert (base["reference_checkpoint_id"], base["best_fid"]) == (None, 6.0)
    assert base["winner"]["trial_index"] is None

    assert first["reference_checkpoint_id"] == base["winner"]["checkpoint_id"]
    assert (first["reference_fid"], first["best_fid"]) == (6.0, 4.0)
    assert [(trial["alpha"], trial["beta"], trial["status"]) for trial in first["trials"]] == [
        (2.0, 0.5, "succeeded"),
        (4.0, 0.5, "succeeded"),
    ]
    assert [(trial["best_fid"], trial["best_kimg"]) for trial in first["trials"]] == [(3.0, 2.0), (3.5, 1.0)]
    # trial 0 was best in the search, trial 1 on the larger sample
    assert [(trial["confirmed"]["fid"], trial["confirmed"]["kimg"]) for trial in first["trials"]] == [
        (4.4, 2.0),
        (4.0, 1.0),
    ]
    winner = first["winner"]
    assert (winner["trial_index"], winner["alpha"], winner["beta"], winner["kimg"]) == (1, 4.0, 0.5, 1.0)
    assert winner["measured"]["num_samples"] == 80

    assert second["reference_checkpoint_id"] == winner["checkpoint_id"]
    assert (second["reference_fid"], second["best_fid"]) == (4.0, 3.0)
    assert client.get(f"/jobs/{job}/rounds/2").json() == second


def test_round_or_trial_that_is_not_there_is_not_found(client, job) -> None:
    for path in ("rounds/3", "rounds/0/trials/0/metrics", "rounds/1/trials/2/metrics"):
        answer = client.get(f"/jobs/{job}/{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_checkpoints_are_listed_best_first_with_lineage(client, job) -> None:
    listed = client.get(f"/jobs/{job}/checkpoints").json()["data"]
    assert [(item["rank"], item["fid"]) for item in listed[:5]] == [(1, 3.0), (2, 3.5), (3, 4.0), (4, 4.4), (5, 6.0)]
    assert [item["rank"] for item in listed[5:]] == [None] * 4
    best = listed[0]
    assert (best["round_index"], best["trial_index"], best["alpha"], best["kimg"]) == (2, 1, 4.0, 1.0)
    rounds = client.get(f"/jobs/{job}/rounds").json()["data"]
    assert best["lineage"] == [round_["winner"]["checkpoint_id"] for round_ in rounds]
    assert sorted((item["num_samples"], item["fid"], item["kimg"]) for item in best["evaluations"]) == [
        (50, 2.0, 1.0),
        (80, 3.0, 1.0),
    ]


def test_trial_with_auto_shows_what_was_found_and_what_was_warned_of(client, inputs, sessions) -> None:
    body = inputs.complete_body() | {"grid": {"alpha": [2.0], "beta": ["auto", 0.5]}}
    job_id = client.post("/jobs", json=body).json()["id"]
    warning = {"code": "discriminator_idle", "message": "raise beta", "step": 3, "kimg": 0.3}
    worker, before = RowWorker(sessions, fid), []
    while (claimed := worker.claim()) is not None:
        if claimed.kind is UnitKind.TRIAL and (claimed.round_index, claimed.position) == (1, 0):
            before = client.get(f"/jobs/{job_id}/rounds/1").json()["trials"]
            with sessions.begin() as session:
                record_beta(session, claimed, BetaFound(beta=0.25, ratio_std=4.0, num_steps=8))
                record_warning(session, claimed, TrainingWarning.model_validate(warning))
        worker.do(claimed)
    assert [(trial["beta"], trial["found_beta"], trial["warnings"]) for trial in before] == [
        ("auto", None, []),
        (0.5, None, []),
    ]
    round_ = client.get(f"/jobs/{job_id}/rounds/1").json()
    shown = [(trial["beta"], trial["found_beta"], trial["warnings"]) for trial in round_["trials"]]
    assert shown == [("auto", 0.25, [warning]), (0.5, None, [])]
    assert round_["winner"]["trial_index"] == 0
    assert round_["winner"]["beta"] == 0.25
    rows = client.get(f"/jobs/{job_id}/checkpoints").json()["data"]
    assert {row["beta"] for row in rows if (row["round_index"], row["trial_index"]) == (1, 0)} == {0.25}
    told = client.get(f"/jobs/{job_id}/events?limit=1000").json()["data"]
    assert [event["data"]["beta"] for event in told if event["type"] == "trial.beta_found"] == ["auto"]
    assert [event["data"]["code"] for event in told if event["type"] == "trial.warning"] == ["discriminator_idle"]


def test_trial_metrics_page_by_kimg(client, inputs, sessions) -> None:
    job_id = client.post("/jobs", json=inputs.complete_body()).json()["id"]
    worker = RowWorker(sessions, fid)
    while (claimed := worker.claim()) is not None:
        if claimed.kind is UnitKind.TRIAL and claimed.position == 0:
            with sessions.begin() as session:
                for step in range(1, 21):
                    record_metric(session, claimed, Metric(step=step, kimg=step / 10, values={"loss": 1 / step}))
        worker.do(claimed)
    path = f"/jobs/{job_id}/rounds/1/trials/0/metrics"
    whole = client.get(path).json()
    assert [point["step"] for point in whole["training"]] == list(range(1, 21))
    assert whole["training"][3] == {"step": 4, "kimg": 0.4, "values": {"loss": 0.25}}
    assert [(item["kimg"], item["fid"]) for item in whole["evaluations"]] == [(1.0, 4.0), (2.0, 3.0)]
    assert (whole["has_more"], whole["next_since_kimg"]) == (False, None)

    first = client.get(path, params={"limit": 10}).json()
    assert [point["step"] for point in first["training"]] == list(range(1, 11))
    assert [item["kimg"] for item in first["evaluations"]] == [1.0]
    rest = client.get(path, params={"limit": 10, "since_kimg": first["next_since_kimg"]}).json()
    assert [point["step"] for point in rest["training"]] == list(range(11, 21))
    assert [item["kimg"] for item in rest["evaluations"]] == [2.0]


def test_download_is_signed_with_what_is_needed_to_check_it(client, job) -> None:
    best = client.get(f"/jobs/{job}/best").json()
    answer = client.post(f"/checkpoints/{best['id']}/download", json={"expires_in_seconds": 60})
    assert answer.status_code == 200, answer.text
    download = answer.json()
    assert (download["sha256"], download["size_bytes"]) == (best["sha256"], best["size_bytes"])
    assert download["filename"] == f"{job}-round2-trial1-1kimg.safetensors"
    left = datetime.fromisoformat(download["expires_at"]) - datetime.now(UTC)
    assert timedelta(seconds=50) < left <= timedelta(seconds=60)
    default = client.post(f"/checkpoints/{best['id']}/download").json()
    assert datetime.fromisoformat(default["expires_at"]) - datetime.now(UTC) > timedelta(seconds=880)


@pytest.mark.parametrize("seconds", [0, -1, 901, "60", 1.5, True])
def test_download_with_a_bad_expiry_is_refused(client, job, seconds) -> None:
    best = client.get(f"/jobs/{job}/best").json()
    answer = client.post(f"/checkpoints/{best['id']}/download", json={"expires_in_seconds": seconds})
    assert (answer.status_code, answer.json()["param"]) == (422, "expires_in_seconds")


def test_download_of_another_tenants_checkpoint_is_not_found(client, other_client, job) -> None:
    best = client.get(f"/jobs/{job}/best").json()
    assert other_client.post(f"/checkpoints/{best['id']}/download").status_code == 404


def test_running_units_and_progress_are_shown(client, inputs, sessions) -> None:
    from ddo_engine.spec import Progress
    from service.reports import record_progress

    job_id = client.post("/jobs", json=inputs.complete_body()).json()["id"]
    worker = RowWorker(sessions, fid)
    before = 0.0
    while (claimed := worker.claim()) is not None:
        if claimed.kind is UnitKind.TRIAL:
            break
        worker.do(claimed)
        now = client.get(f"/jobs/{job_id}").json()["progress"]
        assert now["fraction"] >= before
        before = now["fraction"]
    assert before > 0
    with sessions.begin() as session:
        record_progress(session, claimed, Progress(phase="training", done=1000, total=2000, images_per_second=3.5))
    now = client.get(f"/jobs/{job_id}").json()["progress"]
    assert before < now["fraction"] < 1
    assert now["running"] == [
        {
            "unit_id": claimed.unit_id,
            "kind": "trial",
            "round_index": 1,
            "position": 0,
            "baseline_index": None,
            "phase": "training",
            "done": 1000,
            "total": 2000,
            "unit": "images",
            "images_per_second": 3.5,
        }
    ]
    trial = client.get(f"/jobs/{job_id}/rounds/1").json()["trials"][0]
    assert (trial["status"], trial["attempt"], trial["progress"]["done"]) == ("running", 1, 1000)
