"""Images from a model, by the hundred thousand: batched, reproducible image by image, for every family."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import index

import torch
from torch import Tensor, nn

from ddo_engine.data import round_to_grey_levels
from ddo_engine.errors import IncompatibleInputs
from ddo_engine.families import get_family
from ddo_engine.families.protocol import Family, LabelledImages
from ddo_engine.spec import LabelDistribution, SamplerSettings

# On a CPU, products of matrices are summed in another order below so many rows, and the last bits of an image would
# depend on how many others are drawn beside it. Measured in bench/sampling.py.
ROWS_OF_A_CALL = 16

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
    guide: nn.Module | None = None,
    discriminator: nn.Module | None = None,
    class_counts: Sequence[int] = (),
    grey_levels: int = 256,
    on_progress: Callable[[int], None] | None = None,
) -> LabelledImages:
    """Draw one image per seed, about ``sampler.batch_size`` at a time.

    Args:
        model: In eval mode, on the device to sample on.
        family: The model's family.
        seeds: One per image; image i depends on seed i alone.
        sampler: Sampler settings.
        guide: The network that guides, if the settings ask for it.
        discriminator: The network that corrects, if the settings ask for it.
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
    batch_size = images_at_once(model, sampler)
    for start in range(0, len(seeds), batch_size):
        batch_seeds = seeds[start : start + batch_size]
        labels_B = labels_for_seeds(batch_seeds, label_dim, sampler.labels, class_counts)
        if labels_B is None:
            labels_B = family.draw_labels(model, batch_seeds)
        if labels_B is not None:
            labels.append(labels_B)
        images_BCHW = _sample_padded(model, family, batch_seeds, labels_B, sampler, guide, discriminator)
        batches.append(round_to_grey_levels(images_BCHW, grey_levels))
        if on_progress is not None:
            on_progress(start + len(batch_seeds))
    return LabelledImages(torch.cat(batches), torch.cat(labels) if labels else None)


def sample(
    model: nn.Module,
    seeds: Sequence[int],
    *,
    labels: Sequence[int] | Tensor | None = None,
    sampler: SamplerSettings | None = None,
    guide: nn.Module | None = None,
    discriminator: nn.Module | None = None,
) -> Tensor:
    """Draw one image per seed, about ``sampler.batch_size`` of them per network call.

    Args:
        model: From :func:`ddo_engine.load_model`.
        seeds: One per image, integers from 0 to 2^64 - 1; image i depends on seed i (and its label) alone: on a CPU to
            the bit, on a GPU but for single grey levels.
        labels: Class indices; None draws those of a conditional model from the seeds, or, for
            ``sampler.labels = "balanced"``, takes seed mod number of classes.
        sampler: How to draw; None takes the family's default (EDM's for CIFAR-10, EDM2's, VAR without guidance).
        guide: The network that guides, for ``sampler.guidance_scale``; see the sampler's settings.
        discriminator: The network that corrects, for ``sampler.discriminator_weight``.

    Returns:
        uint8, shape (B, C, H, W), on the CPU.

    Raises:
        ValueError: No seeds, or others than integers; or not as many labels as seeds, each a class of the model.
        InvalidSpec: The sampler is not one for the model's family, or guidance has no guide or no discriminator.
        NonFiniteLoss: The model draws NaN or infinite pixels.
    """
    family = get_family(str(model.family))
    sampler = sampler or family.default_sampler
    label_dim = int(model.label_dim)  # type: ignore[arg-type]  # ImageModel
    seeds = _plain_seeds(seeds)
    labels_B = None if labels is None else _class_indices(labels, len(seeds), label_dim)
    if labels_B is None and sampler.labels is LabelDistribution.BALANCED:
        labels_B = labels_for_seeds(seeds, label_dim, sampler.labels, ())
    batch_size = images_at_once(model, sampler)
    return torch.cat(
        [
            _sample_padded(
                model,
                family,
                seeds[start : start + batch_size],
                None if labels_B is None else labels_B[start : start + batch_size],
                sampler,
                guide,
                discriminator,
            )
            for start in range(0, len(seeds), batch_size)
        ]
    )


def _plain_seeds(seeds: Sequence[int]) -> list[int]:
    """Return seeds, which may be NumPy's or torch's integers, as Python's."""
    try:
        plain = [index(seed) for seed in seeds]
    except TypeError as error:
        raise ValueError(f"seeds: must be integers from 0 to 2^64 - 1 ({error})") from error
    if not plain:
        raise ValueError("seeds: give at least one")
    if wrong := [seed for seed in plain if not 0 <= seed < 2**64]:
        raise ValueError(f"seeds: must be integers from 0 to 2^64 - 1, not {wrong[0]}")
    return plain


def _class_indices(labels: Sequence[int] | Tensor, num_images: int, label_dim: int) -> Tensor:
    labels_B = torch.as_tensor(labels)
    if (
        labels_B.shape != (num_images,)
        or labels_B.is_floating_point()
        or not bool(((labels_B >= 0) & (labels_B < label_dim)).all())
    ):
        raise ValueError(f"labels must be {num_images} class indices, one per seed, in 0 … {label_dim - 1}")
    return labels_B.to(torch.int64)


def images_at_once(model: nn.Module, sampler: SamplerSettings) -> int:
    """Return how many images are drawn together: rows that a CPU would only be padded with may as well be images."""
    return _multiple_of_rows(sampler.batch_size) if _is_on_cpu(model) else sampler.batch_size


def _is_on_cpu(model: nn.Module) -> bool:
    return next(model.parameters()).device.type == "cpu"


def _multiple_of_rows(count: int) -> int:
    return -(-count // ROWS_OF_A_CALL) * ROWS_OF_A_CALL


def _sample_padded(
    model: nn.Module,
    family: Family,
    seeds: Sequence[int],
    labels_B: Tensor | None,
    sampler: SamplerSettings,
    guide: nn.Module | None,
    discriminator: nn.Module | None,
) -> Tensor:
    """Draw a batch in network calls of a number of rows that does not depend on what else is drawn.

    On a CPU any multiple of ``ROWS_OF_A_CALL`` will do; elsewhere kernels are chosen by the exact shape, and it is the
    sampler's batch size.
    """
    rows = _multiple_of_rows(len(seeds)) if _is_on_cpu(model) else sampler.batch_size
    missing = rows - len(seeds)
    padded_seeds = [*seeds, *[seeds[-1]] * missing]
    padded_labels = None if labels_B is None else torch.cat([labels_B, labels_B[-1:].expand(missing)])
    images_BCHW = family.sample(model, padded_seeds, padded_labels, sampler, guide=guide, discriminator=discriminator)
    return images_BCHW[: len(seeds)]
