"""What a job will cost, from its spec alone: the answer to ``POST /jobs?dry_run=true`` and the weights of its progress.

Counted in network forward passes on one image, as the paper's costs compare best: a training step costs the target
three (forward, and a backward of twice that) and the reference one, on the data and on as many fakes. Fakes that are
drawn online are part of the step; those of rows without label, which are not drawn, are counted all the same. The
probe of a trial whose beta is 'auto' takes such steps too, and evaluates nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ddo_engine.spec import EvaluationSettings, JobSpec, OfflineReferenceSet, RoundSettings
from service.api.jobs.baseline_estimate import BaselineEstimate, estimate_baselines
from service.api.jobs.step_costs import PASSES_OF_A_DDO_STEP, num_evaluations
from service.selection import confirm_protocol, judging_protocols
from service.stopping import noise_protocols

# weights, EMA weights and Adam's two moments; every average for reconstruction comes on top
_STATE_SIZES = 4


@dataclass(frozen=True)
class UnitCost:
    """Network evaluations of one unit of each kind; ``trial`` is the mean over the grid, for 'auto' costs a probe."""

    baseline: int
    reference: float
    trial: float
    confirm: int

    def of(self, kind: str) -> float:
        """Return the cost of a unit; reading the inputs (``validate``) counts nothing."""
        return float(getattr(self, kind, 0))


def unit_cost(spec: JobSpec, round_index: int) -> UnitCost:
    """Return what each kind of unit costs in a round; the baseline's is that of round 0, whatever the round."""
    settings = spec.settings_of(round_index)
    training, cells = settings.training, settings.grid.cells
    images_of_a_trial = training.num_steps * training.batch_size + _probed_images(settings) / len(cells)
    stored, nfe_of_a_fake = _stored(spec), spec.sampler.for_reference_set().nfe
    passes_of_a_step = PASSES_OF_A_DDO_STEP + (nfe_of_a_fake if stored is None else 0)
    return UnitCost(
        baseline=sum(protocol.network_evaluations(spec.sampler) for protocol in _protocols_of_the_base(spec)),
        reference=0 if stored is None else stored.num_samples * nfe_of_a_fake / stored.shards,
        trial=images_of_a_trial * passes_of_a_step
        + num_evaluations(training) * spec.evaluation.network_evaluations(spec.sampler),
        confirm=confirm_protocol(spec).network_evaluations(spec.sampler) if spec.confirm else 0,
    )


def _probed_images(settings: RoundSettings) -> int:
    """Return how many real images the probes of a round see, all trials together."""
    probes = sum(cell.beta == "auto" for cell in settings.grid.cells)
    return probes * settings.training.num_probe_steps * settings.training.batch_size


def _stored(spec: JobSpec) -> OfflineReferenceSet | None:
    return spec.reference_set if isinstance(spec.reference_set, OfflineReferenceSet) else None


def _protocols_of_the_base(spec: JobSpec) -> list[EvaluationSettings]:
    return [*judging_protocols(spec), *noise_protocols(spec)]


@dataclass(frozen=True)
class PhaseEstimate:
    """Rounds in a row that have the same settings, and what they cost together.

    Attributes:
        snapshots: Averages written beside the checkpoints, each of a checkpoint's size: ``ema_snapshot_stds``.
        weights_in_states: How many times the weights the newest training states of all trials hold.
    """

    first_round: int
    last_round: int
    settings: RoundSettings
    units: dict[str, int]
    trials: int
    trained_images: int
    generated_images: int
    network_evaluations: int
    checkpoints: int
    snapshots: int
    weights_in_states: int


@dataclass(frozen=True)
class Estimate:
    """The size of a whole job, should no round stop it early; ``phases`` leaves round 0 and validation out.

    ``trials`` and ``trained_images`` are those of the rounds, the other numbers count the baselines too.
    """

    units: dict[str, int]
    trials: int
    trained_images: int
    generated_images: int
    network_evaluations: int
    checkpoints: int
    checkpoint_bytes: int
    snapshot_bytes: int
    state_bytes: int
    phases: tuple[PhaseEstimate, ...]
    baselines: tuple[BaselineEstimate, ...]


def estimate(spec: JobSpec, *, checkpoint_bytes: int) -> Estimate:
    """Return the size of a job.

    Args:
        spec: The job.
        checkpoint_bytes: Size of its base checkpoint, which those it trains will have too.
    """
    firsts = [1, *(item.from_round for item in spec.round_overrides if item.from_round <= spec.rounds)]
    lasts = [first - 1 for first in firsts[1:]] + [spec.rounds]
    phases = tuple(_phase(spec, first, last) for first, last in zip(firsts, lasts, strict=True))
    units = {"validate": 1, "baseline": 1}
    units |= {kind: sum(phase.units[kind] for phase in phases) for kind in phases[0].units}
    baselines = estimate_baselines(spec)
    for baseline in baselines:
        for kind, count in baseline.units.items():
            units[kind] = units.get(kind, 0) + count
    parts: tuple[PhaseEstimate | BaselineEstimate, ...] = (*phases, *baselines)
    checkpoints = 1 + sum(part.checkpoints for part in parts)
    evaluations = unit_cost(spec, 1).baseline + sum(part.network_evaluations for part in parts)
    return Estimate(
        units=units,
        trials=units["trial"],
        trained_images=sum(phase.trained_images for phase in phases),
        generated_images=sum(protocol.generated_images() for protocol in _protocols_of_the_base(spec))
        + sum(part.generated_images for part in parts),
        network_evaluations=evaluations,
        checkpoints=checkpoints,
        checkpoint_bytes=checkpoints * checkpoint_bytes,
        snapshot_bytes=sum(phase.snapshots for phase in phases) * checkpoint_bytes,
        state_bytes=(sum(phase.weights_in_states for phase in phases) + _STATE_SIZES * _trained(baselines))
        * checkpoint_bytes,
        phases=phases,
        baselines=baselines,
    )


def _trained(baselines: Sequence[BaselineEstimate]) -> int:
    """Return how many baselines hold a training state of the base's size; a discriminator's is small beside it."""
    return sum(bool(baseline.checkpoints) for baseline in baselines)


def _phase(spec: JobSpec, first: int, last: int) -> PhaseEstimate:
    rounds, settings = last - first + 1, spec.settings_of(first)
    trials_a_round, evaluations = len(settings.grid.cells), num_evaluations(settings.training)
    finalists = min(spec.confirm.finalists, trials_a_round) if spec.confirm else 0
    stored, cost = _stored(spec), unit_cost(spec, first)
    trials = rounds * trials_a_round
    units = {
        "reference": rounds * (stored.shards if stored else 0),
        "trial": trials,
        "confirm": rounds * finalists,
    }
    trained = trials * settings.training.num_steps * settings.training.batch_size
    fakes = rounds * stored.num_samples if stored else trained + rounds * _probed_images(settings)
    averages = len(settings.training.ema_snapshot_stds)
    return PhaseEstimate(
        first_round=first,
        last_round=last,
        settings=settings,
        units=units,
        trials=trials,
        trained_images=trained,
        generated_images=trials * evaluations * spec.evaluation.generated_images()
        + fakes
        + (units["confirm"] * confirm_protocol(spec).generated_images() if spec.confirm else 0),
        network_evaluations=round(sum(count * cost.of(kind) for kind, count in units.items())),
        checkpoints=trials * evaluations,
        snapshots=trials * evaluations * averages,
        weights_in_states=trials * (_STATE_SIZES + averages),
    )
