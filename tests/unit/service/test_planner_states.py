"""The planner under any order of any outcomes."""

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ddo_engine.spec import TrainSpec
from service.failures import reason_for
from service.planner import plan
from service.statuses import JOB_ENDED, JobStatus, RoundStatus, TerminationReason, UnitKind, UnitStatus
from tests.job_rows import job_spec
from tests.unit.service.planner_model import CONFIRM, SEARCH, JobModel

# few values, so that ties are common
FID = st.sampled_from([1.0, 2.0, 3.0, 5.0, 5.5])
CODE = st.sampled_from(["diverged", "out_of_memory", "attempts_exhausted", "invalid_dataset", "something new"])
OPEN_ROUND = {RoundStatus.PENDING, RoundStatus.GENERATING, RoundStatus.TRAINING, RoundStatus.SELECTING}


class PlannerStates(RuleBasedStateMachine):
    """Units are claimed, requeued and end in every way, in every order; people cancel at any time."""

    @initialize(
        rounds=st.integers(1, 3), alphas=st.integers(1, 3), shards=st.integers(0, 2), finalists=st.integers(0, 2)
    )
    def submit(self, rounds: int, alphas: int, shards: int, finalists: int) -> None:
        confirm = {"num_samples": 500, "finalists": finalists} if finalists else None
        grid = {"alpha": [float(index) for index in range(alphas)], "beta": [0.5]}
        shape = {"num_samples": 10, "shards": shards} if shards else {"kind": "online"}
        sampler = {"kind": "heun" if shards else "autoregressive"}
        self.shards = shards
        self.job = JobModel(job_spec(rounds=rounds, grid=grid, reference_set=shape, confirm=confirm, sampler=sampler))

    def _one_of(self, data: st.DataObject, status: UnitStatus):
        return data.draw(st.sampled_from(self.job.with_status(status)))

    @precondition(lambda self: self.job.with_status(UnitStatus.QUEUED))
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        if self.job.view.status not in JOB_ENDED:
            self.job.claim(self._one_of(data, UnitStatus.QUEUED))

    @precondition(lambda self: self.job.with_status(UnitStatus.RUNNING))
    @rule(data=st.data(), fids=st.lists(FID, min_size=1, max_size=3))
    def succeed(self, data: st.DataObject, fids: list[float]) -> None:
        self.job.succeed(self._one_of(data, UnitStatus.RUNNING), fids)

    @precondition(lambda self: self.job.with_status(UnitStatus.RUNNING))
    @rule(data=st.data(), code=CODE, fids=st.lists(FID, max_size=2))
    def fail(self, data: st.DataObject, code: str, fids: list[float]) -> None:
        unit = self._one_of(data, UnitStatus.RUNNING)
        # other units rarely fail, or no job would get far
        if unit.kind is UnitKind.TRIAL or data.draw(st.integers(0, 5)) == 5:
            self.job.fail(unit, code, fids)

    @precondition(lambda self: self.job.with_status(UnitStatus.RUNNING))
    @rule(data=st.data())
    def lose_worker(self, data: st.DataObject) -> None:
        self.job.requeue(self._one_of(data, UnitStatus.RUNNING))

    @precondition(lambda self: any(u.cancel_requested for u in self.job.with_status(UnitStatus.RUNNING)))
    @rule(data=st.data())
    def stop_cancelled(self, data: st.DataObject) -> None:
        asked = [unit for unit in self.job.with_status(UnitStatus.RUNNING) if unit.cancel_requested]
        self.job.stop(data.draw(st.sampled_from(asked)))

    @rule(chance=st.integers(0, 20))
    def cancel(self, chance: int) -> None:
        if chance == 20:
            self.job.cancel()

    @rule()
    def work_through(self) -> None:
        """Let one unit of each kind succeed quickly, so that later rounds are reached."""
        for unit in self.job.with_status(UnitStatus.QUEUED)[:2]:
            if self.job.unit(unit.id).status is UnitStatus.QUEUED and self.job.view.status not in JOB_ENDED:
                self.job.claim(unit)
                self.job.succeed(self.job.unit(unit.id), [4.0 - (unit.round_index or 0) * 0.9])

    @invariant()
    def plan_is_settled(self) -> None:
        assert plan(self.job.view) == []

    @invariant()
    def job_ends_once_and_leaves_nothing_open(self) -> None:
        assert len(self.job.ends) <= 1
        if self.job.view.status in JOB_ENDED:
            assert len(self.job.ends) == 1
            assert self.job.ends[0].reason is not None
            assert not self.job.with_status(UnitStatus.QUEUED)
            assert all(unit.cancel_requested for unit in self.job.with_status(UnitStatus.RUNNING))
            assert not [item for item in self.job.view.rounds if item.status in OPEN_ROUND]

    @invariant()
    def open_job_is_never_stuck(self) -> None:
        if self.job.view.status not in JOB_ENDED:
            assert self.job.with_status(UnitStatus.QUEUED, UnitStatus.RUNNING)

    @invariant()
    def at_most_one_round_beside_round_zero_is_open(self) -> None:
        assert len([item for item in self.job.view.rounds[1:] if item.status in OPEN_ROUND]) <= 1
        for before, after in zip(self.job.view.rounds[1:], self.job.view.rounds[2:], strict=False):
            assert before.status is RoundStatus.COMPLETED
            assert after.reference_id == before.winner_id

    @invariant()
    def no_round_completes_before_round_zero(self) -> None:
        if self.job.completed:
            assert self.job.completed[0].index == 0

    @invariant()
    def trials_have_their_whole_reference_set(self) -> None:
        for unit in self.job.view.units:
            if unit.kind is UnitKind.TRIAL:
                spec = self.job.specs[unit.id]
                assert isinstance(spec, TrainSpec)
                expected = [f"object:artifact-reference-{unit.round_index}-{shard}" for shard in range(self.shards)]
                assert [file.uri for file in spec.reference_set] == expected
                assert (spec.online_reference_set is None) == (self.shards > 0)

    @invariant()
    def winner_has_the_lowest_deciding_fid(self) -> None:
        view = self.job.view
        kind, fingerprint = (UnitKind.TRIAL, SEARCH) if view.spec.confirm is None else (UnitKind.CONFIRM, CONFIRM)
        for item in view.rounds[1:]:
            if item.status is RoundStatus.COMPLETED:
                units = {unit.id for unit in view.units_of(kind, item.index)}
                rows = [row for row in view.evaluations if row.unit_id in units and row.fingerprint == fingerprint]
                winner = [row.fid for row in rows if row.checkpoint_id == item.winner_id]
                assert winner == [min(row.fid for row in rows)]

    @invariant()
    def finalists_are_the_best_checkpoints_of_the_best_trials(self) -> None:
        view = self.job.view
        for item in view.rounds[1:]:
            confirms = view.units_of(UnitKind.CONFIRM, item.index)
            if not confirms:
                continue
            by_trial: dict[str, float] = {}
            trials = {unit.id for unit in view.units_of(UnitKind.TRIAL, item.index)}
            rows = [row for row in view.evaluations if row.unit_id in trials]
            for row in rows:
                by_trial[row.unit_id] = min(row.fid, by_trial.get(row.unit_id, row.fid))
            fids = {f"object:{row.checkpoint_id}": row.fid for row in rows}
            chosen = [fids[self.job.specs[unit.id].checkpoint.uri] for unit in confirms]
            assert chosen == sorted(by_trial.values())[: view.spec.confirm.finalists]

    @invariant()
    def failure_is_that_of_a_unit(self) -> None:
        if self.job.view.status is JobStatus.FAILED:
            codes = [unit.error["code"] for unit in self.job.view.units if unit.error is not None]
            assert self.job.ends[0].reason in {reason_for(code) for code in codes}

    @invariant()
    def best_of_a_success_has_the_lowest_fid_of_all_winners(self) -> None:
        view = self.job.view
        if view.status is not JobStatus.SUCCEEDED:
            return
        fingerprint = SEARCH if view.spec.confirm is None else CONFIRM
        winners = {item.winner_id for item in view.rounds}
        fids = {row.checkpoint_id: row.fid for row in view.evaluations if row.fingerprint == fingerprint}
        best = self.job.ends[0].best_checkpoint_id or "base"
        assert fids[best] == min(fids[winner] for winner in winners)
        last = view.rounds[-1]
        improved = fids[last.winner_id] < fids[last.reference_id]
        assert (self.job.ends[0].reason is TerminationReason.COMPLETED) == improved


TestPlannerStates = PlannerStates.TestCase
TestPlannerStates.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
