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
from ddo_engine.spec import BetaFound, TrainSpec
from ddo_engine.trial import Trial, diagnostics_of

# Without a sigmoid, fakes that weigh as much as data are unlearned faster and faster; at half the weight the spread of
# the ratios depends little on the length of the probe (docs/decisions/0018-beta-and-diagnostics.md).
LARGEST_ALPHA = 0.5
# Of the probe's steps; the ratio still grows in it, and the trial begins where it ends.
MEASURED_SHARE = 0.25
LARGEST_BETA = 1e6


def probe_spec(spec: TrainSpec) -> TrainSpec:
    """Return the run that a trial's beta is found by.

    Its steps are the trial's first ones, warm-up and all, on the same images, but for the loss. In that a large alpha
    counts as :data:`LARGEST_ALPHA`: in the trial the sigmoid soon takes the fakes' weight down, whatever alpha is.
    Gradients are not shortened: theirs is the scale of a loss that was divided by beta. Nothing is averaged, evaluated
    or written.
    """
    assert spec.objective.kind == "ddo"
    objective = spec.objective.model_copy(update={"alpha": min(spec.objective.alpha, LARGEST_ALPHA)})
    probing = spec.training.model_copy(
        update={
            "max_gradient_norm": None,
            "ema_half_life_kimg": 0.0,
            "ema_rampup_ratio": None,
            "ema_std": None,
            "ema_snapshot_stds": (),
        }
    )
    return spec.model_copy(update={"objective": objective, "training": probing, "evaluation": None, "state": None})


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
    num_steps = training.num_probe_steps
    names = diagnostics_of(training, probe.loss)
    num_measured = max(round(num_steps * MEASURED_SHARE), 1)
    progress = ProgressReporter(probe.context.events, "probe", num_steps * training.batch_size)
    variances = []
    for step in range(num_steps):
        progress.update(step * training.batch_size)
        probe.context.check_stop()
        values_K = probe.advance()
        if step >= num_steps - num_measured:
            variances.append(pooled_variance(dict(zip(names, values_K.tolist(), strict=True))))
    progress.update(num_steps * training.batch_size)
    std = math.sqrt(torch.tensor(variances, dtype=torch.float64).mean().item())
    if std < 1 / LARGEST_BETA:
        raise InvalidSpec(
            f"objective.beta: 'auto' finds nothing where the ratios spread by only {std:.2g} nats after a probe of "
            f"{num_steps} steps: raise training.probe_kimg or training.learning_rate, or give beta a number",
            param="objective.beta",
        )
    return BetaFound(beta=1 / std, ratio_std=std, num_steps=num_steps)


def pooled_variance(values: Mapping[str, float]) -> float:
    """Return the variance of the ratios of one step, real and fake rows taken together, about their common mean."""
    within = (values["ratio_real_std"] ** 2 + values["ratio_fake_std"] ** 2) / 2
    return within + ((values["ratio_real_mean"] - values["ratio_fake_mean"]) / 2) ** 2
