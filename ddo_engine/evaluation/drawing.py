"""The samples of an evaluation, drawn by all processes of a run, in the order of their seeds."""

import time
from collections.abc import Callable

import torch

from ddo_engine.errors import Interrupted
from ddo_engine.evaluation.parts import PART_SECONDS, Outputs, Parts
from ddo_engine.parallel.ranks import Ranks
from ddo_engine.parallel.sharding import sharded_ahead


def draw(
    ranks: Ranks,
    seeds: range,
    batch_size: int,
    begin: Callable[[range], Callable[[], Outputs]],
    parts: Parts | None,
    on_progress: Callable[[int], None] | None = None,
    *,
    ahead: int = 0,
) -> Outputs:
    """Return the outputs of all samples where this process leads; else nothing.

    Args:
        ranks: All of them call.
        seeds: Of the samples.
        batch_size: Seeds in one call.
        begin: Draws the samples of a batch's seeds, and returns what waits for their outputs.
        parts: Where they are kept as they come, and taken from where they lie already; None, as in processes that do
            not lead: nowhere.
        on_progress: Called with the number of samples so far, first of those that lay there.
        ahead: How many batches a process draws before it waits for the outputs of one.

    Raises:
        EngineError: Of any process, in all. What was drawn before a stop is kept.
    """
    drawn = _Drawn(parts)
    with ranks.in_step():
        drawn.read()
    done = ranks.from_leader(drawn.count)
    if on_progress is not None:
        on_progress(done)
    batches = [seeds[first : first + batch_size] for first in range(done, len(seeds), batch_size)]
    try:
        # Batch by batch, so that only the outputs of samples are held.
        for outputs in sharded_ahead(ranks, batches, begin, ahead=ahead):
            drawn.add(outputs)
            if on_progress is not None:
                on_progress(drawn.count)
    except Interrupted:
        drawn.keep()
        raise
    return drawn.together()


class _Drawn:
    """Outputs so far, the last of them not yet in a part."""

    def __init__(self, parts: Parts | None) -> None:
        self.count = 0
        self._parts = parts
        self._outputs: list[Outputs] = []
        self._kept_count = 0
        self._kept_outputs = 0
        self._kept_at = time.monotonic()

    def read(self) -> None:
        """Take what lies in parts."""
        if self._parts is None:
            return
        for last, outputs in self._parts.read():
            self._outputs.append(outputs)
            self.count = last
        self._kept_count, self._kept_outputs = self.count, len(self._outputs)

    def add(self, outputs: Outputs) -> None:
        """Take what was drawn, and keep it if the last part is a while ago."""
        self._outputs.append(outputs)
        self.count += len(outputs["features"])
        if time.monotonic() - self._kept_at >= PART_SECONDS:
            self.keep()

    def keep(self) -> None:
        """Write what is in no part yet."""
        if self._parts is not None and self.count > self._kept_count:
            self._parts.write(self._kept_count, self.count, _joined(self._outputs[self._kept_outputs :]))
            self._kept_count, self._kept_outputs = self.count, len(self._outputs)
        self._kept_at = time.monotonic()

    def together(self) -> Outputs:
        return _joined(self._outputs)


def _joined(outputs: list[Outputs]) -> Outputs:
    return {name: torch.cat([each[name] for each in outputs]) for name in (outputs[0] if outputs else ())}
