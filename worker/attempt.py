"""One attempt at one unit, from claim to end: fetch, run the engine, store what it says, report how it ended.

This thread only watches and decides; transfers happen in tasks that it can leave behind. So nothing that hangs keeps
it from stopping the engine in time.
"""

import time
from enum import Enum, auto
from pathlib import Path
from typing import Any

import structlog

from ddo_engine.spec import UnitSpec, ValidateSpec
from service.job_view import JobInputs
from service.leases import Claim
from worker.command import engine_command, engine_environment
from worker.context import WorkerContext
from worker.ending import Ending, engine_ending, task_ending, write_ending
from worker.engine_process import EngineProcess
from worker.folders import attempt_folder
from worker.inputs import fetch_inputs
from worker.lease import Lease
from worker.sink import Sink
from worker.task import Task
from worker.validation import store_inputs

_LOOK_SECONDS = 0.05
_CANCEL_GRACE_SECONDS = 2.0
# What is left of a lease that cannot be renewed, as a share of its length, when the engine is asked to stop and when
# it is killed: by then nobody else can have claimed the unit.
_ASK_SHARE, _KILL_SHARE = 0.4, 0.1

_log = structlog.get_logger(__name__)


class Stop(Enum):
    """Why an attempt must end before the engine does; handed back: the worker stops, or the unit gives way."""

    LOST = auto()
    CANCELLED = auto()
    LEASE_ENDS = auto()
    HANDED_BACK = auto()


def run_attempt(context: WorkerContext, claim: Claim, claimed_at: float) -> None:
    """Do one claimed unit and write how it ended.

    Args:
        context: The worker's.
        claim: What to do.
        claimed_at: ``time.monotonic()`` before the claim was requested.
    """
    name = f"{claim.unit_id}-{claim.attempt}"
    with Lease(context, claim, claimed_at) as lease:
        try:
            with attempt_folder(context.settings.work_folder, name) as folder:
                ending = _Attempt(context, claim, lease, folder).run()
        except Exception as error:  # noqa: BLE001  (a full disk, or a defect of ours: the unit must not stay claimed)
            ending = task_ending(error)
        _log.info("attempt_ended", how=ending.how, code=(ending.error or {}).get("code"))
        write_ending(context, claim, ending)


class _Attempt:
    def __init__(self, context: WorkerContext, claim: Claim, lease: Lease, folder: Path) -> None:
        self._context = context
        self._claim = claim
        self._lease = lease
        self._workdir, self._inputs, self._links = (folder / name for name in ("work", "inputs", "links"))
        self._spec_file, self._log_file, self._temporary = folder / "spec.json", folder / "engine.log", folder / "tmp"
        for made in (self._workdir, self._inputs, self._links, self._temporary):
            made.mkdir()

    def run(self) -> Ending:
        """Do the unit as far as it can be done."""
        fetching = Task[UnitSpec](lambda task: fetch_inputs(self._context, self._claim, self._inputs, task))
        if (stop := self._wait_for(fetching)) is not None:
            return _stopped(stop)
        if fetching.error is not None:
            return task_ending(fetching.error)
        spec = fetching.result()
        self._spec_file.write_text(spec.model_dump_json())
        sink = Sink(self._context, self._claim, self._workdir, self._links)
        ending = self._run_engine(sink)
        if ending.how == "finished" and isinstance(spec, ValidateSpec):
            return self._keep_inputs(spec, sink)
        return ending

    def _run_engine(self, sink: Sink) -> Ending:
        settings = self._context.settings
        cache = self._context.cache_folder_of(settings) / "engine"
        engine = EngineProcess(
            engine_command(settings, self._claim.kind, self._spec_file, self._workdir, cache),
            folder=self._workdir,
            environment=engine_environment(settings, self._temporary),
            log=self._log_file,
            on_line=sink.hear,
        )
        try:
            stop, stalled = self._watch(engine, sink)
        finally:
            status = engine.close()
            sink.close()
        if stop not in (Stop.LOST, Stop.CANCELLED):
            # what was said before the end still counts, the training state above all
            stop = self._wait_for(sink.task, grace_seconds=settings.grace_seconds) or stop
        if stop in (Stop.LOST, Stop.CANCELLED) or not sink.task.wait(0):
            sink.task.abandon()
            assert stop is not None
            return _stopped(stop)
        if sink.task.error is not None:
            return task_ending(sink.task.error)
        return engine_ending(
            status,
            finished=sink.finished,
            failed=sink.failed,
            asked_to_stop=stop is not None,
            stalled=stalled,
            log_tail=engine.log_tail,
        )

    def _watch(self, engine: EngineProcess, sink: Sink) -> tuple[Stop | None, bool]:
        """Wait for the engine to end, and end it if it must.

        Returns:
            Why it had to end, and whether it had fallen silent.
        """
        settings = self._context.settings
        graces = {
            Stop.LOST: 0.0,
            Stop.CANCELLED: _CANCEL_GRACE_SECONDS,
            Stop.HANDED_BACK: settings.grace_seconds,
            Stop.LEASE_ENDS: settings.lease_seconds,
        }
        stop: Stop | None = None
        kill_at = float("inf")
        while not engine.has_ended():
            stalled = engine.silent_seconds > settings.stall_seconds
            if stalled or (sink.task.wait(0) and sink.task.error is not None):
                engine.kill()
                return stop, stalled
            reason = self._reason_to_stop(_ASK_SHARE)
            if reason is not None and reason is not stop and (stop is None or reason in (Stop.LOST, Stop.CANCELLED)):
                stop = reason
                kill_at = min(kill_at, time.monotonic() + graces[reason])
                _log.info("engine_stopping", reason=reason.name.lower())
                engine.terminate()
            if time.monotonic() >= kill_at or self._lease_left() < _KILL_SHARE:
                engine.kill()
            time.sleep(_LOOK_SECONDS)
        return stop, False

    def _wait_for(self, task: Task[Any], grace_seconds: float = 0.0) -> Stop | None:
        """Wait until a task is done, or until there is a reason to abandon it; hand back only after a grace."""
        hand_back_at: float | None = None
        while not task.wait(_LOOK_SECONDS):
            reason = self._reason_to_stop(_KILL_SHARE)
            if reason is Stop.HANDED_BACK:
                hand_back_at = hand_back_at or time.monotonic() + grace_seconds
                if time.monotonic() < hand_back_at:
                    continue
            if reason is not None:
                task.abandon()
                return reason
        return None

    def _reason_to_stop(self, share: float) -> Stop | None:
        if self._lease.is_lost:
            return Stop.LOST
        if self._lease.cancel_requested:
            return Stop.CANCELLED
        if self._lease_left() < share:
            return Stop.LEASE_ENDS
        return Stop.HANDED_BACK if self._context.draining.is_set() or self._lease.gives_way else None

    def _lease_left(self) -> float:
        return self._lease.seconds_left / self._context.settings.lease_seconds

    def _keep_inputs(self, spec: ValidateSpec, sink: Sink) -> Ending:
        report = sink.report
        if report is None:
            return Ending("crashed", {"code": "engine_error", "message": "the engine reported nothing"})
        storing = Task[JobInputs](lambda task: store_inputs(self._context, self._claim, spec, report, task))
        if (stop := self._wait_for(storing)) is not None:
            return _stopped(stop)
        if storing.error is not None:
            return task_ending(storing.error)
        return Ending("finished", report=report, inputs=storing.result())


def _stopped(stop: Stop) -> Ending:
    if stop is Stop.LOST:
        return Ending("gone")
    return Ending("cancelled" if stop is Stop.CANCELLED else "released")
