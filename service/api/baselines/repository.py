"""All SQL about baselines."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from ddo_engine.spec import FileRole
from service.models import Artifact, Evaluation, WorkUnit
from service.statuses import UnitKind


@dataclass(frozen=True)
class BaselineRows:
    """What is shown of a job's baselines.

    Attributes:
        units: Of all baselines, in order of baseline, then of their making.
        evaluations: What those units have measured, in order.
        of_base: What round 0 has measured of the base.
        discriminators: Ids of stored ones, by the unit that trained them.
    """

    units: Sequence[WorkUnit]
    evaluations: Sequence[Evaluation]
    of_base: Sequence[Evaluation]
    discriminators: dict[str, str]


def load_baselines(session: Session, job_id: str) -> BaselineRows:
    """Return the units of a job's baselines and their numbers."""
    units = select(WorkUnit).where(WorkUnit.job_id == job_id, WorkUnit.baseline_index.is_not(None))
    numbers = select(Evaluation).join(WorkUnit, WorkUnit.id == Evaluation.unit_id).where(Evaluation.job_id == job_id)
    numbers = numbers.order_by(WorkUnit.created_at, WorkUnit.position, Evaluation.kimg, Evaluation.id)
    stored = (
        select(Artifact)
        .join(WorkUnit, WorkUnit.id == Artifact.unit_id)
        .where(WorkUnit.job_id == job_id, Artifact.role == FileRole.DISCRIMINATOR)
    )
    return BaselineRows(
        units=session.scalars(
            units.order_by(WorkUnit.baseline_index, WorkUnit.created_at, WorkUnit.position, WorkUnit.id)
        ).all(),
        evaluations=session.scalars(numbers.where(WorkUnit.baseline_index.is_not(None))).all(),
        discriminators={row.unit_id: row.id for row in session.scalars(stored)},
        of_base=session.scalars(numbers.where(WorkUnit.kind == UnitKind.BASELINE)).all(),
    )
