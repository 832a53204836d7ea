"""Metrics over guidance scales: what is shown, and what ranks."""

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from service.models import Job
from tests.job_rows import RowWorker

SCALES = [2.0, 0.5]
CONFIRM = {"num_samples": 80, "finalists": 2}
# at the sampler's scale of 1: of the base, then of round 1's trials at 1 and 2 kimg
FIDS = {-1: (5.0,), 0: (4.0, 3.5), 1: (4.5, 3.8)}


def fid(index: int, position: int, kimg: float, num_samples: int) -> float:
    return FIDS[position][max(int(kimg) - 1, 0)] + (0.0 if num_samples == 50 else 0.01)


def at_scale(fid: float, scale: float) -> float:
    """What is worst without guidance is best at 2."""
    return fid if scale == 1 else 6.5 - fid + (0.0 if scale == 2 else 1.0)


@pytest.fixture
def submit(client: httpx.Client, inputs, sessions: sessionmaker[Session]):
    def submit(rank_by: str = "sampler_scale", **changes: object) -> str:
        evaluation = {"num_samples": 50, "guidance_scales": SCALES, "rank_by": rank_by}
        body = inputs.complete_body() | {"rounds": 1, "evaluation": evaluation} | changes
        job_id: str = client.post("/jobs", json=body).json()["id"]
        RowWorker(sessions, fid, at_scale).run()
        return job_id

    return submit


def points(curve: dict) -> list[tuple[float, float]]:
    return [(point["guidance_scale"], round(point["fid"], 2)) for point in curve["points"]]


def test_guidance_curve_shows_base_and_winners_at_every_scale(client, submit) -> None:
    job_id = submit()
    path = client.get(f"/jobs/{job_id}").json()["links"]["guidance_curve"]
    found = client.get(path).json()

    base, first = found.pop("curves")
    assert found == {
        "scale_is": "w in D_guide + w (D - D_guide); 1 asks for no guidance, and the guide is not evaluated.",
        "unguided_scale": 1.0,
        "sampler_scale": 1.0,
        "rank_by": "sampler_scale",
        "num_samples": 50,
    }
    assert points(base) == [(0.5, 2.5), (1.0, 5.0), (2.0, 1.5)]
    assert points(first) == [(0.5, 4.0), (1.0, 3.5), (2.0, 3.0)]
    assert (base["round_index"], base["trial_index"], base["best"]["guidance_scale"]) == (0, None, 2.0)
    assert (first["trial_index"], first["alpha"], first["kimg"], first["best"]["fid"]) == (0, 2.0, 2.0, 3.0)
    assert len({point["fingerprint"] for curve in (base, first) for point in curve["points"]}) == 3


def test_guidance_curve_is_by_the_protocol_that_ranks(client, submit) -> None:
    found = client.get(f"/jobs/{submit(confirm=CONFIRM)}/guidance-curve").json()
    assert found["num_samples"] == 80
    assert points(found["curves"][1]) == [(0.5, 3.99), (1.0, 3.51), (2.0, 2.99)]


def test_guidance_curve_of_a_job_with_one_scale_is_a_point(client, submit) -> None:
    job_id = submit(evaluation={"num_samples": 50})
    curves = client.get(f"/jobs/{job_id}/guidance-curve").json()["curves"]
    assert [points(curve) for curve in curves] == [[(1.0, 5.0)], [(1.0, 3.5)]]
    _, first = client.get(f"/jobs/{job_id}/rounds").json()["data"]
    assert (first["winner"]["curve"], first["trials"][0]["curve"]) == (None, None)


def test_guidance_curve_says_what_the_scale_of_a_var_is(client, inputs) -> None:
    online = {"sampler": {"kind": "autoregressive"}, "reference_set": {"kind": "online"}}
    job_id = client.post("/jobs", json=inputs.complete_body() | online).json()["id"]
    found = client.get(f"/jobs/{job_id}/guidance-curve").json()
    assert found["scale_is"].startswith("s: at scale k of K the logits are (1 + t) cond - t uncond")
    assert (found["unguided_scale"], found["curves"]) == (0.0, [])


def test_guidance_curve_of_another_tenants_job_is_not_found(submit, other_client) -> None:
    assert other_client.get(f"/jobs/{submit()}/guidance-curve").status_code == 404


@pytest.mark.parametrize("confirm", [None, CONFIRM])
def test_rank_by_the_samplers_scale_looks_at_no_other(client, submit, sessions, confirm) -> None:
    job_id = submit(confirm=confirm)
    base, first = client.get(f"/jobs/{job_id}/rounds").json()["data"]
    job = client.get(f"/jobs/{job_id}").json()
    extra = 0.0 if confirm is None else 0.01
    assert (base["best_fid"], first["best_fid"], job["best_fid"]) == (5.0 + extra, 3.5 + extra, 3.5 + extra)
    assert [(trial["best_fid"], trial["best_kimg"]) for trial in first["trials"]] == [(3.5, 2.0), (3.8, 2.0)]
    assert first["winner"]["trial_index"] == 0
    _agrees_with_the_planner(client, sessions, job_id)


