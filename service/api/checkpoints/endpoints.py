"""``/jobs/{id}/checkpoints``, ``/jobs/{id}/best`` and ``/checkpoints/{id}/download``."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path

from service.api.body import json_body
from service.api.checkpoints import repository, views
from service.api.checkpoints.schemas import Checkpoint
from service.api.dependencies import CallerDep, Sessions, SettingsDep, Store
from service.api.downloads import DOWNLOAD_BODY, DOWNLOAD_ERRORS, Download, parse_request, sign
from service.api.jobs.repository import find_job
from service.api.pages import JobId, Listed
from service.api.problems import NotFound, Unauthorized, documented

router = APIRouter(tags=["checkpoints"])


@router.get("/jobs/{job_id}/checkpoints", responses=documented(Unauthorized, NotFound))
def list_checkpoints(job_id: JobId, caller: CallerDep, sessions: Sessions) -> Listed[Checkpoint]:
    """List a job's checkpoints, best first, with metrics and lineage."""
    with sessions() as session:
        find_job(session, caller.tenant_id, job_id)
        rows = repository.list_checkpoints(session, job_id)
        evaluations, lineages = repository.evaluations_of(session, job_id), repository.lineages(session, job_id)
    return Listed(data=[views.checkpoint(row, evaluations, lineages) for row in rows])


@router.get("/jobs/{job_id}/best", responses=documented(Unauthorized, NotFound))
def read_best(job_id: JobId, caller: CallerDep, sessions: Sessions) -> Checkpoint:
    """Read the checkpoint with the lowest FID so far; it is the base until something beats it."""
    with sessions() as session:
        find_job(session, caller.tenant_id, job_id)
        row = repository.best_checkpoint(session, job_id)
        return views.checkpoint(row, repository.evaluations_of(session, job_id), repository.lineages(session, job_id))


@router.post(
    "/checkpoints/{checkpoint_id}/download",
    responses=DOWNLOAD_ERRORS,
    openapi_extra={"requestBody": DOWNLOAD_BODY},
)
def sign_download(
    checkpoint_id: Annotated[str, Path(description="`ckpt_…`")],
    caller: CallerDep,
    sessions: Sessions,
    store: Store,
    settings: SettingsDep,
    body: Annotated[Any, Depends(json_body)],
) -> Download:
    """Sign a URL that downloads the checkpoint without a key until it expires."""
    wanted = parse_request(body)
    with sessions() as session:
        row = repository.find_checkpoint(session, caller.tenant_id, checkpoint_id)
    return sign(wanted, row.checkpoint, views.filename(row), store, settings)
