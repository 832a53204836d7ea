"""From evaluations to a comparison, or to why there is none."""

from collections.abc import Mapping, Sequence

from service.api.comparison.protocols import Apart, Number, common_protocol
from service.api.comparison.repository import MeasuredCheckpoint
from service.api.comparison.schemas import LOWER_IS_BETTER, Compared, Comparison, Difference, MetricName
from service.api.measured import measured
from service.api.problems import Conflict, Unprocessable
from service.api.rounds.views import cell_of
from service.protocol_parts import in_words


def comparison(found: Mapping[str, Sequence[MeasuredCheckpoint]], metric: MetricName) -> Comparison:
    """Rank what the ids stand for by a metric.

    Raises:
        Conflict: There is no protocol that all were measured under; says in which parts two of them differ.
        Unprocessable: The protocol that joins them does not measure the metric.
    """
    rows = {row.evaluation.id: row for several in found.values() for row in several}
    numbers = {
        id_: [Number(row.evaluation.id, row.evaluation.fingerprint, row.evaluation.protocol) for row in several]
        for id_, several in found.items()
    }
    chosen = common_protocol(numbers)
    if isinstance(chosen, Apart):
        raise _refusal(chosen)
    compared = [rows[number.evaluation_id] for number in chosen.values()]
    without = [row.checkpoint.id for row in compared if row.evaluation.metrics.get(metric) is None]
    if without:
        raise Unprocessable(
            f"{without[0]} was measured without {metric} under the protocol that joins all of them; compare by another "
            "metric, or ask for it in the jobs' evaluation.",
            code="metric_not_measured",
            param="metric",
        )
    lower = metric in LOWER_IS_BETTER
    values = sorted((row.evaluation.metrics[metric] for row in compared), reverse=not lower)
    data = [_compared(row, values.index(row.evaluation.metrics[metric]) + 1, metric) for row in compared]
    judge = compared[0].evaluation
    return Comparison(
        metric=metric,
        lower_is_better=lower,
        fingerprint=judge.fingerprint,
        protocol=judge.protocol,
        data=sorted(data, key=lambda item: item.rank),
    )


def _compared(row: MeasuredCheckpoint, rank: int, metric: MetricName) -> Compared:
    trial, checkpoint = row.trial, row.checkpoint
    return Compared(
        rank=rank,
        value=row.evaluation.metrics[metric],
        checkpoint_id=checkpoint.id,
        job_id=checkpoint.job_id,
        round_index=row.round_index,
        **cell_of(trial),
        baseline_index=row.baseline_index,
        kimg=checkpoint.kimg,
        evaluation=measured(row.evaluation, kimg=checkpoint.kimg),
    )


def _refusal(apart: Apart) -> Conflict:
    differences = [
        Difference(param=path, values={apart.first: one, apart.second: other})
        for path, (one, other) in apart.parts.items()
    ]
    return Conflict(
        f"{apart.first} and {apart.second} were not measured under one protocol, so that their numbers must not be "
        f"ranked: {in_words(apart.parts)}. Evaluate both in jobs with the same settings.",
        code="protocols_differ",
        members={"differences": [difference.model_dump() for difference in differences]},
    )
