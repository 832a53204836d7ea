"""Snapshots of a trial and a baseline's discriminator: listed where they come from, signed, and nobody else's."""

import pytest

from ddo_engine.spec import FileRole, FileWritten
from service.models import Artifact
from service.reports import record_artifact
from service.statuses import UnitKind
from tests.job_rows import RowWorker, sha256

CORRECTED = {"kind": "discriminator_guidance", "training": {"kimg": 1.0, "batch_size": 10, "learning_rate": 1e-3}}


@pytest.fixture
def job(client, inputs, sessions) -> str:
    """A job whose first trial wrote two averages at two points, the longer average first."""
    body = inputs.complete_body() | {"rounds": 1, "baselines": [CORRECTED]}
    job_id = client.post("/jobs", json=body).json()["id"]
    worker = RowWorker(sessions, lambda *_: 1.0)
    while (claimed := worker.claim()) is not None:
        if claimed.kind is UnitKind.TRIAL and claimed.position == 0:
            with sessions.begin() as session:
                for std, kimg in ((0.2, 1.0), (0.1, 1.0), (0.2, 2.0), (0.1, 2.0)):
                    name = f"snapshot-{std:g}-{kimg:.3f}.safetensors"
                    told = {"provenance": {"ema_std": std, "kimg": kimg, "images": 1000 * kimg}}
                    event = FileWritten(role=FileRole.SNAPSHOT, path=name, sha256=sha256(name), size_bytes=7, info=told)
                    record_artifact(session, claimed, event, f"t/{name}")
        worker.do(claimed)
    return job_id


def test_snapshots_of_a_trial_are_listed_by_length_and_signed(client, job) -> None:
    found = client.get(f"/jobs/{job}/rounds/1/trials/0/snapshots").json()["data"]
    assert [(each["ema_std"], each["kimg"]) for each in found] == [(0.1, 1.0), (0.1, 2.0), (0.2, 1.0), (0.2, 2.0)]
    signed = client.post(f"/artifacts/{found[1]['id']}/download", json={}).json()
    assert signed["filename"] == f"{job}-round1-trial0-snapshot-0.1-2.000.safetensors"
    assert (signed["sha256"], signed["size_bytes"]) == (found[1]["sha256"], 7)
    assert client.get(f"/jobs/{job}/rounds/1/trials/1/snapshots").json()["data"] == []
    assert client.get(f"/jobs/{job}/rounds/1/trials/9/snapshots").status_code == 404


def test_discriminator_of_a_baseline_is_named_and_signed(client, job) -> None:
    (baseline,) = client.get(f"/jobs/{job}/baselines").json()["data"]
    signed = client.post(f"/artifacts/{baseline['discriminator_id']}/download").json()
    assert signed["filename"] == f"{job}-baseline0-discriminator.safetensors"


def test_files_of_others_reference_sets_and_nonsense_are_not_found(client, other_client, job, sessions) -> None:
    with sessions() as session:
        reference_set = session.query(Artifact).filter_by(role=FileRole.REFERENCE_SET).first().id
        snapshot = session.query(Artifact).filter_by(role=FileRole.SNAPSHOT).first().id
    assert client.post(f"/artifacts/{snapshot}/download").status_code == 200
    for asked, artifact_id in ((other_client, snapshot), (client, reference_set), (client, "art_0"), (client, "a%00b")):
        answer = asked.post(f"/artifacts/{artifact_id}/download")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert other_client.get(f"/jobs/{job}/rounds/1/trials/0/snapshots").status_code == 404
    assert client.post(f"/artifacts/{snapshot}/download", json={"expires_in_seconds": 0}).status_code == 422
