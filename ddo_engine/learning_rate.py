"""Learning rate: linear warm-up, then a half cosine."""

import math

from ddo_engine.spec import TrainingSettings


def learning_rate_at(step: int, training: TrainingSettings) -> float:
    """Return the learning rate of optimizer step ``step`` (0-based).

    The rate is a function of the images seen *after* the step, so that the first step already moves the
    weights, the step that completes the warm-up runs at the peak, and the last step at
    ``final_learning_rate_factor`` times the peak.

    Args:
        step: 0 … ``training.num_steps`` − 1.
        training: Peak, warm-up, length and final factor.
    """
    images = (step + 1) * training.batch_size
    warmup_images = training.warmup_kimg * 1000
    if images < warmup_images:
        return training.learning_rate * images / warmup_images
    total_images = training.num_steps * training.batch_size
    if total_images <= warmup_images:
        return training.learning_rate
    progress = (images - warmup_images) / (total_images - warmup_images)
    factor = training.final_learning_rate_factor
    return training.learning_rate * (factor + (1 - factor) * 0.5 * (1 + math.cos(math.pi * progress)))
