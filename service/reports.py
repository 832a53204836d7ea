"""Stores what a running unit reports. Fenced, and idempotent: a resumed trial replays steps that are known already.

What is stored first stays. A replay that brings other numbers or bytes is noted as ``unit.replay_mismatch``: resuming
is to repeat the same bits, so it points at a defect or at a change of machine.
"""

from pathlib import Path
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from ddo_engine.spec import (
    AutoregressiveSettings,
    BetaFound,
    Evaluated,
    EvaluateSpec,
    FileRef,
    FileRole,
    FileWritten,
    Metric,
    Performance,
    Progress,
    Report,
    Started,
    TrainingWarning,
    TrainSpec,
    UnitSpec,
)
from service.job_view import JobInputs
from service.keys import key_of
from service.leases import Claim, finish, hold
from service.models import Artifact, Checkpoint, Evaluation, Job, TrainingMetric, Trial, WorkUnit
from service.statuses import UnitKind
from service.transitions import LeaseLostError, add_event

_SEVERAL_OF_A_UNIT = (FileRole.SNAPSHOT, FileRole.SAMPLES)


def record_started(session: Session, claim: Claim, event: Started) -> None:
    """Note on what an attempt runs, and from where it resumed."""
    hold(session, claim)
    _tell(session, claim, "unit.started", **event.model_dump(mode="json", exclude={"type"}), attempt=claim.attempt)


def record_progress(session: Session, claim: Claim, event: Progress) -> None:
    """Overwrite the unit's progress. Raises LeaseLostError, as all of these do."""
    known = session.scalar(
        update(WorkUnit)
        .where(WorkUnit.id == claim.unit_id, WorkUnit.attempt == claim.attempt, WorkUnit.status == "running")
        .values(progress=event.model_dump(mode="json", exclude={"type"}))
        .returning(WorkUnit.id)
    )
    if known is None:
        raise LeaseLostError(claim.unit_id)


def record_metric(session: Session, claim: Claim, event: Metric) -> None:
    """Store training diagnostics of one step, once."""
    hold(session, claim)
    known = session.get(TrainingMetric, (claim.unit_id, event.step))
    if known is not None:
        _compare(session, claim, f"metric at step {event.step}", known.values, event.values)
        return
    session.add(TrainingMetric(unit_id=claim.unit_id, step=event.step, kimg=event.kimg, values=event.values))
    _tell(session, claim, f"{_trained_by(claim)}.metric", step=event.step, kimg=event.kimg, values=event.values)


def record_performance(session: Session, claim: Claim, event: Performance) -> None:
    """Note how fast and how large training is; a replayed window is another measurement."""
    hold(session, claim)
    _tell(session, claim, f"{_trained_by(claim)}.performance", **event.model_dump(mode="json", exclude={"type"}))


def record_beta(session: Session, claim: Claim, event: BetaFound) -> None:
    """Store the beta that a trial found, once."""
    hold(session, claim)
    trial = session.scalars(select(Trial).where(Trial.unit_id == claim.unit_id)).one()
    if trial.found_beta is not None:
        _compare(session, claim, "beta of the probe", trial.found_beta, event.beta)
        return
    trial.found_beta = event.beta
    _tell(session, claim, "trial.beta_found", found_beta=event.beta, ratio_std=event.ratio_std)


def record_warning(session: Session, claim: Claim, event: TrainingWarning) -> None:
    """Store a warning about a unit's training, once per code."""
    unit = hold(session, claim)
    warning = event.model_dump(mode="json", exclude={"type"})
    known = next((each for each in unit.warnings if each["code"] == event.code), None)
    if known is not None:
        _compare(session, claim, f"warning {event.code}", known, warning)
        return
    unit.warnings = [*unit.warnings, warning]
    _tell(session, claim, f"{_trained_by(claim)}.warning", **warning)


