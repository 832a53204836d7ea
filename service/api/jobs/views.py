"""From rows to what clients see of a job."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Any

from sqlalchemy.orm import Session

from ddo_engine.spec import JobSpec
from service.api.jobs import repository
from service.api.jobs.estimate import estimate, unit_cost
from service.api.jobs.operations import InputSizes
from service.api.jobs.repository import ParentRow, RunningRow, Standing
from service.api.jobs.schemas import (
    BaselinePlan,
    JobDetail,
    JobLinks,
    JobPlan,
    JobSummary,
    PhasePlan,
    Progress,
    RunningUnit,
    StorageEstimate,
)
from service.models import Job
from service.statuses import JobStatus, UnitKind


def summary(job: Job, standing: Standing, parent: ParentRow | None) -> JobSummary:
    """Return a job as a list shows it."""
    return JobSummary.model_validate(_shared(job, standing, parent))


def detail(session: Session, job: Job) -> JobDetail:
    """Return a job with its spec and progress."""
    standing = repository.standings(session, [job.id])[job.id]
    shared = _shared(job, standing, repository.parents(session, [job]).get(job.id))
    return _detail(job, shared, _progress(session, job))


def fresh(job: Job) -> JobDetail:
    """Return a job that was created this moment from files: nothing can have happened yet, so nothing is asked."""
    planned = sum(estimate(JobSpec.model_validate(job.spec), checkpoint_bytes=0).units.values())
    progress = Progress(fraction=0.0, units_done=0, units_planned=planned, running=[])
    return _detail(job, _shared(job, Standing(), None), progress)


def _detail(job: Job, shared: Mapping[str, Any], progress: Progress) -> JobDetail:
    links = JobLinks(**{name: f"/jobs/{job.id}/{name.replace('_', '-')}" for name in JobLinks.model_fields})
    return JobDetail.model_validate({**shared, "spec": job.spec, "progress": progress, "links": links})


def plan(spec: JobSpec, sizes: InputSizes) -> JobPlan:
    """Return what a dry run answers."""
    size = estimate(spec, checkpoint_bytes=sizes.base_checkpoint)
    return JobPlan(
        spec=spec.model_dump(mode="json"),
        units={UnitKind(kind): count for kind, count in size.units.items()},
        trials=size.trials,
        trained_images=size.trained_images,
        generated_images=size.generated_images,
        network_evaluations=size.network_evaluations,
        storage=StorageEstimate(
            checkpoints=size.checkpoints,
            checkpoint_bytes=size.checkpoint_bytes,
            snapshot_bytes=size.snapshot_bytes,
            state_bytes=size.state_bytes,
            input_bytes=sizes.total,
            total_bytes=size.checkpoint_bytes + size.snapshot_bytes + size.state_bytes + sizes.total,
        ),
        phases=[
            PhasePlan(
                first_round=phase.first_round,
                last_round=phase.last_round,
                training=phase.settings.training,
                grid=phase.settings.grid,
                units={UnitKind(kind): count for kind, count in phase.units.items()},
                trained_images=phase.trained_images,
                generated_images=phase.generated_images,
                network_evaluations=phase.network_evaluations,
            )
            for phase in size.phases
        ],
        baselines=[
            BaselinePlan(
                baseline_index=index,
                kind=each.kind,
                units={UnitKind(kind): count for kind, count in each.units.items()},
                trained_images=each.trained_images,
                generated_images=each.generated_images,
                network_evaluations=each.network_evaluations,
            )
            for index, each in enumerate(size.baselines)
        ],
    )


def _shared(job: Job, standing: Standing, parent: ParentRow | None) -> dict[str, Any]:
    base, best = standing.base_fid, standing.best_fid
    improvement = 100 * (base - best) / base if base and best is not None else None
    return {
        "id": job.id,
        "name": job.spec.get("name"),
        "preset": job.spec.get("preset"),
        "parent": None if parent is None else asdict(parent),
        "status": job.status,
        "termination_reason": job.termination_reason,
        "termination_message": job.termination_message,
        "error": job.error,
        "base_fid": base,
        "best_fid": best,
        "best_checkpoint_id": standing.best_checkpoint_id,
        "improvement_percent": improvement,
        "rounds_completed": standing.rounds_completed,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
    }


def _progress(session: Session, job: Job) -> Progress:
    spec = JobSpec.model_validate(job.spec)
    whole = estimate(spec, checkpoint_bytes=0)
    succeeded = repository.succeeded_units(session, job.id)
    running = repository.running_units(session, job.id)

    @cache
    def cost(kind: str, round_index: int | None, baseline_index: int | None) -> float:
        if baseline_index is not None:
            return whole.baselines[baseline_index].unit_costs[kind]
        return unit_cost(spec, round_index or 1).of(kind)

    done = sum(count * cost(*place) for place, count in succeeded.items())
    for row in running:
        done += _share_done(row) * cost(row.unit.kind, row.round_index, row.unit.baseline_index)
    fraction = 1.0 if job.status == JobStatus.SUCCEEDED else min(done / whole.network_evaluations, 1.0)
    return Progress(
        fraction=fraction,
        units_done=sum(succeeded.values()),
        units_planned=sum(whole.units.values()),
        running=[_running(row) for row in running],
    )


def _share_done(row: RunningRow) -> float:
    told = row.unit.progress or {}
    share = told["done"] / told["total"] if told.get("total") else 0.0
    if row.unit.kind in (UnitKind.TRIAL, UnitKind.BASELINE_TRIAL) and told.get("phase") != "training":
        # its evaluations count from zero each; the saved state tells how far the whole trial is
        share = (row.unit.state_kimg or 0.0) / row.unit.spec["training"]["kimg"]
    return min(share, 1.0)


def _running(row: RunningRow) -> RunningUnit:
    told = row.unit.progress or {}
    return RunningUnit(
        baseline_index=row.unit.baseline_index,
        unit_id=row.unit.id,
        kind=UnitKind(row.unit.kind),
        round_index=row.round_index,
        position=row.unit.position,
        phase=told.get("phase"),
        done=told.get("done"),
        total=told.get("total"),
        unit=told.get("unit"),
        images_per_second=told.get("images_per_second"),
    )
