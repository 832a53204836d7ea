"""The event stream."""

import io
import json

from ddo_engine.events import EventWriter, ProgressReporter
from ddo_engine.spec import ENGINE_EVENT, Finished, Metric


def progress_counts(updates, total):
    """Return the counts that were sent, for updates given as (seconds, count)."""
    stream, now = io.StringIO(), [0.0]
    reporter = ProgressReporter(EventWriter(stream), "training", total, clock=lambda: now[0])
    for seconds, done in updates:
        now[0] = seconds
        reporter.update(done)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_events_are_lines_that_parse_back():
    stream = io.StringIO()
    seen = []
    writer = EventWriter(stream, seen.append)
    events = [Metric(step=1, kimg=0.5, values={"loss": 0.1 + 0.2}), Finished()]
    for event in events:
        writer.emit(event)
    lines = stream.getvalue().splitlines()
    assert [ENGINE_EVENT.validate_json(line) for line in lines] == events == seen


def test_event_is_flushed_at_once():
    class Unflushed(io.StringIO):
        flushed = ""

        def flush(self):
            self.flushed = self.getvalue()

    stream = Unflushed()
    EventWriter(stream).emit(Finished())
    assert stream.flushed.endswith("}\n")


def test_progress_sends_first_and_last_and_at_most_one_a_second():
    updates = [(0.0, 0), (0.4, 1), (0.99, 2), (1.0, 3), (1.9, 4), (2.0, 5), (2.1, 10)]
    events = progress_counts(updates, total=10)
    assert [event["done"] for event in events] == [0, 3, 5, 10]
    assert {event["total"] for event in events} == {10}


def test_progress_sends_the_last_count_once():
    assert [event["done"] for event in progress_counts([(0, 0), (5, 10), (9, 10)], total=10)] == [0, 10]


def test_progress_rate_counts_from_where_this_process_started():
    events = progress_counts([(10.0, 600), (12.0, 800)], total=1000)
    assert events[0]["images_per_second"] is None
    assert events[1]["images_per_second"] == 100.0
