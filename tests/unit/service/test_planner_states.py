"""The planner under any order of any outcomes."""

from statistics import stdev

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ddo_engine.spec import EvaluationSettings, TrainSpec
from service.failures import reason_for
from service.job_view import UnitView
from service.planner import plan
from service.selection import deciding_protocol
from service.statuses import JOB_ENDED, JobStatus, RoundStatus, TerminationReason, UnitKind, UnitStatus
from tests.job_rows import job_spec
from tests.unit.service.planner_model import JobModel

# few values, so that ties are common
FID = st.sampled_from([1.0, 2.0, 3.0, 5.0, 5.5])
CODE = st.sampled_from(["diverged", "out_of_memory", "attempts_exhausted", "invalid_dataset", "something new"])
STOP = st.builds(
    lambda patience, gain, seeds: {"patience_rounds": patience, "min_improvement": gain, "noise_seeds": seeds},
    st.integers(1, 3),
    st.sampled_from([0.0, 0.6]),
    st.sampled_from([None, 2]),
)
DISCRIMINATOR = {"kimg": 1.0, "batch_size": 10, "learning_rate": 1e-3}
OF_DIFFUSION = [
    {"kind": "mle"},
    {"kind": "mle", "kimg": 0.5},
    {"kind": "guidance", "scales": [1.5, 2.0]},
    {"kind": "autoguidance", "scales": [3.0], "guide": "file:///inputs/guide.safetensors"},
    {"kind": "discriminator_guidance", "weights": [1.0, 2.0], "training": DISCRIMINATOR},
]
OF_VAR = [{"kind": "mle"}, {"kind": "cca", "alpha": 1.0, "beta": 0.02}, {"kind": "guidance", "scales": [0.5]}]
OPEN_ROUND = {RoundStatus.PENDING, RoundStatus.GENERATING, RoundStatus.TRAINING, RoundStatus.SELECTING}


def is_open(unit: UnitView) -> bool:
    return unit.status in (UnitStatus.QUEUED, UnitStatus.RUNNING)


