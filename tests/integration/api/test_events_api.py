"""The event log, in pages and as a stream."""

import threading
import time

import httpx
import pytest

from service.lifecycle import lock_job
from service.transitions import add_event
from tests.job_rows import RowWorker


@pytest.fixture
def job(client, inputs) -> str:
    return client.post("/jobs", json=inputs.complete_body()).json()["id"]


def parse(text: str) -> list[dict[str, str]]:
    """Split a stream into events; comments (pings) are left out."""
    events = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if fields:
            events.append(fields)
    return events


def test_events_page_in_order(client, job, sessions) -> None:
    RowWorker(sessions, lambda index, position, kimg, samples: 10 - index - kimg / 10 - position / 100).run()
    everything = client.get(f"/jobs/{job}/events", params={"limit": 1000}).json()
    ids = [event["id"] for event in everything["data"]]
    assert ids == sorted(set(ids))
    assert everything["data"][0]["type"] == "job.validating"
    assert everything["data"][-1]["type"] == "job.succeeded"
    paged, after = [], None
    while True:
        page = client.get(f"/jobs/{job}/events", params={"limit": 7} | ({"after": after} if after else {})).json()
        paged += page["data"]
        after = page["next_after"]
        if not page["has_more"]:
            break
    assert paged == everything["data"]


def test_event_stream_of_a_finished_job_tells_all_and_ends(client, job, sessions) -> None:
    client.post(f"/jobs/{job}/cancel")
    logged = client.get(f"/jobs/{job}/events").json()["data"]
    answer = client.get(f"/jobs/{job}/events", headers={"Accept": "text/event-stream"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    streamed = parse(answer.text)
    assert [(int(event["id"]), event["event"]) for event in streamed] == [
        (event["id"], event["type"]) for event in logged
    ]

    resumed = client.get(
        f"/jobs/{job}/events", headers={"Accept": "text/event-stream", "Last-Event-ID": streamed[1]["id"]}
    )
    assert parse(resumed.text) == streamed[2:]


def test_event_stream_follows_a_job_live_until_it_ends(client, job, sessions) -> None:
    seen: list[tuple[float, str]] = []

    def follow() -> None:
        with client.stream("GET", f"/jobs/{job}/events", headers={"Accept": "text/event-stream"}) as answer:
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    seen.append((time.monotonic(), line.removeprefix("event: ")))

    reader = threading.Thread(target=follow)
    reader.start()
    time.sleep(1.2)
    with sessions.begin() as session:
        lock_job(session, job)
        add_event(session, job, "unit.told", text="hello")
    told_at = time.monotonic()
    deadline = time.monotonic() + 10
    while not any(type_ == "unit.told" for _, type_ in seen) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert next(at for at, type_ in seen if type_ == "unit.told") - told_at < 5
    assert reader.is_alive()
    client.post(f"/jobs/{job}/cancel")
    reader.join(timeout=10)
    assert not reader.is_alive()
    assert seen[-1][1] == "job.cancelled"


@pytest.mark.parametrize("header", ["x", "-1", "9" * 30])
def test_event_stream_with_a_bad_last_id_is_a_problem(client, job, header) -> None:
    answer = client.get(f"/jobs/{job}/events", headers={"Accept": "text/event-stream", "Last-Event-ID": header})
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")


def test_event_stream_of_another_tenants_job_is_not_found(other_client: httpx.Client, job) -> None:
    answer = other_client.get(f"/jobs/{job}/events", headers={"Accept": "text/event-stream"})
    assert answer.status_code == 404
