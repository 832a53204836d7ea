"""``/jobs``: create, list, read, cancel."""

from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, Header, Query, Response, status
from sqlalchemy.orm import Session, sessionmaker

from service import lifecycle
from service.api.body import json_body
from service.api.dependencies import CallerDep, DoorbellDep, Sessions, SourcesDep
from service.api.jobs import operations, repository, views
from service.api.jobs.schemas import JobDetail, JobPlan, JobSummary
from service.api.openapi import branch_request_body, job_request_body
from service.api.pages import JobId, Limit, Page
from service.api.problems import (
    BodyTooLarge,
    Conflict,
    MalformedBody,
    NotFound,
    Unauthorized,
    Unavailable,
    Unprocessable,
    UnsupportedMediaType,
    documented,
)
from service.doorbell import Doorbell
from service.statuses import JobStatus

router = APIRouter(prefix="/jobs", tags=["jobs"])

_CREATE_ERRORS = (MalformedBody, Unauthorized, BodyTooLarge, UnsupportedMediaType, Unprocessable, Unavailable)


IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x20-\x7e]+$",
        description="The same key with the same body always means the same job, however often it is sent.",
    ),
]
DryRun = Annotated[bool, Query(description="Answer with the plan and create nothing.")]
_CREATED: dict[int | str, dict[str, Any]] = {
    200: {
        "model": JobDetail | JobPlan,
        "description": "The job that this Idempotency-Key made before, or the plan of a dry run.",
    },
}


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    response_model=JobDetail | JobPlan,
    responses={**_CREATED, **documented(*_CREATE_ERRORS)},
    openapi_extra={"requestBody": job_request_body()},
)
def create_job(
    response: Response,
    background: BackgroundTasks,
    caller: CallerDep,
    sessions: Sessions,
    sources: SourcesDep,
    doorbell: DoorbellDep,
    body: Annotated[Any, Depends(json_body)],
    dry_run: DryRun = False,
    idempotency_key: IdempotencyKey = None,
) -> JobDetail | JobPlan:
    """Create a finetuning job: rounds of DDO over a grid of alpha and beta.

    Every field is validated, and every input must exist below an allowed folder or bucket; `base_checkpoint` may also
    be `checkpoint:ckpt_…`, a checkpoint of another job of yours. The files themselves are read by a worker: a damaged
    one ends the job with `status: failed`, a code and a sentence.
    """
    if dry_run:
        spec = operations.parse_spec(body)
        response.status_code = status.HTTP_200_OK
        return views.plan(spec, operations.input_sizes(sessions, sources, caller.tenant_id, spec))
    created = operations.create_job(sessions, sources, caller.tenant_id, body, idempotency_key=idempotency_key)
    return _answer(created, response, background, sessions, doorbell)


@router.post(
    "/{job_id}/branch",
    status_code=status.HTTP_201_CREATED,
    response_model=JobDetail | JobPlan,
    responses={**_CREATED, **documented(*_CREATE_ERRORS, NotFound, Conflict)},
    openapi_extra={"requestBody": branch_request_body()},
)
def branch_job(
    job_id: JobId,
    response: Response,
    background: BackgroundTasks,
    caller: CallerDep,
    sessions: Sessions,
    sources: SourcesDep,
    doorbell: DoorbellDep,
    body: Annotated[Any, Depends(json_body)],
    dry_run: DryRun = False,
    idempotency_key: IdempotencyKey = None,
) -> JobDetail | JobPlan:
    """Create a job that goes on from a round of this one: back to where it was better, or on with other settings.

    Its base is the winner of `from_round`, or `from_checkpoint`, or the best so far. It inherits what the rounds after
    that one had: their settings, and as many rounds as were left, one at least. Fields of the body win, as over a
    preset's. The other job, which may be running or ended, is left alone.
    """
    if dry_run:
        spec = operations.branched_spec(sessions, caller.tenant_id, job_id, body)
        response.status_code = status.HTTP_200_OK
        return views.plan(spec, operations.input_sizes(sessions, sources, caller.tenant_id, spec))
    created = operations.branch_job(sessions, sources, caller.tenant_id, job_id, body, idempotency_key=idempotency_key)
    return _answer(created, response, background, sessions, doorbell)


def _answer(
    created: operations.Created,
    response: Response,
    background: BackgroundTasks,
    sessions: sessionmaker[Session],
    doorbell: Doorbell,
) -> JobDetail:
    # after the answer: the units are committed, and a broker that is slow or gone must not hold up the client
    background.add_task(doorbell.ring, created.unit_ids)
    response.headers["Location"] = f"/jobs/{created.job.id}"
    if not created.is_new:
        response.status_code = status.HTTP_200_OK
    elif created.job.parent_checkpoint_id is None:
        return views.fresh(created.job)
    with sessions() as session:
        return views.detail(session, created.job)


@router.get("", responses=documented(Unauthorized, Unprocessable))
def list_jobs(
    caller: CallerDep,
    sessions: Sessions,
    limit: Limit = 20,
    after: Annotated[str | None, Query(description="`next_after` of the page before.")] = None,
    status: Annotated[
        list[JobStatus], Query(description="Only jobs in this status; may be given more than once.")
    ] = [],  # noqa: B006
) -> Page[JobSummary]:
    """List jobs, newest first, with the best FID of each."""
    with sessions() as session:
        jobs, has_more = repository.list_jobs(session, caller.tenant_id, statuses=status, after=after, limit=limit)
        standings = repository.standings(session, [job.id for job in jobs])
        parents = repository.parents(session, jobs)
    data = [views.summary(job, standings[job.id], parents.get(job.id)) for job in jobs]
    return Page(data=data, has_more=has_more, next_after=jobs[-1].id if has_more else None)


@router.get("/{job_id}", responses=documented(Unauthorized, NotFound))
def read_job(job_id: JobId, caller: CallerDep, sessions: Sessions) -> JobDetail:
    """Read a job: spec, status, progress, and the best checkpoint against the base."""
    with sessions() as session:
        return views.detail(session, repository.find_job(session, caller.tenant_id, job_id))


@router.post("/{job_id}/cancel", responses=documented(Unauthorized, NotFound, Conflict))
def cancel_job(
    job_id: JobId, background: BackgroundTasks, caller: CallerDep, sessions: Sessions, doorbell: DoorbellDep
) -> JobDetail:
    """Cancel a job: what waits at once, what runs within seconds. Cancelling twice is fine; what was found stays."""
    with sessions.begin() as session:
        job = repository.find_job(session, caller.tenant_id, job_id)
        unit_ids = lifecycle.cancel_job(session, job_id)
        session.refresh(job)
        if job.status in (JobStatus.SUCCEEDED, JobStatus.FAILED):
            raise Conflict(f"The job has already {job.status}.", code="job_already_ended")
        answer = views.detail(session, job)
    background.add_task(doorbell.ring, unit_ids)
    return answer
