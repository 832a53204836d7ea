"""Jobs in a real database, and a worker without an engine: it claims units and reports made-up numbers."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy.orm import Session, sessionmaker

from ddo_engine.spec import (
    CheckpointInfo,
    DatasetInfo,
    Evaluated,
    EvaluateSpec,
    EvaluationSettings,
    FileRef,
    FileRole,
    FileWritten,
    HeunSettings,
    JobSpec,
    Report,
    SamplerSettings,
    TrainSpec,
)
from service.job_view import JobInputs
from service.keys import attempt_prefix, input_key, object_file
from service.leases import Claim, claim, finish
from service.lifecycle import advance
from service.models import Job, Tenant
from service.reports import finish_validation, record_artifact, record_checkpoint, record_evaluation
from service.statuses import UnitKind


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def job_spec(**changes: object) -> JobSpec:
    body = {
        "base_checkpoint": "file:///inputs/base.safetensors",
        "dataset": {"uri": "file:///inputs/data.zip", "grey_levels": 17},
        "feature_network": "file:///inputs/features.safetensors",
        "rounds": 2,
        "grid": {"alpha": [2.0, 4.0], "beta": [0.5]},
        "training": {
            "kimg": 2.0,
            "batch_size": 100,
            "learning_rate": 1e-3,
            "ema_half_life_kimg": 1.0,
            "evaluate_every_kimg": 1.0,
        },
        "reference_set": {"num_samples": 101, "shards": 2},
        "evaluation": {"num_samples": 50},
        "seed": 7,
    }
    return JobSpec.model_validate(body | changes)


def create_job(
    sessions: sessionmaker[Session], spec: JobSpec | None = None, *, tenant: str = "tenant", parent: str | None = None
) -> str:
    """Store a job as the API does, one that starts from the checkpoint ``parent`` if given, and return its id."""
    with sessions.begin() as session:
        owner = session.query(Tenant).filter_by(name=tenant).one_or_none() or Tenant(name=tenant)
        session.add(owner)
        session.flush()
        stored = (spec or job_spec()).model_dump(mode="json")
        job = Job(tenant_id=owner.id, spec=stored, parent_checkpoint_id=parent)
        session.add(job)
        session.flush()
        advance(session, job.id)
        return job.id


CHECKPOINT_INFO = CheckpointInfo(
    family="edm", network="MLP", num_parameters=10, img_resolution=8, img_channels=1, label_dim=0
)
REPORT = Report(checkpoint=CHECKPOINT_INFO, dataset=DatasetInfo(num_images=10, img_resolution=8, img_channels=1))


def inputs_of(claimed: Claim) -> JobInputs:
    def stored(name: str) -> FileRef:
        return object_file(input_key(claimed.tenant_id, sha256(name), ""), sha256=sha256(name), size_bytes=1)

    return JobInputs(
        checkpoint=stored("checkpoint"),
        dataset=stored("dataset"),
        feature_network=stored("features"),
        checkpoint_info=CHECKPOINT_INFO,
        dataset_info=REPORT.dataset,
    )


def file_written(role: FileRole, name: str, kimg: float | None = None) -> FileWritten:
    return FileWritten(role=role, path=name, sha256=sha256(name), size_bytes=1, kimg=kimg)


_SAMPLER = HeunSettings()


def evaluated(kimg: float, fid: float, settings: EvaluationSettings, sampler: SamplerSettings = _SAMPLER) -> Evaluated:
    protocol = {"num_samples": settings.num_samples, "seed": settings.seed, "sampler": sampler.as_protocol()}
    return Evaluated(kimg=kimg, fingerprint=sha256(str(protocol)), protocol=protocol, metrics={"fid": fid})


def _same_everywhere(fid: float, scale: float) -> float:
    return fid


@dataclass
class RowWorker:
    """Does units by writing their rows.

    Attributes:
        fid: From (round, trial position or -1 for the base, kimg, num_samples) to the FID reported; a baseline's trial
            is in round 0 at the position of the baseline.
        at_scale: From that FID and a guidance scale to the FID reported at this scale.
        pictures: Whether it writes rows of pictures, too; there is nothing behind them.
    """

    sessions: sessionmaker[Session]
    fid: Callable[[int, int, float, int], float]
    at_scale: Callable[[float, float], float] = _same_everywhere
    done: list[Claim] = field(default_factory=list)
    pictures: bool = False
    _origin: dict[str, tuple[int, int, float]] = field(default_factory=dict)

    def claim(self) -> Claim | None:
        with self.sessions.begin() as session:
            return claim(session, "row-worker", 30)

    def step(self) -> Claim | None:
        """Claim and do one unit; None if nothing waits."""
        claimed = self.claim()
        if claimed is not None:
            self.do(claimed)
        return claimed

    def run(self) -> list[Claim]:
        """Work until nothing waits."""
        while self.step() is not None:
            pass
        return self.done

    def do(self, claimed: Claim) -> None:
        with self.sessions.begin() as session:
            if claimed.kind is UnitKind.VALIDATE:
                finish_validation(session, claimed, REPORT, inputs_of(claimed))
            else:
                if claimed.kind is UnitKind.REFERENCE:
                    self._artifact(session, claimed, FileRole.REFERENCE_SET)
                elif claimed.kind is UnitKind.BASELINE_DISCRIMINATOR:
                    self._artifact(session, claimed, FileRole.DISCRIMINATOR)
                elif isinstance(claimed.spec, TrainSpec):
                    self._train(session, claimed)
                elif isinstance(claimed.spec, EvaluateSpec):
                    self._evaluate(session, claimed, claimed.spec)
                finish(session, claimed)
        self.done.append(claimed)

    def _key(self, claimed: Claim, name: str) -> str:
        place = (claimed.round_index or 0, claimed.kind, claimed.position, claimed.attempt, claimed.baseline_index)
        return f"{attempt_prefix(claimed.tenant_id, claimed.job_id, *place)}/{name}"

    def _artifact(self, session: Session, claimed: Claim, role: FileRole) -> None:
        event = file_written(role, f"{role} {claimed.round_index} {claimed.position}")
        record_artifact(session, claimed, event, self._key(claimed, "artifact"))

    def _train(self, session: Session, claimed: Claim) -> None:
        spec, index = claimed.spec, claimed.round_index or 0
        assert isinstance(spec, TrainSpec)
        assert spec.evaluation is not None
        for kimg in (1.0, 2.0):
            position = claimed.position if claimed.baseline_index is None else claimed.baseline_index
            name = f"weights {index} {position} {kimg}"
            key = self._key(claimed, f"checkpoint-{kimg}.safetensors")
            self._origin[key] = (index, position, kimg)
            samples = spec.evaluation.num_samples
            fid = self.fid(index, position, kimg, samples)
            self._measure(session, claimed, kimg, fid, spec.evaluation)
            record_checkpoint(session, claimed, file_written(FileRole.CHECKPOINT, name, kimg), key)

    def _evaluate(self, session: Session, claimed: Claim, spec: EvaluateSpec) -> None:
        key = str(spec.checkpoint.uri).removeprefix("object:")
        index, position, kimg = self._origin.get(key, (0, -1, 0.0))
        for settings in spec.evaluations:
            fid = self.fid(index, position, kimg, settings.num_samples)
            self._measure(session, claimed, 0.0, fid, settings)

    def _measure(self, session: Session, claimed: Claim, kimg: float, fid: float, settings: EvaluationSettings) -> None:
        assert isinstance(claimed.spec, TrainSpec | EvaluateSpec)
        for scale in settings.scales(claimed.spec.sampler):
            event = evaluated(kimg, self.at_scale(fid, scale), settings, claimed.spec.sampler.at_scale(scale))
            if self.pictures and scale == claimed.spec.sampler.guidance_scale:
                name = f"samples-{kimg:.3f}-{event.fingerprint[:8]}.png"
                info = {"fingerprint": event.fingerprint, "kimg": kimg}
                picture = file_written(FileRole.SAMPLES, name, kimg).model_copy(update={"info": info})
                record_artifact(session, claimed, picture, self._key(claimed, name))
            record_evaluation(session, claimed, event)
