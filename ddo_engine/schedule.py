"""At which steps a run evaluates, saves and reports: pure functions of its settings."""

import math
from dataclasses import dataclass

from ddo_engine.spec import TrainingSettings

METRIC_WINDOWS = 20


@dataclass(frozen=True)
class Schedule:
    """What is due once a step is done; the first step is step 1, the last ``training.num_steps``."""

    training: TrainingSettings

    def kimg_at(self, step: int) -> float:
        """Return how many thousand real images have been seen."""
        return step * self.training.batch_size / 1000

    def evaluates_at(self, step: int) -> bool:
        """Tell whether the EMA weights are evaluated: every ``evaluate_every_kimg``, and at the end."""
        return step == self.training.num_steps or passes_multiple_of(
            self.training.evaluate_every_kimg, step, self.training.batch_size
        )

    def saves_state_at(self, step: int) -> bool:
        """Tell whether the state is written: after every evaluation, and every ``save_state_every_kimg``."""
        every = self.training.save_state_every_kimg
        return self.evaluates_at(step) or (
            every is not None and passes_multiple_of(every, step, self.training.batch_size)
        )

    def reports_at(self, step: int) -> bool:
        """Tell whether a window of diagnostics ends: some twenty times in a run."""
        return ends_window(step, self.training.num_steps)


def ends_window(step: int, num_steps: int) -> bool:
    """Tell whether a window of diagnostics ends with a step: some twenty times in a run."""
    return step > 0 and step * METRIC_WINDOWS // num_steps > (step - 1) * METRIC_WINDOWS // num_steps


def passes_multiple_of(kimg: float, step: int, batch_size: int) -> bool:
    """Tell whether a step passes or meets a multiple of so many thousand images; a shorter stretch ends every step."""
    images = kimg * 1000
    if step == 0 or images <= batch_size:
        return step > 0
    # A millionth of a step: 76,800 images are three times 25.6 kimg, though 3 * 25.6 * 1000 may exceed them.
    slack = 1e-6 * batch_size / images
    return math.floor(step * batch_size / images + slack) > math.floor((step - 1) * batch_size / images + slack)
