"""A job in memory: carries out the planner's actions as the database would, and lets units end in any way."""

from collections.abc import Callable
from dataclasses import replace

from ddo_engine.spec import EvaluateSpec, EvaluationSettings, FileRef, JobSpec, TrainSpec
from service.job_view import (
    CancelUnit,
    CheckpointView,
    CreateRound,
    CreateUnit,
    EvaluationView,
    JobInputs,
    JobView,
    MoveJob,
    MoveRound,
    RoundView,
    UnitView,
)
from service.planner import plan
from service.statuses import JOB_ENDED, JobStatus, RoundStatus, UnitKind, UnitStatus, sources_of
from tests.job_rows import CHECKPOINT_INFO, REPORT

SEARCH, CONFIRM = "5" * 64, "c" * 64


def other_seed(index: int) -> str:
    """The fingerprint of an evaluation that measures the noise."""
    return f"{index:064x}"


def file(name: str) -> FileRef:
    return FileRef(uri=f"object:{name}", sha256="0" * 64, size_bytes=1)


INPUTS = JobInputs(
    checkpoint=file("base"),
    dataset=file("data"),
    feature_network=file("features"),
    checkpoint_info=CHECKPOINT_INFO,
    dataset_info=REPORT.dataset,
)


class JobModel:
    """The rows of one job, and what was done to them."""

    def __init__(self, spec: JobSpec) -> None:
        self.view = JobView("job", JobStatus.VALIDATING, spec)
        self.specs: dict[str, object] = {}
        self.ends: list[MoveJob] = []
        self.completed: list[MoveRound] = []
        self.at_scale: Callable[[float, float], float] = lambda fid, scale: fid
        self.settle()

    def settle(self) -> None:
        """Do what the planner asks for until it asks for nothing."""
        for _ in range(20):
            actions = plan(self.view)
            if not actions:
                return
            for action in actions:
                self._apply(action)
        raise AssertionError("the plan does not settle")

    def unit(self, unit_id: str) -> UnitView:
        return next(unit for unit in self.view.units if unit.id == unit_id)

    def with_status(self, *statuses: UnitStatus) -> list[UnitView]:
        return [unit for unit in self.view.units if unit.status in statuses]

    def claim(self, unit: UnitView) -> None:
        self._move_unit(unit.id, UnitStatus.RUNNING)
        if self.view.status is JobStatus.QUEUED and unit.kind is not UnitKind.VALIDATE:
            self._move_job(JobStatus.RUNNING)

    def requeue(self, unit: UnitView) -> None:
        self._move_unit(unit.id, UnitStatus.CANCELLED if unit.cancel_requested else UnitStatus.QUEUED)
        self.settle()

    def succeed(self, unit: UnitView, fids: list[float]) -> None:
        """End a unit well. A trial keeps a checkpoint per FID; an evaluation gives its checkpoint the first."""
        spec = self.specs[unit.id]
        artifact = None
        if unit.kind is UnitKind.VALIDATE:
            self.view = replace(self.view, inputs=INPUTS)
        elif unit.kind in (UnitKind.REFERENCE, UnitKind.BASELINE_DISCRIMINATOR):
            artifact = file(f"artifact-{unit.id}")
        elif isinstance(spec, TrainSpec):
            self.evaluate_trial(unit, fids)
        elif isinstance(spec, EvaluateSpec):
            name = str(spec.checkpoint.uri).removeprefix("object:")
            # the first FID, and for further seeds of the base the next ones in turn
            ranking = 1 if unit.kind is UnitKind.CONFIRM or self.view.spec.confirm is None else 2
            for index, settings in enumerate(spec.evaluations):
                fid = fids[0] if index < ranking else fids[(index - ranking + 1) % len(fids)]
                self._add_curve(unit, name, 0.0, settings, fid, spec)
        self._move_unit(unit.id, UnitStatus.SUCCEEDED, artifact=artifact)
        self.settle()

    def fail(self, unit: UnitView, code: str, fids: list[float]) -> None:
        spec = self.specs[unit.id]
        if isinstance(spec, TrainSpec):
            self.evaluate_trial(unit, fids)
            if fids and spec.evaluation is not None and spec.evaluation.guidance_scales:
                # it failed before the last scale of its last evaluation
                self.view = replace(self.view, evaluations=self.view.evaluations[:-1])
        self._move_unit(unit.id, UnitStatus.FAILED, error={"code": code, "message": "it failed"})
        self.settle()

    def stop(self, unit: UnitView) -> None:
        self._move_unit(unit.id, UnitStatus.CANCELLED)
        self.settle()

    def cancel(self) -> None:
        if self.view.status in sources_of(JobStatus.CANCELLING):
            self._move_job(JobStatus.CANCELLING)
        self.settle()

    def evaluate_trial(self, unit: UnitView, fids: list[float]) -> None:
        spec = self.specs[unit.id]
        assert isinstance(spec, TrainSpec)
        assert spec.evaluation is not None
        for index, fid in enumerate(fids):
            name = f"{unit.id}-{index}"
            checkpoint = CheckpointView(name, unit.id, file(name))
            self.view = replace(self.view, checkpoints=(*self.view.checkpoints, checkpoint))
            self._add_curve(unit, name, float(index), spec.evaluation, fid)

    def _add_curve(
        self,
        unit: UnitView,
        checkpoint_id: str,
        kimg: float,
        protocol: EvaluationSettings,
        fid: float,
        measured_by: EvaluateSpec | None = None,
    ) -> None:
        """At the sampler's scale ``fid``, at others what :attr:`at_scale` makes of it."""
        sampler = self.view.spec.sampler if measured_by is None else measured_by.sampler
        for scale in protocol.scales(sampler):
            found = fid if scale == sampler.guidance_scale else self.at_scale(fid, scale)
            self._add_evaluation(unit, checkpoint_id, kimg, protocol, found, measured_by, scale)

    def _add_evaluation(
        self,
        unit: UnitView,
        checkpoint_id: str,
        kimg: float,
        protocol: EvaluationSettings,
        fid: float,
        measured_by: EvaluateSpec | None = None,
        scale: float | None = None,
    ) -> None:
        spec = self.view.spec
        scale = spec.sampler.guidance_scale if scale is None else scale
        fingerprint = other_seed(protocol.seed)
        if protocol.at_one_scale() == spec.evaluation.at_one_scale():
            fingerprint = SEARCH
        elif spec.confirm is not None and (protocol.num_samples, protocol.seed) == (
            spec.confirm.num_samples,
            spec.confirm.seed,
        ):
            fingerprint = CONFIRM
        if measured_by is not None and measured_by.sampler != spec.sampler:
            fingerprint = fingerprint[1:] + "a"  # another sampler, another protocol
        if scale != spec.sampler.guidance_scale:
            fingerprint = fingerprint[:-8] + f"{round(scale * 1000):08x}"
        row = EvaluationView(unit.id, checkpoint_id, kimg, fingerprint, fid, protocol.num_samples, protocol.seed, scale)
        self.view = replace(self.view, evaluations=(*self.view.evaluations, row))

    def _apply(self, action: object) -> None:
        match action:
            case CreateRound(index=index, reference_id=reference_id):
                assert index == len(self.view.rounds), "rounds come in order"
                new = RoundView(index, RoundStatus.PENDING, reference_id)
                self.view = replace(self.view, rounds=(*self.view.rounds, new))
                if index == 0:
                    self.view = replace(self.view, checkpoints=(CheckpointView("base", None, file("base")),))
            case CreateUnit():
                self._create_unit(action)
            case MoveRound(index=index, target=target, winner_id=winner_id):
                rounds = list(self.view.rounds)
                assert rounds[index].status in sources_of(target)
                rounds[index] = replace(rounds[index], status=target, winner_id=winner_id)
                self.view = replace(self.view, rounds=tuple(rounds))
                if target is RoundStatus.COMPLETED:
                    self.completed.append(action)
            case MoveJob(target=target):
                self._move_job(target)
                if target in JOB_ENDED:
                    self.ends.append(action)
            case CancelUnit(unit_id=unit_id):
                if self.unit(unit_id).status is UnitStatus.QUEUED:
                    self._move_unit(unit_id, UnitStatus.CANCELLED)
                else:
                    self._change_unit(unit_id, cancel_requested=True)

    def _create_unit(self, action: CreateUnit) -> None:
        assert self.view.status not in JOB_ENDED
        place = action.round_index if action.baseline_index is None else f"b{action.baseline_index}"
        unit_id = f"{action.kind}-{place}-{action.position}"
        assert unit_id not in self.specs
        unit = UnitView(
            unit_id,
            action.kind,
            action.round_index,
            action.position,
            UnitStatus.QUEUED,
            baseline_index=action.baseline_index,
        )
        self.specs[unit_id] = action.spec
        self.view = replace(self.view, units=(*self.view.units, unit))

    def _move_job(self, target: JobStatus) -> None:
        assert self.view.status in sources_of(target), f"{self.view.status} to {target}"
        self.view = replace(self.view, status=target)

    def _move_unit(self, unit_id: str, target: UnitStatus, **changes: object) -> None:
        assert self.unit(unit_id).status in sources_of(target)
        self._change_unit(unit_id, status=target, **changes)

    def _change_unit(self, unit_id: str, **changes: object) -> None:
        units = tuple(replace(u, **changes) if u.id == unit_id else u for u in self.view.units)
        self.view = replace(self.view, units=units)
