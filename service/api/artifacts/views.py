"""From rows to what clients see of files beside the checkpoints."""

from service.api.artifacts import schemas
from service.api.artifacts.repository import ArtifactRow
from service.models import Artifact


def snapshot(row: Artifact) -> schemas.Snapshot:
    """Return one average of a trial."""
    told = row.info["provenance"]
    return schemas.Snapshot(
        id=row.id,
        name=row.name,
        ema_std=told["ema_std"],
        kimg=told["kimg"],
        sha256=row.sha256,
        size_bytes=row.size_bytes,
        created_at=row.created_at,
    )


def filename(row: ArtifactRow) -> str:
    """Return a name under which the download makes sense in a folder of many."""
    unit, name = row.unit, row.artifact.name or f"{row.artifact.role}.safetensors"
    if unit.baseline_index is not None:
        return f"{unit.job_id}-baseline{unit.baseline_index}-{name}"
    return f"{unit.job_id}-round{row.round_index}-{unit.kind}{unit.position}-{name}"
