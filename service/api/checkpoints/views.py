"""From rows to what clients see of checkpoints."""

from collections.abc import Mapping, Sequence

from service.api.checkpoints import schemas
from service.api.checkpoints.repository import CheckpointRow
from service.api.measured import measured
from service.api.rounds.views import cell_of
from service.models import Evaluation


def checkpoint(
    row: CheckpointRow, evaluations: Mapping[str, Sequence[Evaluation]], lineages: Mapping[str, Sequence[str]]
) -> schemas.Checkpoint:
    """Return one checkpoint with its numbers and its lineage."""
    stored, trial = row.checkpoint, row.trial
    return schemas.Checkpoint(
        id=stored.id,
        job_id=stored.job_id,
        round_index=row.round_index,
        **cell_of(trial),
        baseline_index=row.baseline_index,
        kimg=stored.kimg,
        rank=row.rank,
        fid=row.fid,
        evaluations=[measured(item, kimg=stored.kimg) for item in evaluations.get(stored.id, ())],
        lineage=list(lineages[stored.id]),
        sha256=stored.sha256,
        size_bytes=stored.size_bytes,
        created_at=stored.created_at,
    )


def filename(row: CheckpointRow) -> str:
    """Return a name under which the download makes sense in a folder of many."""
    job_id, kimg = row.checkpoint.job_id, f"{row.checkpoint.kimg:g}kimg"
    if row.baseline_index is not None:
        return f"{job_id}-baseline{row.baseline_index}-{kimg}.safetensors"
    if row.trial is None:
        return f"{job_id}-base.safetensors"
    return f"{job_id}-round{row.round_index}-trial{row.trial.trial_index}-{kimg}.safetensors"
