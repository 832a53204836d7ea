"""``python -m ddo_engine generate``: draw a shard of the reference set into a dataset zip.

It goes through the same rounding, file format and loader as the data: a discriminative loss would learn
any difference between the pipelines before it learns one between the images.
"""

from collections.abc import Sequence

import torch

from ddo_engine.data import write_dataset, write_latents
from ddo_engine.device import out_of_memory_blames
from ddo_engine.events import ProgressReporter
from ddo_engine.families.protocol import LabelledImages
from ddo_engine.inputs import (
    check_labels_can_be_drawn,
    check_model_fits_dataset,
    check_sampler,
    open_dataset,
    verified_sha256,
)
from ddo_engine.models import UnitModels, open_models
from ddo_engine.parallel.sharding import sharded
from ddo_engine.run_context import RunContext
from ddo_engine.sampling import generate_images, images_at_once
from ddo_engine.spec import FileRole, GenerateSpec
from ddo_engine.unit_data import as_stored

REFERENCE_SET_FILE = "reference-set.zip"


def run(spec: GenerateSpec, context: RunContext) -> None:
    """Draw the images of the spec's seeds. Image i depends on seed i alone: shards fit together.

    Raises:
        Interrupted: A stop was requested; the next run starts again and draws the same images.
        NonFiniteLoss: The checkpoint draws NaN or infinite pixels.
        OutOfMemory: The device ran out of memory.
        EngineError: An input is damaged or unfit.
    """
    context.announce("generate")
    models = open_models(spec, context.device)
    checkpoint = models.checkpoint
    check_sampler(checkpoint, models.companions, spec.sampler)
    dataset = None
    if spec.dataset is not None:
        verified_sha256(spec.dataset, "dataset")
        dataset = open_dataset(spec.dataset, reading=spec.dataset_reading).info
        check_model_fits_dataset(checkpoint.info, dataset)
    check_labels_can_be_drawn(checkpoint.info, spec.sampler, dataset)
    samples = _draw(spec, models, () if dataset is None else dataset.class_counts, context)
    if samples is None:
        return
    path = context.workdir / REFERENCE_SET_FILE
    stored = as_stored(samples, checkpoint)
    write = write_dataset if checkpoint.info.space != "latents" else write_latents
    write(path, stored.images_BCHW, stored.labels_B)
    info = {"first_seed": spec.first_seed, "num_samples": spec.num_samples}
    context.announce_file(FileRole.REFERENCE_SET, path, info=info)


def _draw(
    spec: GenerateSpec, models: UnitModels, class_counts: Sequence[int], context: RunContext
) -> LabelledImages | None:
    """Return the images in the order of their seeds; None in a process that only helps to draw them."""
    checkpoint = models.checkpoint

    def draw(seeds: range) -> LabelledImages:
        with context.stop.before_network_calls(), out_of_memory_blames("sampler.batch_size"):
            return generate_images(
                checkpoint.model,
                checkpoint.family,
                seeds,
                spec.sampler,
                guide=models.companions.guide,
                discriminator=models.companions.discriminator,
                class_counts=class_counts,
                grey_levels=spec.grey_levels,
            )

    seeds = range(spec.first_seed, spec.first_seed + spec.num_samples)
    size = images_at_once(checkpoint.model, spec.sampler)
    progress = ProgressReporter(context.events, "sampling", spec.num_samples)
    progress.update(0)
    batches: list[LabelledImages] = []
    for batch in sharded(context.ranks, [seeds[start : start + size] for start in range(0, len(seeds), size)], draw):
        batches.append(batch)
        progress.update(min(len(batches) * size, spec.num_samples))
    if not batches:
        return None
    labels = [batch.labels_B for batch in batches if batch.labels_B is not None]
    return LabelledImages(torch.cat([batch.images_BCHW for batch in batches]), torch.cat(labels) if labels else None)
