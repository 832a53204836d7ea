"""What a training step costs, and how often a trial evaluates: what rounds and baselines share of an estimate."""

import math

from ddo_engine.spec import TrainingSettings

# for an image and its fake: forward and backward of the target, forward of the reference
PASSES_OF_A_DDO_STEP = 2 * (3 + 1)
PASSES_OF_AN_MLE_STEP = 3


def num_evaluations(training: TrainingSettings) -> int:
    """Return how often a trial evaluates: every ``evaluate_every_kimg``, and at its end."""
    batch, every = training.batch_size, training.evaluate_every_kimg * 1000
    if every <= batch:
        return training.num_steps
    slack = 1e-6 * batch / every

    def passed(step: int) -> int:
        return math.floor(step * batch / every + slack)

    last = training.num_steps
    return passed(last) + (0 if passed(last) > passed(last - 1) else 1)
