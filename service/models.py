"""The tables. Postgres owns the truth; nothing here knows about HTTP, Celery or torch.

    tenants ─< api_keys
    tenants ─< jobs ─< rounds ─< trials ─ work_units
                  └─< work_units ─< evaluations, training_metrics, artifacts
                  └─< checkpoints      └─ events

``status`` columns are written by ``service.transitions`` alone.
"""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from service.ids import new_id
from service.statuses import JobStatus, RoundStatus, UnitStatus

Json = dict[str, Any]


class Base(DeclarativeBase):
    """Declarative base; constraint names are fixed so that migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: DateTime(timezone=True),
        Json: JSONB,
        str: Text,
        float: Float(53),
    }


def _id(prefix: str) -> Mapped[str]:
    return mapped_column(String(40), primary_key=True, default=lambda: new_id(prefix))


def _one_of(statuses: type, column: str = "status") -> CheckConstraint:
    allowed = ", ".join(f"'{status}'" for status in statuses)  # type: ignore[attr-defined]
    return CheckConstraint(f"{column} IN ({allowed})", name=f"{column}_known")


class Tenant(Base):
    """Who owns jobs, files and keys; nothing is visible across tenants."""

    __tablename__ = "tenants"

    id: Mapped[str] = _id("ten")
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ApiKey(Base):
    """An API key. Only its SHA-256 is kept."""

    __tablename__ = "api_keys"

    id: Mapped[str] = _id("key")
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(comment="first characters, for people to recognise a key by")
    key_hash: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    revoked_at: Mapped[datetime | None]


class Job(Base):
    """A finetuning job as it was accepted, and where it stands."""

    __tablename__ = "jobs"
    __table_args__ = (
        _one_of(JobStatus),
        UniqueConstraint("tenant_id", "idempotency_key"),
        Index("ix_jobs_tenant_id_created_at_id", "tenant_id", "created_at", "id"),
    )

    id: Mapped[str] = _id("job")
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    status: Mapped[str] = mapped_column(default=JobStatus.VALIDATING)
    spec: Mapped[Json] = mapped_column(comment="ddo_engine.spec.JobSpec, preset filled in")
    inputs: Mapped[Json | None] = mapped_column(
        comment="service.planner.JobInputs: checked files in our storage, and what they are; null until validated"
    )
    idempotency_key: Mapped[str | None]
    request_hash: Mapped[str | None]
    parent_checkpoint_id: Mapped[str | None] = mapped_column(
        ForeignKey("checkpoints.id", use_alter=True), comment="the checkpoint that it branches from; null: a file"
    )
    termination_reason: Mapped[str | None]
    termination_message: Mapped[str | None] = mapped_column(
        comment="why it ended, in a sentence; a failure's is in error"
    )
    error: Mapped[Json | None] = mapped_column(comment="{code, message, param}")
    best_checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id", use_alter=True))
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    rounds: Mapped[list["Round"]] = relationship(back_populates="job", order_by="Round.round_index", lazy="raise")
    units: Mapped[list["WorkUnit"]] = relationship(back_populates="job", lazy="raise")


class Round(Base):
    """One round; round 0 is the base checkpoint under the job's protocol."""

    __tablename__ = "rounds"
    __table_args__ = (_one_of(RoundStatus), UniqueConstraint("job_id", "round_index"))

    id: Mapped[str] = _id("rnd")
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    round_index: Mapped[int]
    status: Mapped[str] = mapped_column(default=RoundStatus.PENDING)
    reference_checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id", use_alter=True))
    winner_checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id", use_alter=True))
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    finished_at: Mapped[datetime | None]

    job: Mapped[Job] = relationship(back_populates="rounds", lazy="raise")
    trials: Mapped[list["Trial"]] = relationship(back_populates="round", order_by="Trial.trial_index", lazy="raise")


class Trial(Base):
    """One cell of a round's grid. Its status is its unit's."""

    __tablename__ = "trials"
    __table_args__ = (UniqueConstraint("round_id", "trial_index"),)

    id: Mapped[str] = _id("trl")
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"))
    trial_index: Mapped[int]
    alpha: Mapped[float]
    beta: Mapped[float | None] = mapped_column(comment="null: left to the probe")
    found_beta: Mapped[float | None] = mapped_column(comment="what the probe found; null: none did")
    unit_id: Mapped[str] = mapped_column(ForeignKey("work_units.id"), unique=True)

    round: Mapped[Round] = relationship(back_populates="trials", lazy="raise")
    unit: Mapped["WorkUnit"] = relationship(lazy="raise")

    @property
    def trained_beta(self) -> float | None:
        """The beta that it trains with; None while a probe looks for it."""
        return self.found_beta if self.beta is None else self.beta


