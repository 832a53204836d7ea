"""Images from a model, by the hundred thousand: batched, reproducible image by image, for every family."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from ddo_engine.data import round_to_grey_levels
from ddo_engine.errors import IncompatibleInputs
from ddo_engine.families import get_family
from ddo_engine.families.protocol import Family, LabelledImages
from ddo_engine.spec import LabelDistribution, SamplerSettings

# In units of 2^-64: integers make the labels the same on every machine.
_GOLDEN_RATIO = 0x19E3779B97F4A7C15


def labels_for_seeds(
    seeds: Sequence[int], label_dim: int, distribution: LabelDistribution, class_counts: Sequence[int]
) -> Tensor | None:
    """Return the class labels of the samples with these seeds; each depends on its own seed alone.

    Args:
        seeds: One per sample, >= 0.
        label_dim: Number of classes of the model; 0 for an unconditional one.
        distribution: ``BALANCED``: seed mod classes. ``DATASET``: a low-discrepancy sequence, so that any run of
            consecutive seeds has the dataset's class frequencies but for a few images.
        class_counts: Images per class of the dataset. Needed for ``DATASET`` only.

    Returns:
        int64, shape (B,). None: the model takes no labels, or (``RANDOM``) the family draws them from the seeds.

    Raises:
        IncompatibleInputs: ``DATASET`` with no class counts, or with more classes than the model has.
    """
    if label_dim == 0 or distribution is LabelDistribution.RANDOM:
        return None
    if distribution is LabelDistribution.BALANCED:
        return torch.tensor([seed % label_dim for seed in seeds], dtype=torch.int64)
    total = sum(class_counts)
    if total == 0:
        raise IncompatibleInputs(
            "the model is class-conditional but the dataset has no labels to take class frequencies from; "
            "add labels to the dataset, or set the sampler's labels to 'balanced' or 'random'",
            param="sampler.labels",
        )
    if len(class_counts) > label_dim:
        raise IncompatibleInputs(
            f"the dataset has {len(class_counts)} classes, the model {label_dim}; use the dataset that the model was "
            "trained on, or a model of as many classes",
            param="dataset",
        )
    ends = list(accumulate(class_counts))
    # frac((seed + 1/2) · golden ratio), in units of 2^-64
    positions = (((2 * seed + 1) * _GOLDEN_RATIO >> 1) % 2**64 for seed in seeds)
    return torch.tensor([bisect_right(ends, position * total >> 64) for position in positions], dtype=torch.int64)


def generate_images(
    model: nn.Module,
    family: Family,
    seeds: Sequence[int],
    sampler: SamplerSettings,
    *,
    class_counts: Sequence[int] = (),
    grey_levels: int = 256,
    on_progress: Callable[[int], None] | None = None,
) -> LabelledImages:
    """Draw one image per seed, ``sampler.batch_size`` at a time.

    Args:
        model: In eval mode, on the device to sample on.
        family: The model's family.
        seeds: One per image; image i depends on seed i alone.
        sampler: Sampler settings.
        class_counts: Images per class of the dataset, for ``labels='dataset'``.
        grey_levels: Round every pixel to that many equally spaced values, as the dataset's are.
        on_progress: Called with the number of finished images after every batch.

    Returns:
        uint8 images and the labels they were drawn with, on the CPU.

    Raises:
        IncompatibleInputs: See :func:`labels_for_seeds`.
        NonFiniteLoss: The model draws NaN or infinite pixels.
    """
    label_dim = int(model.label_dim)  # type: ignore[arg-type]  # ImageModel
    batches: list[Tensor] = []
    labels: list[Tensor] = []
    for start in range(0, len(seeds), sampler.batch_size):
        batch_seeds = seeds[start : start + sampler.batch_size]
        labels_B = labels_for_seeds(batch_seeds, label_dim, sampler.labels, class_counts)
        if labels_B is None:
            labels_B = family.draw_labels(model, batch_seeds)
        if labels_B is not None:
            labels.append(labels_B)
        batches.append(round_to_grey_levels(family.sample(model, batch_seeds, labels_B, sampler), grey_levels))
        if on_progress is not None:
            on_progress(start + len(batch_seeds))
    return LabelledImages(torch.cat(batches), torch.cat(labels) if labels else None)


def sample(
    model: nn.Module,
    seeds: Sequence[int],
    *,
    labels: Sequence[int] | Tensor | None = None,
    sampler: SamplerSettings | None = None,
) -> Tensor:
    """Draw one image per seed in one batch.

    Args:
        model: From :func:`ddo_engine.load_model`.
        seeds: One per image; image i depends on seed i (and its label) alone.
        labels: Class indices; None draws those of a conditional model from the seeds.
        sampler: Steps and noise levels; EDM's for CIFAR-10 by default.

    Returns:
        uint8, shape (B, C, H, W), on the CPU.

    Raises:
        ValueError: As many labels as seeds are needed, each a class of the model.
        NonFiniteLoss: The model draws NaN or infinite pixels.
    """
    labels_B = None if labels is None else torch.as_tensor(labels, dtype=torch.int64)
    label_dim = int(model.label_dim)  # type: ignore[arg-type]  # ImageModel
    if labels_B is not None and (
        labels_B.shape != (len(seeds),) or not bool(((labels_B >= 0) & (labels_B < label_dim)).all())
    ):
        raise ValueError(f"labels must be {len(seeds)} class indices, one per seed, in 0 … {label_dim - 1}")
    family = get_family(str(model.family))
    return family.sample(model, seeds, labels_B, sampler or SamplerSettings())
