"""What every command is given: stop requests of several processes."""

import io
from pathlib import Path

import pytest
import torch

from ddo_engine.errors import Interrupted
from ddo_engine.events import EventWriter
from ddo_engine.interruption import StopRequest
from ddo_engine.parallel.ranks import Ranks
from ddo_engine.run_context import RunContext


class Meeting(Ranks):
    """Two processes; while they meet, this one is asked to stop, too late for this meeting."""

    def any(self, flag: bool) -> bool:
        stop.requested = True
        return flag


stop = StopRequest()


def test_request_that_comes_while_the_processes_meet_stops_all_at_the_next_meeting() -> None:
    context = RunContext(Path(), torch.device("cpu"), EventWriter(io.StringIO()), stop, None, Meeting(0, 2))
    context.check_stop()  # nobody else would stop here
    with pytest.raises(Interrupted):
        context.check_stop()
