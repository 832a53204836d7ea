"""From rows to curves over the guidance scale."""

from ddo_engine.spec import JobSpec
from service.api.guidance_curve import schemas
from service.api.rounds.repository import Chain
from service.api.rounds.views import guidance_curve, rounds
from service.selection import deciding_protocol


def guidance_curves(chain: Chain, spec: JobSpec) -> schemas.GuidanceCurves:
    """Return the curves of the base and of the rounds' winners, by the protocol that decides between these."""
    sampler, protocol = spec.sampler, deciding_protocol(spec)
    curves = []
    for round_ in rounds(chain, spec):
        winner = round_.winner
        if winner is None:
            continue
        curve = guidance_curve(chain.evaluations.get(winner.checkpoint_id, ()), protocol, kimg=winner.kimg)
        curves.append(
            schemas.CheckpointCurve(
                round_index=round_.round_index,
                **winner.model_dump(include={"checkpoint_id", "trial_index", "alpha", "beta", "kimg"}),
                points=curve.points,
                best=curve.best,
            )
        )
    return schemas.GuidanceCurves(
        scale_is=str(type(sampler).model_fields["guidance_scale"].description),
        unguided_scale=sampler.UNGUIDED_SCALE,
        sampler_scale=sampler.guidance_scale,
        rank_by=spec.evaluation.rank_by,
        num_samples=protocol.num_samples,
        curves=curves,
    )
