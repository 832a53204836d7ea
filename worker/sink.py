"""Where an engine's events go: files to the store, everything else to the database, in the order they were said."""

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog
from pydantic import ValidationError
from sqlalchemy.orm import Session

from ddo_engine.spec import (
    ENGINE_EVENT,
    BetaFound,
    EngineEvent,
    Evaluated,
    Failed,
    FileRef,
    FileRole,
    FileWritten,
    Finished,
    Metric,
    Performance,
    Progress,
    Report,
    Started,
    TrainingWarning,
)
from service.keys import attempt_prefix, key_of, object_file
from service.leases import Claim
from service.reports import (
    known_checkpoint,
    record_artifact,
    record_beta,
    record_checkpoint,
    record_evaluation,
    record_metric,
    record_performance,
    record_progress,
    record_started,
    record_state,
    record_warning,
)
from service.storage import StorageError
from worker.context import WorkerContext
from worker.digest import sha256_of
from worker.folders import hold
from worker.retry import until_stored
from worker.task import Task

_LONGEST_LINE_SHOWN = 300
_PROGRESS_SECONDS = 1.0

EventT = TypeVar("EventT")

_log = structlog.get_logger(__name__)


class ProtocolError(Exception):
    """The engine said something that the contract does not allow."""


@dataclass(frozen=True)
class _Said:
    """One event, and for a file a link to its bytes as they were when it was announced."""

    event: EngineEvent
    link: Path | None = None


