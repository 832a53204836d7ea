"""The learning rate and the weight decay of every step."""

import math
from typing import Literal

from ddo_engine.spec import CosineSchedule, EDM2Schedule, EDMSchedule, TrainingSettings

VAR_CONSTANT_SHARE = 0.05


def learning_rate_at(step: int, training: TrainingSettings) -> float:
    """Return the learning rate of optimizer step ``step`` (0-based).

    Args:
        step: 0 … ``training.num_steps`` − 1.
        training: Schedule, peak, warm-up, length and final factor.
    """
    schedule, peak = training.schedule, training.learning_rate
    images_before, warmup_images = step * training.batch_size, training.warmup_kimg * 1000
    if isinstance(schedule, CosineSchedule):
        return cosine_learning_rate(
            images_before + training.batch_size,
            peak=peak,
            warmup_images=warmup_images,
            total_images=training.num_steps * training.batch_size,
            final_factor=training.final_learning_rate_factor,
        )
    if isinstance(schedule, EDMSchedule):
        return edm_learning_rate(images_before, peak=peak, warmup_images=warmup_images)
    if isinstance(schedule, EDM2Schedule):
        return edm2_learning_rate(
            images_before,
            peak=peak,
            warmup_images=warmup_images,
            reference_images=schedule.decay_reference_batches * training.batch_size,
        )
    return var_learning_rate(
        step,
        peak=peak,
        num_steps=training.num_steps,
        warmup_steps=warmup_images / training.batch_size,
        initial_factor=schedule.initial_factor,
        final_factor=training.final_learning_rate_factor,
        decay=schedule.decay,
    )


def weight_decay_at(step: int, training: TrainingSettings) -> float:
    """Return the weight decay of optimizer step ``step`` (0-based)."""
    if training.final_weight_decay is None:
        return training.weight_decay
    return var_weight_decay(
        step, num_steps=training.num_steps, initial=training.weight_decay, final=training.final_weight_decay
    )


def cosine_learning_rate(
    images_after: int, *, peak: float, warmup_images: float, total_images: int, final_factor: float
) -> float:
    """Return the rate of a linear warm-up and half a cosine.

    A function of the images seen *after* the step, so that the first step already moves the weights, the step that
    completes the warm-up runs at the peak, and the last step at ``final_factor`` times the peak.
    """
    if images_after < warmup_images:
        return peak * images_after / warmup_images
    if total_images <= warmup_images:
        return peak
    progress = (images_after - warmup_images) / (total_images - warmup_images)
    return peak * (final_factor + (1 - final_factor) * 0.5 * (1 + math.cos(math.pi * progress)))


def edm_learning_rate(images_before: int, *, peak: float, warmup_images: float) -> float:
    """Return the rate of a linear warm-up that counts the images *before* the step: the first step has rate 0.

    Source: arXiv:2206.00364, table 7 (learning rate ramp-up).
    """
    return peak * min(images_before / warmup_images, 1.0) if warmup_images > 0 else peak


def edm2_learning_rate(images_before: int, *, peak: float, warmup_images: float, reference_images: float) -> float:
    """Return EDM's warm-up times ``1 / sqrt(max(images / reference, 1))``; no decay where ``reference_images`` is 0.

    Source: arXiv:2312.02696, eq. 67.
    """
    rate = edm_learning_rate(images_before, peak=peak, warmup_images=warmup_images)
    return rate / math.sqrt(max(images_before / reference_images, 1.0)) if reference_images > 0 else rate


def var_learning_rate(
    step: int,
    *,
    peak: float,
    num_steps: int,
    warmup_steps: float,
    initial_factor: float,
    final_factor: float,
    decay: Literal["lin0", "cos"],
) -> float:
    """Return VAR's learning rate of step ``step`` (0-based): the warm-up starts, and the decay ends, on a step.

    Args:
        step: 0 … ``num_steps`` − 1; the last one has ``final_factor`` times the peak.
        peak: Highest rate.
        num_steps: Of the run.
        warmup_steps: Steps below the peak.
        initial_factor: Share of the peak in step 0, if there is a warm-up.
        final_factor: Share of the peak in the last step.
        decay: ``lin0``: the peak for 5 % of the steps after warm-up, then linear. ``cos``: half a cosine.
    """
    if step < warmup_steps:
        return peak * (initial_factor + (1 - initial_factor) * step / warmup_steps)
    steps_of_decay = num_steps - 1 - warmup_steps
    if steps_of_decay <= 0:
        return peak
    progress = (step - warmup_steps) / steps_of_decay
    if decay == "cos":
        remaining = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        remaining = min((1 - progress) / (1 - VAR_CONSTANT_SHARE), 1.0)
    return peak * (final_factor + (1 - final_factor) * remaining)


def var_weight_decay(step: int, *, num_steps: int, initial: float, final: float) -> float:
    """Return VAR's weight decay of step ``step`` (0-based): half a cosine from ``initial`` to ``final``.

    VAR-d30 goes from 0.05 to 0.08; the smaller models stay at 0.05.
    """
    if num_steps == 1:
        return initial
    return final + (initial - final) * 0.5 * (1 + math.cos(math.pi * step / (num_steps - 1)))
