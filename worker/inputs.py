"""Brings the files that a unit reads to this machine."""

from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import structlog

from ddo_engine.spec import DiscriminatorSpec, FileRef, TrainSpec, UnitSpec, ValidateSpec, map_files
from service.keys import key_of, plain_suffix
from service.leases import Claim
from service.reports import drop_state
from service.sources import InputUnavailable, SourceError
from service.storage import ObjectNotFound
from worker.cache import DamagedFileError
from worker.context import WorkerContext
from worker.digest import sha256_of
from worker.retry import until_stored
from worker.task import Task

_log = structlog.get_logger(__name__)

_CODES = {
    "checkpoint": "invalid_checkpoint",
    "autoencoder": "invalid_checkpoint",
    "guide": "invalid_checkpoint",
    "baseline_guide": "invalid_checkpoint",
    "dataset": "invalid_dataset",
    "feature_network": "invalid_feature_network",
    "reference_statistics": "invalid_dataset",
}


class InputRefusedError(Exception):
    """A file that the job names cannot be used, and no further attempt will change that."""

    def __init__(self, code: str, message: str, param: str) -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message, "param": param}


def fetch_inputs(context: WorkerContext, claim: Claim, folder: Path, task: Task[Any]) -> UnitSpec:
    """Return the claim's spec with every file lying below ``folder``, verified.

    Args:
        context: The worker's.
        claim: What to fetch for.
        folder: Exists; private to the attempt.
        task: Whether anybody still waits for the result.

    Raises:
        InputRefusedError: An input of the job is missing, too large or not allowed.
        StorageError: A file cannot be had now.
        DamagedFileError: A transfer brought other bytes.
    """
    if isinstance(claim.spec, ValidateSpec):
        return _fetch_from_outside(context, claim.spec, folder, task)
    fetched: dict[str, FileRef] = {}

    def fetch(file: FileRef) -> FileRef:
        assert file.uri is not None
        if file.uri not in fetched:
            fetched[file.uri] = _fetch_stored(context, file, folder / f"{len(fetched)}{_suffix(file)}", task)
        return fetched[file.uri]

    spec = map_files(claim.spec, fetch)
    if isinstance(spec, TrainSpec | DiscriminatorSpec) and claim.state is not None:
        state = _fetch_state(context, claim, claim.state, folder, task)
        spec = spec.model_copy(update={"state": state})
    return spec


def _fetch_from_outside(context: WorkerContext, spec: ValidateSpec, folder: Path, task: Task[Any]) -> ValidateSpec:
    files: dict[str, FileRef] = {}
    for field, code in _CODES.items():
        file: FileRef | None = getattr(spec, field)
        if file is None:
            continue
        assert file.uri is not None
        path = folder / f"{field}{_suffix(file)}"
        if file.sha256 is not None:  # another job's checkpoint: not outside, but in our store
            files[field] = _fetch_stored(context, file, path, task)
            continue
        try:
            copied = context.sources.fetch(file.uri, path)
        except InputUnavailable:
            raise
        except SourceError as error:
            raise InputRefusedError(code, str(error), field) from error
        task.check()
        context.cache.add(copied.sha256, path)
        files[field] = file.model_copy(
            update={"path": str(path), "sha256": copied.sha256, "size_bytes": copied.size_bytes}
        )
    return spec.model_copy(update=files)


def _fetch_stored(context: WorkerContext, file: FileRef, path: Path, task: Task[Any]) -> FileRef:
    assert file.sha256 is not None

    def download(to: Path) -> None:
        until_stored(lambda: context.store.get_file(key_of(file), to), task.is_abandoned)

    context.cache.get(file.sha256, path, download)
    task.check()
    return file.model_copy(update={"path": str(path)})


def _fetch_state(context: WorkerContext, claim: Claim, state: FileRef, folder: Path, task: Task[Any]) -> FileRef | None:
    """Fetch the training state past the cache: nobody reads it twice."""
    path = folder / f"state{_suffix(state)}"
    try:
        until_stored(lambda: context.store.get_file(key_of(state), path), task.is_abandoned)
        if sha256_of(path) != state.sha256:
            raise DamagedFileError("the stored training state has other bytes than were saved")
    except (ObjectNotFound, DamagedFileError) as error:
        message = str(error)
        _log.warning("state_dropped", error=message)
        context.transact(lambda session: drop_state(session, claim, message), task.is_abandoned)
        return None
    return state.model_copy(update={"path": str(path)})


def _suffix(file: FileRef) -> str:
    """The file name's extension, if it is a plain one: people look at it, and a long one is no name on this disk."""
    return plain_suffix(PurePosixPath(urlsplit(file.uri or "").path).suffix.lower())