def record_evaluation(session: Session, claim: Claim, event: Evaluated) -> None:
    """Store the numbers of one evaluation, once, beside the checkpoint that they are of if it was kept."""
    hold(session, claim)
    known = session.scalar(
        select(Evaluation).where(
            Evaluation.unit_id == claim.unit_id,
            Evaluation.kimg == event.kimg,
            Evaluation.fingerprint == event.fingerprint,
        )
    )
    if known is not None:
        _compare(session, claim, f"evaluation at {event.kimg} kimg", known.metrics, event.metrics)
        return
    checkpoint_id = _evaluated_checkpoint(session, claim, event.kimg)
    samples_id = _samples_of(session, claim, event)
    session.add(
        Evaluation(
            job_id=claim.job_id,
            unit_id=claim.unit_id,
            checkpoint_id=checkpoint_id,
            kimg=event.kimg,
            fingerprint=event.fingerprint,
            protocol=event.protocol,
            metrics=event.metrics,
            samples_id=samples_id,
        )
    )
    _tell(
        session,
        claim,
        f"{_evaluated_for(claim)}.evaluated",
        kimg=event.kimg,
        fingerprint=event.fingerprint,
        num_samples=event.protocol.get("num_samples"),
        metrics=event.metrics,
        checkpoint_id=checkpoint_id,
        **({} if samples_id is None else {"samples_id": samples_id}),
        **_sampled_by(claim, event),
    )


def known_checkpoint(session: Session, claim: Claim, kimg: float) -> FileRef | None:
    """Return what is stored of this unit at ``kimg``: nothing needs uploading twice."""
    row = session.scalar(select(Checkpoint).where(Checkpoint.unit_id == claim.unit_id, Checkpoint.kimg == kimg))
    return None if row is None else FileRef(path=row.object_key, sha256=row.sha256, size_bytes=row.size_bytes)


def record_checkpoint(session: Session, claim: Claim, event: FileWritten, key: str) -> None:
    """Make an uploaded checkpoint exist.

    Args:
        key: Where the verified upload lies.
    """
    unit = hold(session, claim)
    kimg = event.kimg or 0.0
    known = known_checkpoint(session, claim, kimg)
    if known is not None:
        _compare(session, claim, f"checkpoint at {kimg} kimg", known.sha256, event.sha256)
        return
    assert isinstance(claim.spec, TrainSpec)
    checkpoint = Checkpoint(
        tenant_id=claim.tenant_id,
        job_id=claim.job_id,
        round_id=unit.round_id,
        unit_id=claim.unit_id,
        parent_checkpoint_id=_checkpoint_of(session, claim, claim.spec.checkpoint),
        kimg=kimg,
        object_key=key,
        sha256=event.sha256,
        size_bytes=event.size_bytes,
        manifest=event.info,
    )
    session.add(checkpoint)
    session.flush()
    # the engine may report an evaluation before the weights that it is of
    session.execute(
        update(Evaluation)
        .where(Evaluation.unit_id == claim.unit_id, Evaluation.kimg == kimg, Evaluation.checkpoint_id.is_(None))
        .values(checkpoint_id=checkpoint.id)
    )
    unit.crashes = 0
    told = {"kimg": kimg, "sha256": event.sha256, "size_bytes": event.size_bytes}
    _tell(session, claim, "checkpoint.created", checkpoint_id=checkpoint.id, **told)


def record_state(session: Session, claim: Claim, event: FileWritten, file: FileRef) -> FileRef | None:
    """Make an uploaded training state the one to resume from.

    Returns:
        The state that it replaces, to be deleted once this is committed.
    """
    unit = hold(session, claim)
    previous = None if unit.state is None else FileRef.model_validate(unit.state)
    kimg = event.kimg or 0.0
    if unit.state_kimg is None or kimg > unit.state_kimg:
        unit.crashes = 0
        unit.state_kimg = kimg
    unit.state = file.model_dump(mode="json")
    _tell(session, claim, "unit.state_saved", kimg=kimg, size_bytes=event.size_bytes)
    return previous if previous is not None and previous.uri != file.uri else None


def drop_state(session: Session, claim: Claim, message: str) -> None:
    """Forget a training state that cannot be read, so that the unit starts anew rather than fail for ever.

    How far it had come stays known: doing the same again is no progress, and does not restore the budget of crashes.
    """
    unit = hold(session, claim)
    unit.state = None
    _tell(session, claim, "unit.state_dropped", message=message)


