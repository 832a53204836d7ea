"""Finding beta: a short run whose loss has no sigmoid shows how far log-likelihood ratios spread.

The sigmoid of ``beta * ratio`` brakes where its argument reaches some units; how large ratios become depends on the
model, its number of pixels or tokens above all, the learning rate and the noise. So beta cannot be told beforehand, but
1 / std(ratio) can be measured: it puts the spread of the ratios at the sigmoid's bend.
"""

import math
from collections.abc import Mapping

import torch

from ddo_engine.errors import InvalidSpec
from ddo_engine.events import ProgressReporter
from ddo_engine.spec import BetaFound, CosineSchedule, TrainSpec
from ddo_engine.trial import Trial, diagnostics_of

PROBE_SHARE = 0.05
# Of the probe's steps; the ratio still grows in it, and the trial begins where it ends.
MEASURED_SHARE = 0.25
LARGEST_BETA = 1e6


def probe_spec(spec: TrainSpec) -> TrainSpec:
    """Return the run that a trial's beta is found by.

    It trains as the trial does, but for the following. The rate is the peak's from the first step: a warm-up may last
    the whole trial, and its first steps move next to nothing. Gradients are not shortened: theirs is the scale of a
    loss that was divided by beta. Nothing is averaged, evaluated or written.
    """
    training = spec.training
    probing = training.model_copy(
        update={
            "kimg": training.probe_kimg or training.kimg * PROBE_SHARE,
            "schedule": CosineSchedule(),
            "warmup_kimg": 0.0,
            "final_learning_rate_factor": 1.0,
            "final_weight_decay": None,
            "max_gradient_norm": None,
            "ema_half_life_kimg": 0.0,
            "ema_rampup_ratio": None,
            "ema_std": None,
            "ema_snapshot_stds": (),
        }
    )
    return spec.model_copy(update={"training": probing, "evaluation": None, "state": None})


def find_beta(probe: Trial) -> BetaFound:
    """Run the probe.

    Args:
        probe: Of :func:`probe_spec`, at step 0, with the loss of a beta that is to be found.

    Raises:
        InvalidSpec: The ratios did not move.
        Interrupted: A stop was requested; the probe starts again with the next run.
        NonFiniteLoss: It diverged.
        OutOfMemory: The device ran out of memory.
    """
    training = probe.spec.training
    names = diagnostics_of(training, probe.loss)
    num_measured = max(round(training.num_steps * MEASURED_SHARE), 1)
    progress = ProgressReporter(probe.context.events, "probe", training.num_steps * training.batch_size)
    variances = []
    for step in range(training.num_steps):
        progress.update(step * training.batch_size)
        probe.context.stop.check()
        values_K = probe.advance()
        if step >= training.num_steps - num_measured:
            variances.append(pooled_variance(dict(zip(names, values_K.tolist(), strict=True))))
    progress.update(training.num_steps * training.batch_size)
    std = math.sqrt(torch.tensor(variances, dtype=torch.float64).mean().item())
    if std < 1 / LARGEST_BETA:
        raise InvalidSpec(
            f"objective.beta: 'auto' finds nothing where the ratios spread by only {std:.2g} nats after a probe of "
            f"{training.num_steps} steps: raise training.probe_kimg or training.learning_rate, or give beta a number",
            param="objective.beta",
        )
    return BetaFound(beta=1 / std, ratio_std=std, num_steps=training.num_steps)


def pooled_variance(values: Mapping[str, float]) -> float:
    """Return the variance of the ratios of one step, real and fake rows taken together, about their common mean."""
    within = (values["ratio_real_std"] ** 2 + values["ratio_fake_std"] ** 2) / 2
    return within + ((values["ratio_real_mean"] - values["ratio_fake_mean"]) / 2) ** 2
