"""Evaluation rows as clients see them."""

from service.api.rounds.schemas import Measured
from service.models import Evaluation


def measured(row: Evaluation, *, kimg: float | None = None) -> Measured:
    """Return the numbers of an evaluation with what tells its protocol from others.

    Args:
        row: The evaluation.
        kimg: Of the checkpoint that was evaluated, where another unit than the one that trained it measured it.
    """
    return Measured(
        evaluation_id=row.id,
        checkpoint_id=row.checkpoint_id,
        kimg=row.kimg if kimg is None else kimg,
        fid=row.metrics["fid"],
        precision=row.metrics.get("precision"),
        recall=row.metrics.get("recall"),
        inception_score=row.metrics.get("inception_score"),
        metrics=row.metrics,
        num_samples=row.protocol.get("num_samples"),
        guidance_scale=row.protocol["sampler"]["guidance_scale"],
        fingerprint=row.fingerprint,
        samples_id=row.samples_id,
    )
