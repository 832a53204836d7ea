"""``/jobs/{id}/rounds``: the round chain and the trials' curves."""

from typing import Annotated

from fastapi import APIRouter, Query

from ddo_engine.spec import JobSpec
from service.api.dependencies import CallerDep, Sessions
from service.api.jobs.repository import find_job
from service.api.measured import measured
from service.api.pages import JobId, Listed, RoundIndex, TrialIndex
from service.api.problems import NotFound, Unauthorized, Unprocessable, documented
from service.api.rounds import repository, views
from service.api.rounds.schemas import Round, TrainingPoint, TrialMetrics

router = APIRouter(prefix="/jobs/{job_id}/rounds", tags=["rounds"])


@router.get("", responses=documented(Unauthorized, NotFound))
def list_rounds(job_id: JobId, caller: CallerDep, sessions: Sessions) -> Listed[Round]:
    """List the rounds so far: reference, trials with alpha, beta, status and best FID, and the winner."""
    with sessions() as session:
        job = find_job(session, caller.tenant_id, job_id)
        return Listed(data=views.rounds(repository.load_chain(session, job_id), JobSpec.model_validate(job.spec)))


@router.get("/{round_index}", responses=documented(Unauthorized, NotFound, Unprocessable))
def read_round(job_id: JobId, round_index: RoundIndex, caller: CallerDep, sessions: Sessions) -> Round:
    """Read one round; round 0 is the base checkpoint."""
    with sessions() as session:
        job = find_job(session, caller.tenant_id, job_id)
        chain = repository.load_chain(session, job_id, round_index)
        return views.rounds(chain, JobSpec.model_validate(job.spec))[0]


@router.get("/{round_index}/trials/{trial_index}/metrics", responses=documented(Unauthorized, NotFound, Unprocessable))
def read_trial_metrics(
    job_id: JobId,
    round_index: RoundIndex,
    trial_index: TrialIndex,
    caller: CallerDep,
    sessions: Sessions,
    since_kimg: Annotated[float | None, Query(ge=0, allow_inf_nan=False, description="Only what comes after.")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Training points a page.")] = 1000,
) -> TrialMetrics:
    """Read a trial's curves: training diagnostics, and FID, precision and recall at every evaluation."""
    with sessions() as session:
        find_job(session, caller.tenant_id, job_id)
        trial = repository.find_trial(session, job_id, round_index, trial_index)
        points, has_more = repository.training_metrics(session, trial.unit_id, since_kimg=since_kimg, limit=limit)
        until = points[-1].kimg if has_more else None
        rows = repository.evaluations(session, trial.unit_id, since_kimg=since_kimg, until_kimg=until)
    return TrialMetrics(
        training=[TrainingPoint(step=row.step, kimg=row.kimg, values=row.values) for row in points],
        evaluations=[measured(row) for row in rows],
        has_more=has_more,
        next_since_kimg=until,
    )