class Sink:
    """Takes the engine's lines as fast as they come, and stores what they say in a task of its own.

    Attributes:
        finished: The engine said that it did all it was told.
        failed: Its error, if it said one.
        report: Its report, if it said one.
    """

    def __init__(self, context: WorkerContext, claim: Claim, workdir: Path, links: Path) -> None:
        """Begin storing.

        Args:
            context: The worker's.
            claim: Whose attempt it is.
            workdir: The engine's folder; files outside it are refused.
            links: Exists, on the same file system; holds files until they are uploaded.
        """
        self.finished = False
        self.failed: Failed | None = None
        self.report: Report | None = None
        self._context = context
        self._claim = claim
        self._workdir = workdir.resolve()
        self._links = links
        self._said: queue.SimpleQueue[_Said | Exception | None] = queue.SimpleQueue()
        self._num_files = 0
        self._newest_state: Path | None = None
        self._progress_at = 0.0
        self.task: Task[None] = Task(self._store_all)

    def hear(self, line: bytes) -> None:
        """Take one line of the engine's standard output."""
        try:
            self._said.put(self._understood(line))
        except (ProtocolError, OSError) as error:
            self._said.put(error)

    def close(self) -> None:
        """Nothing more will be said; the task ends once everything is stored."""
        self._said.put(None)

    def _understood(self, line: bytes) -> _Said:
        try:
            event = ENGINE_EVENT.validate_json(line)
        except ValidationError as error:
            shown = line[:_LONGEST_LINE_SHOWN].decode(errors="replace")
            raise ProtocolError(f"the engine said what is not an event: {shown!r}") from error
        if isinstance(event, Report):
            converted = {network: self._described(file) for network, file in event.converted.items()}
            return _Said(event.model_copy(update={"converted": converted}))
        if not isinstance(event, FileWritten):
            return _Said(event)
        path = self._inside(event.path)
        # a training state keeps its name, and the next one takes its place while this one is uploaded
        link = self._links / f"{self._num_files}{path.suffix}"
        self._num_files += 1
        hold(path, link)
        if event.role is FileRole.STATE:
            self._newest_state = link
        return _Said(event, link)

    def _inside(self, path: str) -> Path:
        try:
            resolved = (self._workdir / path).resolve()
        except (RuntimeError, ValueError) as error:  # a loop of links, or a NUL
            raise ProtocolError(f"the engine named a file that cannot be: {path!r}") from error
        if not resolved.is_relative_to(self._workdir):
            raise ProtocolError(f"the engine named a file outside its folder: {path!r}")
        return resolved

    def _described(self, file: FileRef) -> FileRef:
        """Return a reported file by its absolute path: it is read in another working folder than the engine's."""
        if file.path is None or file.sha256 is None or file.size_bytes is None:
            raise ProtocolError("the engine reported a file without its path, SHA-256 or size")
        return file.model_copy(update={"path": str(self._inside(file.path))})

    def _store_all(self, task: Task[None]) -> None:
        while (said := self._said.get()) is not None:
            task.check()
            if isinstance(said, Exception):
                raise said
            if self.finished or self.failed is not None:
                raise ProtocolError(f"the engine said {said.event.type!r} after its last event")
            try:
                self._store(said, task)
            finally:
                if said.link is not None:
                    said.link.unlink(missing_ok=True)

    def _store(self, said: _Said, task: Task[None]) -> None:
        event = said.event
        match event:
            case Progress():
                self._store_progress(event, task)
            case Started():
                self._transact(record_started, event, task)
            case Metric():
                self._transact(record_metric, event, task)
            case Performance():
                self._transact(record_performance, event, task)
            case BetaFound():
                self._transact(record_beta, event, task)
            case TrainingWarning():
                self._transact(record_warning, event, task)
            case Evaluated():
                self._transact(record_evaluation, event, task)
            case FileWritten():
                assert said.link is not None
                self._store_file(event, said.link, task)
            case Report():
                self.report = event
            case Failed():
                self.failed = event
            case Finished():
                self.finished = True

    def _store_progress(self, event: Progress, task: Task[None]) -> None:
        now = time.monotonic()
        if event.done < event.total and now - self._progress_at < _PROGRESS_SECONDS:
            return
        self._progress_at = now
        self._transact(record_progress, event, task)

    def _store_file(self, event: FileWritten, link: Path, task: Task[None]) -> None:
        if event.role is FileRole.STATE and link != self._newest_state:
            return  # a newer one waits already, and what came between them is replayed to the same numbers
        if sha256_of(link) != event.sha256:
            if event.role is FileRole.STATE:
                _log.info("state_superseded", kimg=event.kimg)
                return
            raise ProtocolError(f"{Path(event.path).name} has other bytes than the engine said")
        if event.role is FileRole.CHECKPOINT and self._is_known(event, task):
            return
        key = self._key(event, link)
        until_stored(lambda: self._context.store.put_file(key, link, sha256=event.sha256), task.is_abandoned)
        task.check()
        match event.role:
            case FileRole.CHECKPOINT:
                self._context.transact(
                    lambda session: record_checkpoint(session, self._claim, event, key), task.is_abandoned
                )
            case FileRole.STATE:
                self._replace_state(event, key, task)
            case FileRole.REFERENCE_SET | FileRole.SNAPSHOT | FileRole.DISCRIMINATOR | FileRole.SAMPLES:
                self._context.transact(
                    lambda session: record_artifact(session, self._claim, event, key), task.is_abandoned
                )

    def _is_known(self, event: FileWritten, task: Task[None]) -> bool:
        """A resumed trial announces checkpoints again that it wrote before."""
        known = self._context.transact(
            lambda session: known_checkpoint(session, self._claim, event.kimg or 0.0), task.is_abandoned
        )
        return known is not None and known.sha256 == event.sha256

    def _replace_state(self, event: FileWritten, key: str, task: Task[None]) -> None:
        file = object_file(key, sha256=event.sha256, size_bytes=event.size_bytes)
        previous = self._context.transact(
            lambda session: record_state(session, self._claim, event, file), task.is_abandoned
        )
        if previous is not None:
            try:
                self._context.store.delete(key_of(previous))
            except StorageError as error:  # no row names it any more; the collector takes it later
                _log.info("old_state_not_deleted", error=str(error))

    def _key(self, event: FileWritten, link: Path) -> str:
        claim = self._claim
        place = (claim.round_index or 0, claim.kind, claim.position, claim.attempt, claim.baseline_index)
        at = "" if event.kimg is None else f"-{event.kimg:.3f}"
        prefix = attempt_prefix(claim.tenant_id, claim.job_id, *place)
        return f"{prefix}/{event.role}{at}-{event.sha256[:16]}{link.suffix}"

    def _transact(self, record: Callable[[Session, Claim, EventT], None], event: EventT, task: Task[None]) -> None:
        self._context.transact(lambda session: record(session, self._claim, event), task.is_abandoned)