def record_artifact(session: Session, claim: Claim, event: FileWritten, key: str) -> None:
    """Make any other uploaded file of a unit exist, once per role, or where a unit has several once per name."""
    hold(session, claim)
    name = Path(event.path).name if event.role in _SEVERAL_OF_A_UNIT else ""
    known = session.scalar(
        select(Artifact).where(Artifact.unit_id == claim.unit_id, Artifact.role == event.role, Artifact.name == name)
    )
    if known is not None:
        _compare(session, claim, name or event.role, known.sha256, event.sha256)
        return
    values = {"sha256": event.sha256, "size_bytes": event.size_bytes}
    session.add(Artifact(unit_id=claim.unit_id, role=event.role, name=name, object_key=key, info=event.info, **values))
    if event.role is not FileRole.SAMPLES:  # the evaluation that follows tells of it
        _tell(session, claim, f"{event.role}.created", **({"name": name} if name else {}), **values)


def finish_validation(session: Session, claim: Claim, report: Report, inputs: JobInputs) -> list[str]:
    """Store the checked inputs with the success of the unit that checked them, and go on with the job.

    Returns:
        Units to ring for once the transaction is committed.
    """
    hold(session, claim)
    session.execute(update(Job).where(Job.id == claim.job_id).values(inputs=inputs.model_dump(mode="json")))
    return finish(session, claim, report=report.model_dump(mode="json", exclude={"type"}))


def _samples_of(session: Session, claim: Claim, event: Evaluated) -> str | None:
    """Return the picture of what the numbers are of; engines tell it before them."""
    statement = select(Artifact.id).where(
        Artifact.unit_id == claim.unit_id,
        Artifact.role == FileRole.SAMPLES,
        Artifact.info["fingerprint"].as_string() == event.fingerprint,
        Artifact.info["kimg"].as_float() == event.kimg,
    )
    return session.scalar(statement)


def _evaluated_checkpoint(session: Session, claim: Claim, kimg: float) -> str | None:
    if isinstance(claim.spec, EvaluateSpec):
        return _checkpoint_of(session, claim, claim.spec.checkpoint)
    statement = select(Checkpoint.id).where(Checkpoint.unit_id == claim.unit_id, Checkpoint.kimg == kimg)
    return session.scalar(statement)


def _checkpoint_of(session: Session, claim: Claim, file: FileRef) -> str | None:
    statement = select(Checkpoint.id).where(Checkpoint.job_id == claim.job_id, Checkpoint.object_key == key_of(file))
    return session.scalar(statement)


def _trained_by(claim: Claim) -> str:
    return "trial" if claim.baseline_index is None else "baseline"


def _evaluated_for(claim: Claim) -> str:
    if claim.baseline_index is not None:
        return "baseline"
    return "trial" if claim.kind is UnitKind.TRIAL else "checkpoint"


def _compare(session: Session, claim: Claim, what: str, stored: Any, replayed: Any) -> None:
    if stored != replayed:
        _tell(session, claim, "unit.replay_mismatch", what=what, stored=stored, replayed=replayed)


def _named(spec: UnitSpec) -> dict[str, Any]:
    """Return what tells a baseline's unit from its others: what it trains by, or what its samples were changed by."""
    if isinstance(spec, TrainSpec):
        return {"objective": spec.objective.kind}
    if not isinstance(spec, EvaluateSpec) or isinstance(spec.sampler, AutoregressiveSettings):
        return {}
    return {"discriminator_weight": spec.sampler.discriminator_weight} if spec.sampler.is_corrected else {}


def _sampled_by(claim: Claim, event: Evaluated) -> dict[str, float]:
    """Return the guidance scale behind the numbers; nothing where there is no guidance."""
    assert isinstance(claim.spec, TrainSpec | EvaluateSpec)
    scale = event.protocol["sampler"]["guidance_scale"]
    return {"guidance_scale": scale} if claim.spec.sampler.at_scale(scale).is_guided else {}


def _tell(session: Session, claim: Claim, type_: str, **data: Any) -> None:
    where: dict[str, Any] = {"kind": claim.kind, "round_index": claim.round_index, "position": claim.position}
    if isinstance(claim.spec, TrainSpec) and claim.spec.objective.kind == "ddo":
        where |= {"alpha": claim.spec.objective.alpha, "beta": claim.spec.objective.beta}
    if claim.baseline_index is not None:
        where |= {"baseline_index": claim.baseline_index} | _named(claim.spec)
    add_event(session, claim.job_id, type_, unit_id=claim.unit_id, **where, **data)
