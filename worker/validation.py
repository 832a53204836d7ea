"""Keeps the inputs that an engine has found good, so that the job no longer depends on where they came from."""

from pathlib import Path
from typing import Literal

import structlog

from ddo_engine.spec import FileRef, Report, ValidateSpec
from service.job_view import JobInputs
from service.keys import input_key, object_file
from service.leases import Claim
from service.storage import ObjectDiffers
from worker.context import WorkerContext
from worker.retry import until_stored
from worker.task import Task

_log = structlog.get_logger(__name__)


def store_inputs(
    context: WorkerContext, claim: Claim, spec: ValidateSpec, report: Report, task: Task[JobInputs]
) -> JobInputs:
    """Upload the fetched inputs under their SHA-256; what is there already is fine, unless it was damaged there.

    Args:
        context: The worker's.
        claim: Of the unit that checked them.
        spec: With local paths, digests and sizes.
        report: What the engine found them to be.
        task: Whether anybody still waits for the result.

    Raises:
        StorageError: The store cannot be reached.
    """

    def store_optional(field: Literal["autoencoder", "guide", "baseline_guide"]) -> FileRef | None:
        file = report.converted.get(field, getattr(spec, field))
        return None if file is None else store(file)

    def store(file: FileRef) -> FileRef:
        assert file.path is not None
        assert file.sha256 is not None
        assert file.size_bytes is not None
        path, sha256 = Path(file.path), file.sha256
        key = input_key(claim.tenant_id, sha256, path.suffix)
        try:
            until_stored(lambda: context.store.put_file(key, path, sha256=sha256), task.is_abandoned)
        except ObjectDiffers:
            # The key is the hash of what it should hold. Left as it is, it would fail every job with this input.
            task.check()
            _log.warning("damaged_input_replaced", key=key)
            until_stored(lambda: context.store.delete(key), task.is_abandoned)
            until_stored(lambda: context.store.put_file(key, path, sha256=sha256), task.is_abandoned)
        task.check()
        return object_file(key, sha256=sha256, size_bytes=file.size_bytes)

    return JobInputs(
        checkpoint=store(report.converted.get("checkpoint", spec.checkpoint)),
        autoencoder=store_optional("autoencoder"),
        guide=store_optional("guide"),
        baseline_guide=store_optional("baseline_guide"),
        dataset=store(spec.dataset),
        reference_statistics=None if spec.reference_statistics is None else store(spec.reference_statistics),
        feature_network=store(report.converted.get("feature_network", spec.feature_network)),
        checkpoint_info=report.checkpoint,
        dataset_info=report.dataset,
    )