class PlannerStates(RuleBasedStateMachine):
    """Units are claimed, requeued and end in every way, in every order; people cancel at any time."""

    @initialize(
        rounds=st.integers(1, 4),
        alphas=st.integers(1, 3),
        shards=st.integers(0, 2),
        finalists=st.integers(0, 2),
        stop=STOP,
        changes_from=st.integers(2, 4),
        wanted=st.sets(st.integers(0, 4)),
        rank_by=st.sampled_from([None, "sampler_scale", "best_scale"]),
    )
    def submit(
        self,
        rounds: int,
        alphas: int,
        shards: int,
        finalists: int,
        stop: dict[str, object],
        changes_from: int,
        wanted: set[int],
        rank_by: str | None,
    ) -> None:
        confirm = {"num_samples": 500, "finalists": finalists} if finalists else None
        grid = {"alpha": [float(index) for index in range(alphas)], "beta": [0.5]}
        shape = {"num_samples": 10, "shards": shards} if shards else {"kind": "online"}
        sampler = {"kind": "heun" if shards else "autoregressive"}
        self.shards = shards
        self.changes_from = changes_from
        later = {"from_round": changes_from, "training": {"P_std": 3.0}, "grid": {"alpha": [7.0], "beta": [0.1, 0.2]}}
        known = OF_DIFFUSION if shards else OF_VAR
        self.job = JobModel(
            job_spec(
                rounds=rounds,
                grid=grid,
                reference_set=shape,
                confirm=confirm,
                sampler=sampler,
                stop=stop,
                round_overrides=[later],
                evaluation={"num_samples": 50}
                | ({"guidance_scales": [3.5, 4.5], "rank_by": rank_by} if rank_by else {}),
                baselines=[known[index] for index in sorted(wanted) if index < len(known)],
            )
        )
        # what is good at one scale is bad at the others: whoever looks at the wrong ones decides otherwise
        self.job.at_scale = lambda fid, scale: scale + 2 - fid

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
        if unit.kind is UnitKind.TRIAL or unit.baseline_index is not None or data.draw(st.integers(0, 5)) == 5:
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
        waiting = sorted(self.job.with_status(UnitStatus.QUEUED), key=lambda unit: unit.baseline_index is not None)
        for unit in waiting[:2]:
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
            fids = self._deciding_fids()
            better = fids[before.winner_id] < fids[before.reference_id]
            assert after.reference_id == (before.winner_id if better else before.reference_id)

    def _ranking_fids(self, protocol: EvaluationSettings) -> dict[tuple[str, str], float]:
        """By unit and checkpoint: at the sampler's scale, or the lowest of a whole curve."""
        view, found = self.job.view, {}
        scales = {view.spec.sampler.guidance_scale}
        if protocol.rank_by == "best_scale":
            scales |= set(protocol.guidance_scales)
        of_rounds = {unit.id for unit in view.units if unit.baseline_index is None}
        for row in view.evaluations:
            if row.unit_id in of_rounds and (row.num_samples, row.seed) == (protocol.num_samples, protocol.seed):
                found.setdefault((row.unit_id, row.checkpoint_id), {})[row.guidance_scale] = row.fid
        return {
            place: min(curve[scale] for scale in scales) for place, curve in found.items() if scales <= curve.keys()
        }

    def _deciding_fids(self) -> dict[str, float]:
        found = self._ranking_fids(deciding_protocol(self.job.view.spec))
        return {checkpoint_id: fid for (_, checkpoint_id), fid in found.items()}

    @invariant()
    def trials_have_the_settings_of_their_round(self) -> None:
        spec = self.job.view.spec
        for item in self.job.view.rounds[1:]:
            trials = [self.job.specs[unit.id] for unit in self.job.view.units_of(UnitKind.TRIAL, item.index)]
            is_later = item.index >= self.changes_from
            assert {trial.training.P_std for trial in trials} <= {3.0 if is_later else spec.training.P_std}
            cells = [(trial.objective.alpha, trial.objective.beta) for trial in trials]
            later, first = [(7.0, 0.1), (7.0, 0.2)], [(cell.alpha, cell.beta) for cell in spec.grid.cells]
            assert cells in ([], later if is_later else first)

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
        kind = UnitKind.TRIAL if view.spec.confirm is None else UnitKind.CONFIRM
        found = self._ranking_fids(deciding_protocol(view.spec))
        for item in view.rounds[1:]:
            if item.status is RoundStatus.COMPLETED:
                units = {unit.id for unit in view.units_of(kind, item.index)}
                fids = {checkpoint: fid for (unit, checkpoint), fid in found.items() if unit in units}
                assert fids[item.winner_id] == min(fids.values())

    @invariant()
    def finalists_are_the_best_checkpoints_of_the_best_trials(self) -> None:
        view = self.job.view
        for item in view.rounds[1:]:
            confirms = view.units_of(UnitKind.CONFIRM, item.index)
            if not confirms:
                continue
            by_trial: dict[str, float] = {}
            trials = {unit.id for unit in view.units_of(UnitKind.TRIAL, item.index)}
            found = self._ranking_fids(view.spec.evaluation)
            fids = {f"object:{checkpoint}": fid for (unit, checkpoint), fid in found.items() if unit in trials}
            for (unit, _), fid in found.items():
                if unit in trials:
                    by_trial[unit] = min(fid, by_trial.get(unit, fid))
            chosen = [fids[self.job.specs[unit.id].checkpoint.uri] for unit in confirms]
            assert chosen == sorted(by_trial.values())[: view.spec.confirm.finalists]

    @invariant()
    def failure_is_that_of_a_unit(self) -> None:
        if self.job.view.status is JobStatus.FAILED:
            failed = [unit for unit in self.job.view.units if unit.error is not None and unit.baseline_index is None]
            codes = [unit.error["code"] for unit in failed]
            assert self.job.ends[0].reason in {reason_for(code) for code in codes}

    @invariant()
    def best_of_a_success_has_the_lowest_fid_of_all_winners(self) -> None:
        view = self.job.view
        if view.status is not JobStatus.SUCCEEDED:
            return
        winners = [item.winner_id for item in view.rounds]
        fids = self._deciding_fids()
        best = self.job.ends[0].best_checkpoint_id or "base"
        assert fids[best] == min(fids[winner] for winner in winners)

    @invariant()
    def success_comes_when_patience_is_over_and_not_before(self) -> None:
        """The stop rule once more, from the numbers of all rounds: how long ago was the last gain that counts?"""
        view, stop = self.job.view, self.job.view.spec.stop
        completed = [item for item in view.rounds if item.status is RoundStatus.COMPLETED]
        if len(completed) < 2:
            return
        by_id = self._deciding_fids()
        path = [by_id[item.winner_id] for item in completed]
        noise = 0.0
        if stop.noise_seeds is not None:
            protocol = view.spec.confirm or view.spec.evaluation
            seeds = [protocol.seed + index * protocol.num_samples for index in range(stop.noise_seeds + 1)]
            wanted = [deciding_protocol(view.spec).model_copy(update={"seed": seed}) for seed in seeds]
            noise = stdev(self._ranking_fids(each)["baseline-0-0", "base"] for each in wanted)
        threshold = max(stop.min_improvement, 2 * noise)
        gains = [0]
        for index, fid in enumerate(path):
            if fid < path[gains[-1]] - threshold:
                gains.append(index)
        waited = len(path) - 1 - gains[-1]
        if view.status is JobStatus.SUCCEEDED:
            reason = self.job.ends[0].reason
            assert (reason is TerminationReason.NO_IMPROVEMENT) == (waited >= stop.patience_rounds)
            assert reason is TerminationReason.NO_IMPROVEMENT or len(path) == view.spec.rounds + 1
            assert self.job.ends[0].message
        elif view.status not in JOB_ENDED and not self._open_baselines():
            assert waited < stop.patience_rounds

    def _open_baselines(self) -> list[UnitView]:
        return [unit for unit in self.job.view.units if unit.baseline_index is not None and is_open(unit)]

    @invariant()
    def success_waits_for_all_baselines(self) -> None:
        view = self.job.view
        if view.status is not JobStatus.SUCCEEDED:
            return
        assert not self._open_baselines()
        for index, baseline in enumerate(view.spec.baselines):
            units = [unit for unit in view.units if unit.baseline_index == index]
            assert units
            if all(unit.status is UnitStatus.SUCCEEDED for unit in units):
                evaluations = view.units_of_baseline(UnitKind.BASELINE_EVALUATION, index)
                confirms = 0 if view.spec.confirm is None else 1
                wanted = confirms if baseline.kind in ("mle", "cca") else len(baseline.samplers(view.spec.sampler))
                assert len(evaluations) == wanted

    @invariant()
    def baselines_start_from_the_base_and_no_round_from_them(self) -> None:
        view = self.job.view
        units = {unit.id for unit in view.units if unit.baseline_index is not None}
        trained = {checkpoint.id for checkpoint in view.checkpoints if checkpoint.unit_id in units}
        assert not trained & {found for item in view.rounds for found in (item.winner_id, item.reference_id)}
        assert not trained & {end.best_checkpoint_id for end in self.job.ends}
        for unit in view.units:
            if unit.baseline_index is None:
                continue
            spec = self.job.specs[unit.id]
            allowed = {"object:base"}
            if unit.kind is UnitKind.BASELINE_EVALUATION and spec.sampler == view.spec.sampler:
                allowed = {f"object:{name}" for name in trained}
            assert spec.checkpoint.uri in allowed
            if unit.kind is UnitKind.BASELINE_DISCRIMINATOR:
                assert len(spec.reference_set) == self.shards


TestPlannerStates = PlannerStates.TestCase
TestPlannerStates.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