@pytest.mark.parametrize("confirm", [None, CONFIRM])
def test_rank_by_the_best_scale_takes_the_lowest_of_each_curve(client, submit, sessions, confirm) -> None:
    """The base's is 1.5, which no trial beats: theirs are 2.5 and 3 of the first, 2 and 2.7 of the second."""
    job_id = submit("best_scale", confirm=confirm)
    base, first = client.get(f"/jobs/{job_id}/rounds").json()["data"]
    job = client.get(f"/jobs/{job_id}").json()
    extra = 0.0 if confirm is None else -0.01
    assert (base["best_fid"], first["best_fid"]) == pytest.approx((1.5 + extra, 2.0 + extra))
    assert [(trial["best_fid"], trial["best_kimg"]) for trial in first["trials"]] == [(2.5, 1.0), (2.0, 1.0)]
    assert [trial["curve"]["best"]["guidance_scale"] for trial in first["trials"]] == [2.0, 2.0]
    assert first["winner"]["trial_index"] == 1
    assert first["winner"]["measured"]["guidance_scale"] == 2.0
    assert (job["termination_reason"], job["improvement_percent"]) == ("no_improvement", 0.0)
    _agrees_with_the_planner(client, sessions, job_id)


def _agrees_with_the_planner(client, sessions, job_id: str) -> None:
    with sessions() as session:
        decided = session.get_one(Job, job_id).best_checkpoint_id
    best = client.get(f"/jobs/{job_id}/best").json()
    assert best["id"] == decided or (decided is None and best["round_index"] == 0)


def test_every_place_that_shows_an_evaluation_says_its_scale(client, submit) -> None:
    job_id = submit(confirm=CONFIRM)
    metrics = client.get(f"/jobs/{job_id}/rounds/1/trials/0/metrics").json()
    expected = [(kimg, scale) for kimg in (1.0, 2.0) for scale in (1.0, 2.0, 0.5)]
    assert sorted((row["kimg"], row["guidance_scale"]) for row in metrics["evaluations"]) == sorted(expected)
    best = client.get(f"/jobs/{job_id}/best").json()
    found = [(row["num_samples"], row["guidance_scale"]) for row in best["evaluations"]]
    assert found == [(samples, scale) for samples in (50, 80) for scale in (1.0, 2.0, 0.5)]
    events = client.get(f"/jobs/{job_id}/events?limit=1000").json()["data"]
    told = [event["data"].get("guidance_scale") for event in events if event["type"] == "trial.evaluated"]
    assert told == [None, 2.0, 0.5] * 4


def test_trained_baseline_counts_by_the_scales_that_rank(client, submit) -> None:
    baselines = [{"kind": "mle"}, {"kind": "guidance", "scales": [3.0]}]
    for rank_by, fids in (("sampler_scale", (3.5, 3.51)), ("best_scale", (2.5, 2.49))):
        job_id = submit(rank_by, baselines=baselines, confirm=CONFIRM)
        mle, guidance = client.get(f"/jobs/{job_id}/baselines").json()["data"]
        assert (mle["best"]["fid"], round(mle["confirmed"]["fid"], 2)) == fids
        assert all(row["differs"] == [] for row in mle["evaluations"] if row["kimg"] == 1.0)
        assert [row["guidance_scale"] for row in guidance["evaluations"]] == [3.0, 3.0]
        assert {each["field"] for each in guidance["best"]["differs"]} == {
            "sampler.guidance_scale",
            "sampler.guide_sees_labels",
        }


@pytest.mark.parametrize(
    ("evaluation", "param"),
    [
        ({"guidance_scales": [1.5, 1.5]}, "evaluation.guidance_scales"),
        ({"guidance_scales": [2.0, 1.0]}, "evaluation.guidance_scales[1]"),
        ({"guidance_scales": [-1.0]}, "evaluation.guidance_scales[0]"),
        ({"rank_by": "best_scale"}, "evaluation"),
        ({"rank_by": "worst"}, "evaluation.rank_by"),
    ],
)
def test_bad_scales_are_refused_by_name(shared_client, shared_inputs, evaluation, param) -> None:
    answer = shared_client.post(
        "/jobs", json=shared_inputs.complete_body() | {"evaluation": {"num_samples": 50} | evaluation}
    )
    assert (answer.status_code, answer.json()["errors"][0]["param"]) == (422, param)


def test_dry_run_counts_every_scale(shared_client, shared_inputs) -> None:
    def plan(**evaluation: object) -> int:
        body = shared_inputs.complete_body() | {"evaluation": {"num_samples": 50} | evaluation}
        found: int = shared_client.post("/jobs?dry_run=true", json=body).json()["network_evaluations"]
        return found

    evaluations = 1 + 2 * 2 * 2  # of the base; two rounds, two trials, two evaluations each
    assert plan(guidance_scales=[2.0]) - plan() == evaluations * 50 * 2 * 35
