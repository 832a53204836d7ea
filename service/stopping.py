"""How far a job's rounds have come, and whether another is worth its cost. Pure, as the planner is."""

from dataclasses import dataclass
from statistics import stdev

from ddo_engine.spec import EvaluationSettings, JobSpec
from service.job_view import JobView
from service.selection import InconsistentRowsError, deciding_fids, deciding_protocol, difference, ranking_rows
from service.statuses import RoundStatus, UnitKind

_SEEDS = 2**31


@dataclass(frozen=True)
class Standing:
    """What the completed rounds have come to.

    Attributes:
        best_id: The checkpoint with the lowest FID so far, the base's included: the next round's reference.
        best_fid: Its FID.
        reached_fid: The FID at the last improvement that counts; at first the base's.
        threshold: What a round must gain on ``reached_fid`` by more than, to count.
        noise: Standard deviation of a FID over seeds; 0 where nothing is known of it.
        rounds_without_improvement: The newest rounds in a row that did not count.
    """

    best_id: str
    best_fid: float
    reached_fid: float
    threshold: float
    noise: float
    rounds_without_improvement: int


def noise_protocols(spec: JobSpec) -> list[EvaluationSettings]:
    """Return the evaluations of the base that measure the noise: the deciding protocol on other latents."""
    protocol = deciding_protocol(spec)
    if protocol.rank_by == "sampler_scale":
        protocol = protocol.at_one_scale()
    count = spec.stop.noise_seeds or 0
    seeds = [(protocol.seed + (index + 1) * protocol.num_samples) % _SEEDS for index in range(count)]
    return [protocol.model_copy(update={"seed": seed}) for seed in seeds]


def standing(job: JobView) -> Standing:
    """Return what the completed rounds have come to. Only once round 1 is completed.

    Raises:
        InconsistentRowsError: A number is missing, or rounds were measured under different protocols.
    """
    noise = _noise(job)
    threshold = job.spec.stop.threshold(noise)
    completed = [item for item in job.rounds[1:] if item.status is RoundStatus.COMPLETED]
    known = [deciding_fids(job, item) for item in completed]
    other = next((found.fingerprints for found in known if found.fingerprints != known[0].fingerprints), None)
    if other is not None:
        differs = difference(job, known[0].fingerprints - other, other - known[0].fingerprints)
        raise InconsistentRowsError(f"the rounds were measured under different protocols{differs}")
    reached, stale, best_id, best_fid = known[0].reference_fid, 0, job.base.id, known[0].reference_fid
    for item, found in zip(completed, known, strict=True):
        assert item.winner_id is not None
        fid = found.candidates[item.winner_id]
        if fid < best_fid:
            best_id, best_fid = item.winner_id, fid
        # against the last improvement, not the last round: small steps add up until they count
        if fid < reached - threshold:
            reached, stale = fid, 0
        else:
            stale += 1
    return Standing(best_id, best_fid, reached, threshold, noise, stale)


def in_words(now: Standing, spec: JobSpec) -> str:
    """Return why a job ends after the rounds that it has had."""
    if now.rounds_without_improvement < spec.stop.patience_rounds:
        rounds = "The only round" if spec.rounds == 1 else f"All {spec.rounds} rounds"
        return f"{rounds} done: the FID has come to {now.best_fid:.6g}."
    count = now.rounds_without_improvement
    rounds = "The last round" if count == 1 else f"The last {count} rounds"
    if now.threshold == 0:
        return f"{rounds} did not bring the FID below {now.reached_fid:.6g}."
    source = ""
    if now.threshold == 2 * now.noise:
        given = "measured" if spec.stop.noise_seeds else "given"
        source = f", twice the {given} noise of the evaluation"
    return (
        f"{rounds} did not bring the FID below {now.reached_fid:.6g} by more than {now.threshold:.3g}{source}; the "
        f"lowest is {now.best_fid:.6g}."
    )


def _noise(job: JobView) -> float:
    """Return the standard deviation of a FID over seeds: given, measured on the base, or 0."""
    stop = job.spec.stop
    if stop.noise_seeds is None:
        return stop.evaluation_noise or 0.0
    protocol = deciding_protocol(job.spec)
    wanted = {protocol.seed, *(other.seed for other in noise_protocols(job.spec))}
    units = {unit.id for unit in job.units_of(UnitKind.BASELINE, 0)}
    of_base = [row for row in job.evaluations if row.unit_id in units and row.num_samples == protocol.num_samples]
    by_seed = {seed: ranking_rows(job.spec, [row for row in of_base if row.seed == seed]) for seed in wanted}
    fids = [row.fid for rows in by_seed.values() for row in rows if row.fid is not None]
    if len(fids) != len(wanted):
        raise InconsistentRowsError(f"the base has {len(fids)} of the {len(wanted)} FIDs that the noise is measured by")
    return stdev(fids)
