"""``python -m ddo_engine evaluate``: measure one checkpoint under one or more protocols."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ddo_engine.checkpoint import LoadedCheckpoint
from ddo_engine.data import ImageDataset
from ddo_engine.device import out_of_memory_blames
from ddo_engine.errors import NonFiniteLoss
from ddo_engine.evaluation import Evaluator
from ddo_engine.events import ProgressReporter
from ddo_engine.inputs import (
    check_features_fit_dataset,
    check_grey_levels,
    check_guidance_scales,
    check_labels_can_be_drawn,
    check_model_fits_dataset,
    check_sampler,
    open_dataset,
    open_feature_network,
    open_reference_statistics,
    verified_sha256,
)
from ddo_engine.models import UnitModels, open_models
from ddo_engine.parallel.ranks import ALONE, Ranks
from ddo_engine.parallel.sharding import sharded
from ddo_engine.randomness import generator_for
from ddo_engine.run_context import RunContext
from ddo_engine.spec import EvaluateSpec, LabelDistribution, TrainingSettings
from ddo_engine.told_evaluation import tell_evaluation
from ddo_engine.unit_data import as_pixels, as_trained_on

DENOISING_DRAWS = 16  # noise draws per image; checkpoints share them, so that differences are not noise
DENOISING_BATCH = 250
_MOST_KIMG = 1e9


def run(spec: EvaluateSpec, context: RunContext) -> None:
    """Measure a checkpoint: numbers for each of the spec's evaluations and each of its guidance scales.

    Raises:
        Interrupted: A stop was requested; the next run goes on behind what was drawn, and finds the same numbers.
        NonFiniteLoss: A sample or a number is NaN or infinite: the weights are not those of a working model.
        OutOfMemory: The device ran out of memory.
        EngineError: An input is damaged or unfit.
    """
    context.announce("evaluate")
    models = open_models(spec, context.device)
    checkpoint = models.checkpoint
    check_sampler(checkpoint, models.companions, spec.sampler)
    for index, settings in enumerate(spec.evaluations):
        check_guidance_scales(checkpoint, models.companions, spec.sampler, settings, f"evaluations[{index}]")
    dataset = open_dataset(spec.dataset, reading=spec.dataset_reading)
    follows_dataset = spec.sampler.labels is LabelDistribution.DATASET
    check_model_fits_dataset(checkpoint.info, dataset.info, with_labels=follows_dataset)
    check_grey_levels(dataset, spec.grey_levels)
    check_labels_can_be_drawn(checkpoint.info, spec.sampler, dataset.info)
    verified_sha256(spec.feature_network, "feature_network")
    features = open_feature_network(spec.feature_network, context.device)
    pixels = as_pixels(dataset, checkpoint)
    check_features_fit_dataset(features, pixels.info)
    dataset_sha256 = verified_sha256(spec.dataset, "dataset")
    evaluator = Evaluator(
        features,
        pixels,
        dataset_sha256,
        spec.sampler,
        spec.grey_levels,
        context.cache,
        spec.dataset_reading,
        models.companions,
        context.progress("reading", len(pixels)),
        context.ranks,
        context.parts_folder,
        open_reference_statistics(spec.reference_statistics),
        partial(context.progress, "comparing"),
    )
    denoising = _denoising_dataset(spec, models, context)
    with context.stop.before_network_calls():
        common: dict[str, float] = {}
        if denoising is not None:
            common["denoising_loss"] = denoising_loss(
                checkpoint,
                denoising,
                spec.P_mean,
                spec.P_std,
                context.device,
                ranks=context.ranks,
                on_progress=ProgressReporter(context.events, "denoising", DENOISING_DRAWS * len(denoising)).update,
            )
        kimg = _kimg_of(checkpoint.manifest.provenance)
        for settings in spec.evaluations:
            progress = ProgressReporter(context.events, "evaluation", settings.generated_images())
            for index, scale in enumerate(settings.scales(spec.sampler)):
                with out_of_memory_blames("sampler.batch_size"):
                    measured = evaluator.evaluate(
                        checkpoint.model,
                        checkpoint.family,
                        settings,
                        on_progress=progress.after(index * settings.num_samples),
                        guidance_scale=scale,
                    )
                measured = replace(measured, metrics=measured.metrics | common)
                if not all(math.isfinite(value) for value in measured.metrics.values()):
                    raise NonFiniteLoss(
                        f"the checkpoint's numbers are not finite: {measured.metrics}", param="checkpoint"
                    )
                tell_evaluation(context, evaluator, settings, scale, kimg=kimg, measured=measured)
    evaluator.forget_parts()


def denoising_loss(
    checkpoint: LoadedCheckpoint,
    dataset: ImageDataset,
    P_mean: float,
    P_std: float,
    device: torch.device,
    num_draws: int = DENOISING_DRAWS,
    ranks: Ranks = ALONE,
    on_progress: Callable[[int], None] | None = None,
) -> float:
    """Return the family's pretraining loss, averaged over a dataset and ``num_draws`` fixed draws of the noise.

    Args:
        checkpoint: The model to measure.
        dataset: Images to denoise, usually ones it was not trained on.
        P_mean: Mean of log sigma.
        P_std: Standard deviation of log sigma.
        device: Where the model is.
        num_draws: Noise draws per image.
        ranks: The processes that measure together; the result is that of one, to the bit.
        on_progress: Called with the number of losses so far.

    Returns:
        Loss per image, summed over C·H·W (or tokens).
    """
    # A loss needs the noise distribution alone; the rest of the settings plays no part in it.
    noise = TrainingSettings(
        kimg=1, batch_size=1, learning_rate=1, ema_half_life_kimg=1, evaluate_every_kimg=1, P_mean=P_mean, P_std=P_std
    )

    @torch.no_grad()
    def loss_of(item: tuple[int, int, int]) -> float:
        draw, index, start = item
        batch = dataset.batch(range(start, min(start + DENOISING_BATCH, len(dataset)))).to(device)
        generator = generator_for(device, draw, "denoising-loss", index)
        loss_B = checkpoint.family.pretraining_loss(checkpoint.model, batch, noise, generator)
        return float(loss_B.double().sum())

    items = [
        (draw, index, start)
        for draw in range(num_draws)
        for index, start in enumerate(range(0, len(dataset), DENOISING_BATCH))
    ]
    total = 0.0
    for (draw, _, start), loss in zip(items, sharded(ranks, items, loss_of), strict=False):
        total += loss
        if on_progress is not None:
            on_progress(draw * len(dataset) + min(start + DENOISING_BATCH, len(dataset)))
    return ranks.from_leader(total) / (num_draws * len(dataset))


def _denoising_dataset(spec: EvaluateSpec, models: UnitModels, context: RunContext) -> ImageDataset | None:
    if spec.denoising_dataset is None:
        return None
    verified_sha256(spec.denoising_dataset, "denoising_dataset")
    dataset = open_dataset(spec.denoising_dataset, "denoising_dataset", spec.dataset_reading)
    check_model_fits_dataset(models.checkpoint.info, dataset.info, "denoising_dataset")
    check_grey_levels(dataset, spec.grey_levels, "denoising_dataset")
    return as_trained_on(dataset, spec.denoising_dataset, spec.dataset_reading, models, context)


def _kimg_of(provenance: dict[str, Any]) -> float:
    """Return how far the trial was that wrote the checkpoint; 0 where its manifest does not say."""
    kimg = provenance.get("kimg")
    # compared before it is converted: an integer of JSON may be larger than any float
    return float(kimg) if isinstance(kimg, (int, float)) and 0 <= kimg <= _MOST_KIMG else 0.0
