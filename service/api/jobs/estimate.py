"""What a job will cost, from its spec alone: the answer to ``POST /jobs?dry_run=true`` and the weights of its progress.

Counted in network forward passes on one image, as the paper's costs compare best: a training step costs the target
three (forward, and a backward of twice that) and the reference one, on the data and on as many fakes. Fakes that are
drawn online are part of the step; those of rows without label, which are not drawn, are counted all the same.
"""

import math
from dataclasses import dataclass

from ddo_engine.spec import JobSpec, OfflineReferenceSet, TrainingSettings

_PASSES_OF_A_DDO_STEP = 2 * (3 + 1)
# weights, EMA weights and Adam's two moments
_STATE_SIZES = 4


@dataclass(frozen=True)
class UnitCost:
    """Network evaluations of one unit of each kind."""

    baseline: int
    reference: float
    trial: int
    confirm: int

    def of(self, kind: str) -> float:
        """Return the cost of a unit; reading the inputs (``validate``) counts nothing."""
        return float(getattr(self, kind, 0))


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


def unit_cost(spec: JobSpec) -> UnitCost:
    """Return what each kind of unit costs."""
    nfe, training = spec.sampler.nfe, spec.training
    confirm_samples = spec.confirm.num_samples if spec.confirm else 0
    trained_images = training.num_steps * training.batch_size
    stored, nfe_of_a_fake = _stored(spec), spec.sampler.for_reference_set().nfe
    passes_of_a_step = _PASSES_OF_A_DDO_STEP + (nfe_of_a_fake if stored is None else 0)
    return UnitCost(
        baseline=(spec.evaluation.num_samples + confirm_samples) * nfe,
        reference=0 if stored is None else stored.num_samples * nfe_of_a_fake / stored.shards,
        trial=trained_images * passes_of_a_step + num_evaluations(training) * spec.evaluation.num_samples * nfe,
        confirm=confirm_samples * nfe,
    )


def _stored(spec: JobSpec) -> OfflineReferenceSet | None:
    return spec.reference_set if isinstance(spec.reference_set, OfflineReferenceSet) else None


@dataclass(frozen=True)
class Estimate:
    """The size of a whole job, should no round stop it early."""

    units: dict[str, int]
    trials: int
    trained_images: int
    generated_images: int
    network_evaluations: int
    checkpoints: int
    checkpoint_bytes: int
    state_bytes: int


def estimate(spec: JobSpec, *, checkpoint_bytes: int) -> Estimate:
    """Return the size of a job.

    Args:
        spec: The job.
        checkpoint_bytes: Size of its base checkpoint, which those it trains will have too.
    """
    trials_a_round, evaluations = len(spec.grid.cells), num_evaluations(spec.training)
    finalists = min(spec.confirm.finalists, trials_a_round) if spec.confirm else 0
    stored = _stored(spec)
    units = {
        "validate": 1,
        "baseline": 1,
        "reference": spec.rounds * (stored.shards if stored else 0),
        "trial": spec.rounds * trials_a_round,
        "confirm": spec.rounds * finalists,
    }
    trials = units["trial"]
    trained = trials * spec.training.num_steps * spec.training.batch_size
    cost = unit_cost(spec)
    sampled = (
        trials * evaluations * spec.evaluation.num_samples
        + (spec.rounds * stored.num_samples if stored else trained)
        + spec.evaluation.num_samples
        + (units["confirm"] + 1) * (spec.confirm.num_samples if spec.confirm else 0)
    )
    checkpoints = 1 + trials * evaluations
    return Estimate(
        units=units,
        trials=trials,
        trained_images=trained,
        generated_images=sampled,
        network_evaluations=round(sum(count * cost.of(kind) for kind, count in units.items())),
        checkpoints=checkpoints,
        checkpoint_bytes=checkpoints * checkpoint_bytes,
        state_bytes=trials * _STATE_SIZES * checkpoint_bytes,
    )
