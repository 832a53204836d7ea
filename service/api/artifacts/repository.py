"""All SQL about files beside the checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from ddo_engine.spec import FileRole
from service.api.problems import NotFound
from service.models import Artifact, Job, Round, WorkUnit

# Reference sets are large and can be drawn again; these cannot be had otherwise.
_DOWNLOADABLE = (FileRole.SNAPSHOT, FileRole.DISCRIMINATOR, FileRole.SAMPLES)


@dataclass(frozen=True)
class ArtifactRow:
    """A file and the unit that wrote it."""

    artifact: Artifact
    unit: WorkUnit
    round_index: int


def list_snapshots(session: Session, unit_id: str) -> Sequence[Artifact]:
    """Return the averages that a trial has written, by length and then by training."""
    rows = session.scalars(select(Artifact).where(Artifact.unit_id == unit_id, Artifact.role == FileRole.SNAPSHOT))
    return sorted(rows, key=lambda row: (row.info["provenance"]["ema_std"], row.info["provenance"]["kimg"]))


def find_artifact(session: Session, tenant_id: str, artifact_id: str) -> ArtifactRow:
    """Return the tenant's file.

    Raises:
        NotFound: There is none of that id to be downloaded, or it is another tenant's.
    """
    query = (
        select(Artifact, WorkUnit, Round.round_index)
        .join(WorkUnit, WorkUnit.id == Artifact.unit_id)
        .join(Job, Job.id == WorkUnit.job_id)
        .join(Round, Round.id == WorkUnit.round_id)
        .where(Artifact.id == artifact_id, Artifact.role.in_(_DOWNLOADABLE), Job.tenant_id == tenant_id)
    )
    # Postgres takes no NUL in a parameter
    found = None if "\0" in artifact_id else session.execute(query).one_or_none()
    if found is None:
        raise NotFound("There is no such file; a trial's snapshots, a job's baselines and its evaluations name them.")
    return ArtifactRow(*found)
