"""``/jobs/{id}/guidance-curve``: what the rounds have done to the whole curve, not to one point of it."""

from fastapi import APIRouter

from ddo_engine.spec import JobSpec
from service.api.dependencies import CallerDep, Sessions
from service.api.guidance_curve import views
from service.api.guidance_curve.schemas import GuidanceCurves
from service.api.jobs.repository import find_job
from service.api.pages import JobId
from service.api.problems import NotFound, Unauthorized, documented
from service.api.rounds.repository import load_chain

router = APIRouter(prefix="/jobs/{job_id}/guidance-curve", tags=["rounds"])


@router.get("", responses=documented(Unauthorized, NotFound))
def read_guidance_curve(job_id: JobId, caller: CallerDep, sessions: Sessions) -> GuidanceCurves:
    """Read FID, inception score, precision and recall over the guidance scale, for the base and each round's winner.

    A job measures at its sampler's scale and at those of `evaluation.guidance_scales`; without any a curve is a point.
    """
    with sessions() as session:
        job = find_job(session, caller.tenant_id, job_id)
        return views.guidance_curves(load_chain(session, job_id), JobSpec.model_validate(job.spec))
