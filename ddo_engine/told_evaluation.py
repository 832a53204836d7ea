"""What a unit tells of an evaluation: a picture of its first samples, and its numbers."""

from ddo_engine.evaluation import Evaluator
from ddo_engine.evaluation.parts import Measured
from ddo_engine.evaluation.sample_grid import write_sample_grid
from ddo_engine.run_context import RunContext
from ddo_engine.spec import EvaluationSettings, FileRole


def tell_evaluation(
    context: RunContext,
    evaluator: Evaluator,
    settings: EvaluationSettings,
    guidance_scale: float,
    *,
    kimg: float,
    measured: Measured,
) -> None:
    """Write the picture, at the sampler's own scale alone, and emit the numbers.

    Pictures of one fingerprint show the same latents and labels in the same places, whatever was evaluated.

    Args:
        context: Whom to tell.
        evaluator: What has measured.
        settings: Of the evaluation.
        guidance_scale: That the samples were drawn at.
        kimg: Of the weights.
        measured: What was found.
    """
    if context.ranks.leads and guidance_scale == evaluator.sampler.guidance_scale:
        fingerprint = evaluator.fingerprint(settings, guidance_scale)
        path = context.workdir / f"samples-{kimg:.3f}-{fingerprint[:8]}.png"
        write_sample_grid(path, measured.first_images_NCHW)
        info = {"fingerprint": fingerprint, "first_seed": settings.seed, "num_samples": len(measured.first_images_NCHW)}
        context.announce_file(FileRole.SAMPLES, path, kimg=kimg, info={**info, "kimg": kimg})
    context.events.emit(evaluator.evaluated(settings, guidance_scale, kimg=kimg, metrics=measured.metrics))
