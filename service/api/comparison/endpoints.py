"""``/comparison``: checkpoints of one job or several beside one another, as far as their numbers may be compared."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query

from service.api.comparison import repository, views
from service.api.comparison.schemas import Comparison, MetricName
from service.api.dependencies import CallerDep, Sessions
from service.api.problems import MEDIA_TYPE, Conflict, NotFound, Unauthorized, Unprocessable, documented

router = APIRouter(prefix="/comparison", tags=["checkpoints"])

Ids = Annotated[
    list[str],
    Query(
        min_length=2,
        max_length=50,
        description="`ckpt_…`, which stands for all of its evaluations, or `eval_…` for one of them; repeat it.",
    ),
]
Metric = Annotated[MetricName, Query(description="What ranks them.")]

RESPONSES = documented(Unauthorized, NotFound, Conflict, Unprocessable)
RESPONSES[HTTPStatus.CONFLICT]["content"][MEDIA_TYPE]["example"] = {
    "type": "/problems/protocols_differ",
    "title": "Conflict",
    "status": 409,
    "detail": "ckpt_a and ckpt_b were not measured under one protocol, so that their numbers must not be ranked: "
    "num_samples is 1000 against 5000. Evaluate both in jobs with the same settings.",
    "code": "protocols_differ",
    "param": None,
    "request_id": "req_…",
    "errors": [],
    "differences": [{"param": "num_samples", "values": {"ckpt_a": 1000, "ckpt_b": 5000}}],
}


@router.get("", responses=RESPONSES)
def compare(caller: CallerDep, sessions: Sessions, of: Ids, metric: Metric = "fid") -> Comparison:
    """Rank checkpoints by numbers of one protocol: that of the most samples under which all of them were measured.

    Numbers of different protocols are not ranked: the answer is 409 `protocols_differ` with `differences`, the parts
    in which two of the protocols differ and both values.
    """
    _check_different(of)
    with sessions() as session:
        found = repository.measured_checkpoints(session, caller.tenant_id, of)
        for position, id_ in enumerate(of):
            if id_ in found:
                continue
            if repository.is_checkpoint(session, caller.tenant_id, id_):
                raise Conflict(
                    f"{id_} has not been measured yet.", code="nothing_measured_yet", param=f"of[{position}]"
                )
            raise NotFound(f"There is no checkpoint or evaluation {id_!r}.", param=f"of[{position}]")
        return views.comparison(found, metric)


def _check_different(ids: list[str]) -> None:
    for position, id_ in enumerate(ids):
        if "\0" in id_:
            raise NotFound("There is no such checkpoint or evaluation.", param=f"of[{position}]")
        if id_ in ids[:position]:
            raise Unprocessable(f"{id_} is given twice.", code="validation_failed", param=f"of[{position}]")
