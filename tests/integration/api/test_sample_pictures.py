"""Pictures of samples: named beside the numbers that they belong to, wherever these are shown, and signed."""

import pytest

from tests.job_rows import RowWorker


@pytest.fixture
def job(client, inputs, sessions) -> str:
    """A job of one round, measured at two guidance scales, with a confirmed winner."""
    body = inputs.complete_body() | {"rounds": 1, "sampler": {"guidance_scale": 2.0, "guide_sees_labels": False}}
    body |= {"confirm": {"num_samples": 99}, "baselines": [{"kind": "mle"}]}
    body["evaluation"] = body["evaluation"] | {"guidance_scales": [3.0]}
    job_id: str = client.post("/jobs", json=body).json()["id"]
    RowWorker(sessions, lambda round_, *_: 2.0 - round_, pictures=True).run()
    return job_id


def test_numbers_at_the_sampler_s_scale_name_their_picture_in_every_view(client, job) -> None:
    checkpoints = client.get(f"/jobs/{job}/checkpoints").json()["data"]
    numbers = [number for checkpoint in checkpoints for number in checkpoint["evaluations"]]
    assert {number["guidance_scale"]: number["samples_id"] is None for number in numbers} == {2.0: False, 3.0: True}
    pictures = [number["samples_id"] for number in numbers if number["samples_id"]]
    assert len(set(pictures)) == len(pictures)
    base, last = client.get(f"/jobs/{job}/rounds").json()["data"]
    best = client.get(f"/jobs/{job}/best").json()
    (of_trial,) = [
        found for found in best["evaluations"] if found["evaluation_id"] == last["trials"][0]["best"]["evaluation_id"]
    ]
    assert of_trial["samples_id"] == last["trials"][0]["best"]["samples_id"]
    shown = (base["winner"]["measured"], last["winner"]["measured"], last["trials"][0]["best"])
    assert all(number["samples_id"] in pictures for number in shown)
    events = client.get(f"/jobs/{job}/events?limit=1000").json()["data"]
    assert not [event for event in events if event["type"] == "samples.created"]
    told = [event["data"]["samples_id"] for event in events if "samples_id" in event["data"]]
    assert set(told) >= set(pictures)


def test_picture_is_signed_under_a_name_that_says_whose_it_is(client, other_client, job) -> None:
    base, last = client.get(f"/jobs/{job}/rounds").json()["data"]
    (baseline,) = client.get(f"/jobs/{job}/baselines").json()["data"]
    for number, name in (
        (base["winner"]["measured"], "round0-baseline0-samples-0.000-"),
        (last["trials"][0]["best"], f"round1-trial0-samples-{last['trials'][0]['best']['kimg']:.3f}-"),
        (last["winner"]["measured"], "round1-confirm0-samples-0.000-"),
        (baseline["best"], "baseline0-samples-"),
    ):
        signed = client.post(f"/artifacts/{number['samples_id']}/download").json()
        assert signed["filename"].startswith(f"{job}-{name}")
        assert signed["filename"].endswith(f"-{number['fingerprint'][:8]}.png")
        assert other_client.post(f"/artifacts/{number['samples_id']}/download").status_code == 404
