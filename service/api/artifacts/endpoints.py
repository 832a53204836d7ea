"""A trial's snapshots, and ``/artifacts/{id}/download`` of these and of a baseline's discriminator."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path

from service.api.artifacts import repository, views
from service.api.artifacts.schemas import Snapshot
from service.api.body import json_body
from service.api.dependencies import CallerDep, Sessions, SettingsDep, Store
from service.api.downloads import DOWNLOAD_BODY, DOWNLOAD_ERRORS, Download, parse_request, sign
from service.api.jobs.repository import find_job
from service.api.pages import JobId, Listed, RoundIndex, TrialIndex
from service.api.problems import NotFound, Unauthorized, Unprocessable, documented
from service.api.rounds.repository import find_trial

router = APIRouter(tags=["artifacts"])


@router.get(
    "/jobs/{job_id}/rounds/{round_index}/trials/{trial_index}/snapshots",
    responses=documented(Unauthorized, NotFound, Unprocessable),
)
def list_snapshots(
    job_id: JobId, round_index: RoundIndex, trial_index: TrialIndex, caller: CallerDep, sessions: Sessions
) -> Listed[Snapshot]:
    """List the averages of `training.ema_snapshot_stds` that a trial has written, by length, then by kimg."""
    with sessions() as session:
        find_job(session, caller.tenant_id, job_id)
        trial = find_trial(session, job_id, round_index, trial_index)
        return Listed(data=[views.snapshot(row) for row in repository.list_snapshots(session, trial.unit_id)])


@router.post(
    "/artifacts/{artifact_id}/download", responses=DOWNLOAD_ERRORS, openapi_extra={"requestBody": DOWNLOAD_BODY}
)
def sign_artifact_download(
    artifact_id: Annotated[str, Path(description="`art_…`")],
    caller: CallerDep,
    sessions: Sessions,
    store: Store,
    settings: SettingsDep,
    body: Annotated[Any, Depends(json_body)],
) -> Download:
    """Sign a URL that downloads a snapshot, a picture of samples, or a baseline's discriminator, without a key."""
    wanted = parse_request(body)
    with sessions() as session:
        row = repository.find_artifact(session, caller.tenant_id, artifact_id)
    return sign(wanted, row.artifact, views.filename(row), store, settings)
