"""``/jobs/{id}/baselines``: what DDO is compared with."""

from fastapi import APIRouter

from ddo_engine.spec import JobSpec
from service.api.baselines import repository, views
from service.api.baselines.schemas import Baseline
from service.api.dependencies import CallerDep, Sessions
from service.api.jobs.repository import find_job
from service.api.pages import JobId, Listed
from service.api.problems import NotFound, Unauthorized, documented
from service.statuses import JobStatus

router = APIRouter(prefix="/jobs/{job_id}/baselines", tags=["baselines"])


@router.get("", responses=documented(Unauthorized, NotFound))
def list_baselines(job_id: JobId, caller: CallerDep, sessions: Sessions) -> Listed[Baseline]:
    """List a job's baselines: status, every evaluation, the best one, and its checkpoint where one was trained.

    They are measured on the samples' seeds of the job's own protocol. Where the sampler differs, the fingerprint does,
    and `differs` says in what.
    """
    with sessions() as session:
        job = find_job(session, caller.tenant_id, job_id)
        rows = repository.load_baselines(session, job_id)
    return Listed(data=views.baselines(rows, JobSpec.model_validate(job.spec), JobStatus(job.status)))
