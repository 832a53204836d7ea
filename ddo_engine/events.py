"""The event stream: one JSON object per line, flushed at once. Imports no torch."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO

from ddo_engine.spec import EngineEvent, Progress

MIN_PROGRESS_INTERVAL_SECONDS = 1.0


def terminal_view() -> Callable[[EngineEvent], None] | None:
    """Return what shows events to people, on standard error; None where that is no terminal."""
    if not sys.stderr.isatty():
        return None
    from ddo_engine.terminal import TerminalView  # noqa: PLC0415  (only people need it)

    return TerminalView()


class EventWriter:
    """Writes events to a stream, and shows each to a listener (the terminal's view, a test)."""

    def __init__(self, stream: TextIO, listener: Callable[[EngineEvent], None] | None = None) -> None:
        self._stream = stream
        self._listener = listener

    def emit(self, event: EngineEvent) -> None:
        """Write one event.

        Raises:
            BrokenPipeError: Nobody reads any more.
        """
        self._stream.write(event.model_dump_json() + "\n")
        self._stream.flush()
        if self._listener is not None:
            self._listener(event)


@dataclass
class ProgressReporter:
    """Reports how far one phase is: its first and its last count always, others at most once a second.

    Attributes:
        events: Where to.
        phase: What is being done, e.g. ``"training"``.
        total: Count at the end of the phase.
        unit: What is counted.
        clock: Seconds, monotonic.
    """

    events: EventWriter
    phase: str
    total: int
    unit: str = "images"
    clock: Callable[[], float] = time.monotonic
    _first: tuple[float, int] | None = field(default=None, init=False)
    _sent: tuple[float, int] = field(default=(0.0, -1), init=False)

    def update(self, done: int) -> None:
        """Tell that ``done`` of ``total`` are done."""
        now = self.clock()
        if self._first is None:
            self._first = (now, done)
        elif done == self._sent[1] or (done < self.total and now - self._sent[0] < MIN_PROGRESS_INTERVAL_SECONDS):
            return
        self._sent = (now, done)
        started, first_done = self._first
        rate = (done - first_done) / (now - started) if now > started and done > first_done else None
        self.events.emit(
            Progress(phase=self.phase, done=done, total=self.total, unit=self.unit, images_per_second=rate)
        )

    def after(self, done: int) -> Callable[[int], None]:
        """Return what reports a part of the phase that starts when ``done`` are done."""
        return lambda of_part: self.update(done + of_part)