class WorkUnit(Base):
    """Something that any worker can do. ``attempt`` is the fencing token of every write that a worker makes."""

    __tablename__ = "work_units"
    __table_args__ = (
        _one_of(UnitStatus),
        Index("ix_work_units_status_run_after", "status", "run_after"),
        Index("ix_work_units_job_id", "job_id"),
    )

    id: Mapped[str] = _id("unit")
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    round_id: Mapped[str | None] = mapped_column(ForeignKey("rounds.id"))
    kind: Mapped[str]
    position: Mapped[int] = mapped_column(Integer, default=0, comment="order within its kind and round, or baseline")
    baseline_index: Mapped[int | None] = mapped_column(
        Integer, comment="in the job's baselines; null: it serves the rounds"
    )
    status: Mapped[str] = mapped_column(default=UnitStatus.QUEUED)
    spec: Mapped[Json] = mapped_column(comment="ddo_engine.spec.UnitSpec with uris, no local paths")
    attempt: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0, comment="ended attempts since the last saved progress")
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    run_after: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    rung_at: Mapped[datetime | None] = mapped_column(comment="when its doorbell was last sent")
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    progress: Mapped[Json | None] = mapped_column(comment="ddo_engine.spec.Progress")
    state: Mapped[Json | None] = mapped_column(comment="ddo_engine.spec.FileRef of the newest training state")
    state_kimg: Mapped[float | None]
    report: Mapped[Json | None] = mapped_column(comment="ddo_engine.spec.Report of a validate unit")
    warnings: Mapped[list[Json]] = mapped_column(
        JSONB, default=list, comment="[{code, message, step, kimg}] of its training in order, each code once"
    )
    error: Mapped[Json | None] = mapped_column(comment="{code, message, param}")
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    job: Mapped[Job] = relationship(back_populates="units", lazy="raise")


class Checkpoint(Base):
    """A checkpoint that exists: its bytes were uploaded and verified before this row was committed."""

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("unit_id", "kimg"), Index("ix_checkpoints_job_id", "job_id"))

    id: Mapped[str] = _id("ckpt")
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"))
    unit_id: Mapped[str | None] = mapped_column(
        ForeignKey("work_units.id"), comment="the trial, a round's or a baseline's, that trained it; null for the base"
    )
    parent_checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"))
    kimg: Mapped[float] = mapped_column(default=0.0)
    object_key: Mapped[str]
    sha256: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    manifest: Mapped[Json]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Evaluation(Base):
    """Numbers of one evaluation. Rank only rows with the same fingerprint."""

    __tablename__ = "evaluations"
    __table_args__ = (
        UniqueConstraint("unit_id", "checkpoint_id", "kimg", "fingerprint", postgresql_nulls_not_distinct=True),
    )

    id: Mapped[str] = _id("eval")
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    unit_id: Mapped[str] = mapped_column(ForeignKey("work_units.id"))
    checkpoint_id: Mapped[str | None] = mapped_column(
        ForeignKey("checkpoints.id"), index=True, comment="null where the evaluated weights were not kept"
    )
    kimg: Mapped[float]
    fingerprint: Mapped[str]
    protocol: Mapped[Json]
    metrics: Mapped[Json]
    samples_id: Mapped[str | None] = mapped_column(
        ForeignKey("artifacts.id"), comment="picture of the first samples, where one was drawn"
    )
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class TrainingMetric(Base):
    """Training diagnostics; one row per unit and step, however often the step was replayed."""

    __tablename__ = "training_metrics"

    unit_id: Mapped[str] = mapped_column(ForeignKey("work_units.id"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    kimg: Mapped[float]
    values: Mapped[Json]


class Artifact(Base):
    """Any other uploaded file of a unit: a shard of a reference set, an average for reconstruction, a picture."""

    __tablename__ = "artifacts"
    __table_args__ = (UniqueConstraint("unit_id", "role", "name"),)

    id: Mapped[str] = _id("art")
    unit_id: Mapped[str] = mapped_column(ForeignKey("work_units.id"))
    role: Mapped[str]
    name: Mapped[str] = mapped_column(default="", comment="tells files of one role apart; empty where there is one")
    object_key: Mapped[str]
    sha256: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    info: Mapped[Json]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Event(Base):
    """Append-only log of everything that happened to a job, in order of ``id``."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_job_id_id", "job_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    unit_id: Mapped[str | None]
    type: Mapped[str]
    data: Mapped[Json]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
