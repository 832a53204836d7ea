"""Which FIDs of a job may be ranked together, and in which order: one SQL query that every endpoint builds on.

A job ranks by its confirm protocol if it has one, else by its search protocol. Of the evaluations under that
protocol only those with one fingerprint count: the base's, since everything is judged against the base. They are those
at the sampler's guidance scale; a job that ranks by the best scale has a fingerprint for each, a checkpoint that was
measured at all of them counts by its lowest FID. What units of baselines measure is never ranked, be it under the same
protocol.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Float, Subquery, case, func, or_, select
from sqlalchemy.orm import aliased
from sqlalchemy.sql.elements import ColumnElement

from service.models import Checkpoint, Evaluation, Job, Round, WorkUnit
from service.statuses import UnitKind

FID: ColumnElement[float] = Evaluation.metrics["fid"].astext.cast(Float(53))


def _of_ranking_protocol(field: str) -> ColumnElement[bool]:
    # a job without confirm holds a JSON null there, below which every path is SQL NULL
    wanted = func.coalesce(Job.spec[("confirm", field)].astext, Job.spec[("evaluation", field)].astext)
    matches: ColumnElement[bool] = Evaluation.protocol[field].astext == wanted
    return matches


_SCALE: ColumnElement[float] = Evaluation.protocol[("sampler", "guidance_scale")].astext.cast(Float(53))
# jobs of before there was a choice say nothing of it: SQL NULL, which is not true
_BY_BEST_SCALE: ColumnElement[bool] = Job.spec[("evaluation", "rank_by")].astext == "best_scale"
_SCALE_RANKS = or_(_BY_BEST_SCALE, Job.spec[("sampler", "guidance_scale")].astext.cast(Float(53)) == _SCALE)
_RANKING_SCALES = case(
    (_BY_BEST_SCALE, 1 + func.jsonb_array_length(Job.spec[("evaluation", "guidance_scales")])), else_=1
)


def ranked_checkpoints(job_ids: Sequence[str]) -> Subquery:
    """Return a subquery of the checkpoints that have a rank, one row each.

    Columns: ``job_id``, ``checkpoint_id``, ``evaluation_id``, ``fid``, ``is_base``, ``rank`` (1 is the lowest FID;
    equal ones in order of round, trial and kimg, as the planner decides them).
    """
    is_base, measuring_unit = Checkpoint.unit_id.is_(None), aliased(WorkUnit)
    candidates = (
        select(
            Evaluation.job_id,
            Evaluation.checkpoint_id,
            Evaluation.id.label("evaluation_id"),
            Evaluation.fingerprint,
            FID.label("fid"),
            _SCALE.label("scale"),
            _RANKING_SCALES.label("num_scales"),
            is_base.label("is_base"),
            Round.round_index,
            func.coalesce(WorkUnit.position, 0).label("position"),
            Checkpoint.kimg,
            func.first_value(Evaluation.fingerprint)
            .over(
                partition_by=(Evaluation.job_id, _SCALE),
                order_by=(case((is_base, 0), else_=1), Evaluation.created_at, Evaluation.id),
            )
            .label("judge"),
            # a checkpoint that two units measured counts once
            func.row_number()
            .over(partition_by=(Evaluation.checkpoint_id, Evaluation.fingerprint), order_by=Evaluation.id)
            .label("copy"),
        )
        .join(Job, Job.id == Evaluation.job_id)
        .join(measuring_unit, measuring_unit.id == Evaluation.unit_id)
        .join(Checkpoint, Checkpoint.id == Evaluation.checkpoint_id)
        .join(Round, Round.id == Checkpoint.round_id)
        .outerjoin(WorkUnit, WorkUnit.id == Checkpoint.unit_id)
        .where(Evaluation.job_id.in_(job_ids), _of_ranking_protocol("num_samples"), _of_ranking_protocol("seed"))
        .where(FID.is_not(None), _SCALE_RANKS, measuring_unit.baseline_index.is_(None))
        .subquery()
    )
    once = select(candidates).where(candidates.c.fingerprint == candidates.c.judge, candidates.c.copy == 1).subquery()
    best = _lowest_of_whole_curves(once, once.c.checkpoint_id)
    order = (best.c.fid, best.c.round_index, best.c.position, best.c.kimg)
    return select(
        best.c.job_id,
        best.c.checkpoint_id,
        best.c.evaluation_id,
        best.c.fid,
        best.c.is_base,
        func.row_number().over(partition_by=best.c.job_id, order_by=order).label("rank"),
    ).subquery()


def best_of_trials(round_ids: Sequence[str]) -> Subquery:
    """Return a subquery of each trial's best kept evaluation by the search protocol: ``unit_id``, ``evaluation_id``."""
    measured = (
        select(
            Evaluation.unit_id,
            Evaluation.id.label("evaluation_id"),
            Evaluation.kimg,
            FID.label("fid"),
            _SCALE.label("scale"),
            _RANKING_SCALES.label("num_scales"),
        )
        .join(Job, Job.id == Evaluation.job_id)
        .join(WorkUnit, WorkUnit.id == Evaluation.unit_id)
        .where(WorkUnit.round_id.in_(round_ids), WorkUnit.kind == UnitKind.TRIAL)
        .where(Evaluation.checkpoint_id.is_not(None), FID.is_not(None), _SCALE_RANKS)
        .subquery()
    )
    points = _lowest_of_whole_curves(measured, measured.c.unit_id, measured.c.kimg)
    first = func.row_number().over(partition_by=points.c.unit_id, order_by=(points.c.fid, points.c.kimg))
    ranked = select(points.c.unit_id, points.c.evaluation_id, first.label("rank")).subquery()
    return select(ranked.c.unit_id, ranked.c.evaluation_id).where(ranked.c.rank == 1).subquery()


def _lowest_of_whole_curves(rows: Subquery, *point: ColumnElement[Any]) -> Subquery:
    """Return of the rows of each point that with the lowest FID; none of one that lacks a scale that ranks."""
    lowest = func.row_number().over(partition_by=point, order_by=(rows.c.fid, rows.c.scale))
    counted = select(rows, lowest.label("place"), func.count().over(partition_by=point).label("found")).subquery()
    return select(counted).where(counted.c.place == 1, counted.c.found == counted.c.num_scales).subquery()
