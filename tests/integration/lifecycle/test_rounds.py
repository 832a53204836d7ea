"""Whole jobs through the database, with a worker that only reports."""

from typing import Any

from sqlalchemy import select

from ddo_engine.spec import Evaluated, TrainSpec
from service.models import Checkpoint, Event, Job, Round, Trial, WorkUnit
from tests import job_rows
from tests.job_rows import RowWorker, create_job, job_spec


def _fid(index: int, position: int, kimg: float, num_samples: int) -> float:
    """Round n gives 10 - n, its trial 1 at 2 kimg half less."""
    return 10.0 - index - (0.5 if (position, kimg) == (1, 2.0) else 0.0)


def test_job_two_rounds_improving_ends_with_last_winner(sessions):
    job_id = create_job(sessions)

    done = RowWorker(sessions, _fid).run()

    kinds = [str(unit.kind) for unit in done]
    assert kinds == ["validate", "baseline", *2 * ["reference", "reference", "trial", "trial"]]
    with sessions() as session:
        job = session.get_one(Job, job_id)
        assert (job.status, job.termination_reason) == ("succeeded", "completed")
        rounds = session.scalars(select(Round).order_by(Round.round_index)).all()
        assert [item.status for item in rounds] == ["completed"] * 3
        assert rounds[1].reference_checkpoint_id == rounds[0].winner_checkpoint_id
        assert rounds[2].reference_checkpoint_id == rounds[1].winner_checkpoint_id
        assert job.best_checkpoint_id == rounds[2].winner_checkpoint_id
        best = session.get_one(Checkpoint, job.best_checkpoint_id)
        trial = session.scalars(select(Trial).where(Trial.unit_id == best.unit_id)).one()
        assert (trial.trial_index, trial.alpha, trial.beta, best.kimg) == (1, 4.0, 0.5, 2.0)
        assert best.parent_checkpoint_id == rounds[2].reference_checkpoint_id
        assert session.scalars(select(WorkUnit.status)).all() == ["succeeded"] * len(done)


def test_job_of_two_protocols_ends_and_says_in_what_they_differ(sessions, monkeypatch):
    """As when workers are replaced by ones of another version in the middle of a round."""

    def fid(index: int, position: int, kimg: float, num_samples: int) -> float:
        versions["now"] = 2 if position == 1 else 1
        return 5.0

    def evaluated(*arguments: Any) -> Evaluated:
        event = plain(*arguments)
        protocol = event.protocol | {"metrics_version": versions["now"]}
        return event.model_copy(update={"protocol": protocol, "fingerprint": job_rows.sha256(str(protocol))})

    versions, plain = {"now": 1}, job_rows.evaluated
    monkeypatch.setattr(job_rows, "evaluated", evaluated)
    job_id = create_job(sessions)
    RowWorker(sessions, fid).run()
    with sessions() as session:
        job = session.get_one(Job, job_id)
        assert (job.status, job.termination_reason) == ("failed", "engine_error")
        assert "more than one protocol: metrics_version is 1 against 2" in job.error["message"]


def test_job_confirm_decides_against_search(sessions):
    """Trial 1 looks best on few samples, trial 0 is better on many."""

    def fid(index: int, position: int, kimg: float, num_samples: int) -> float:
        few = num_samples == 50
        if position < 0:
            return 10.0
        return (9.0 - position if few else 7.0 + position) - kimg

    confirm = {"num_samples": 500, "finalists": 2}
    job_id = create_job(sessions, job_spec(rounds=1, confirm=confirm))

    done = RowWorker(sessions, fid).run()

    assert [unit.position for unit in done if unit.kind == "confirm"] == [0, 1]
    with sessions() as session:
        job = session.get_one(Job, job_id)
        assert (job.status, job.termination_reason) == ("succeeded", "completed")
        best = session.get_one(Checkpoint, job.best_checkpoint_id)
        trial = session.scalars(select(Trial).where(Trial.unit_id == best.unit_id)).one()
        assert (trial.trial_index, best.kimg) == (0, 2.0)


def test_job_without_improvement_stops_and_names_no_best(sessions):
    job_id = create_job(sessions, job_spec(rounds=3))

    RowWorker(sessions, lambda index, *_: 10.0 + index).run()

    with sessions() as session:
        job = session.get_one(Job, job_id)
        assert (job.status, job.termination_reason, job.best_checkpoint_id) == ("succeeded", "no_improvement", None)
        rounds = session.scalars(select(Round).order_by(Round.round_index)).all()
        assert [item.status for item in rounds] == ["completed", "completed"]
        assert rounds[1].winner_checkpoint_id is not None


def test_job_second_round_without_improvement_keeps_first_winner(sessions):
    job_id = create_job(sessions, job_spec(rounds=3))

    RowWorker(sessions, lambda index, *_: {0: 10.0, 1: 5.0, 2: 5.0}[index]).run()

    with sessions() as session:
        job = session.get_one(Job, job_id)
        rounds = session.scalars(select(Round).order_by(Round.round_index)).all()
        assert (len(rounds), job.termination_reason) == (3, "no_improvement")
        assert job.best_checkpoint_id == rounds[1].winner_checkpoint_id


def test_job_measures_the_noise_of_its_base_and_wants_more_than_twice_that(sessions):
    """The base has 10, 10.2 and 9.8 over three seeds: a spread of 0.2, so that 9.7 is no gain and 9.5 is one."""
    for fid, rounds, reason in ((9.7, 1, "no_improvement"), (9.5, 2, "no_improvement")):
        base = iter([10.0, 10.2, 9.8])
        job_id = create_job(sessions, job_spec(rounds=5, stop={"noise_seeds": 2}))

        RowWorker(sessions, lambda index, position, *_, base=base, fid=fid: next(base) if position < 0 else fid).run()

        with sessions() as session:
            job = session.get_one(Job, job_id)
            assert session.query(Round).filter(Round.job_id == job_id, Round.round_index > 0).count() == rounds
            assert job.termination_reason == reason
            assert "more than 0.4, twice the measured noise of the evaluation" in job.termination_message
            assert job.best_checkpoint_id is not None


def test_job_with_patience_starts_from_the_best_so_far_again(sessions):
    job_id = create_job(sessions, job_spec(rounds=4, stop={"patience_rounds": 2}))

    RowWorker(sessions, lambda index, *_: {0: 10.0, 1: 5.0, 2: 6.0, 3: 4.0, 4: 3.0}[index]).run()

    with sessions() as session:
        job = session.get_one(Job, job_id)
        rounds = session.scalars(select(Round).order_by(Round.round_index)).all()
        assert (len(rounds), job.termination_reason) == (5, "completed")
        assert rounds[2].reference_checkpoint_id == rounds[3].reference_checkpoint_id == rounds[1].winner_checkpoint_id
        assert rounds[4].reference_checkpoint_id == rounds[3].winner_checkpoint_id
        seeds = [unit.spec["seed"] for unit in session.scalars(select(WorkUnit).where(WorkUnit.kind == "trial"))]
        assert len(set(seeds)) == len(seeds) == 8


def test_trials_of_a_job_have_distinct_seeds_and_the_whole_reference_set(sessions):
    create_job(sessions)

    done = RowWorker(sessions, _fid).run()

    specs = [unit.spec for unit in done if isinstance(unit.spec, TrainSpec)]
    assert len({spec.seed for spec in specs}) == len(specs) == 4
    for spec in specs:
        assert [file.uri.split("/")[-3] for file in spec.reference_set] == ["0", "1"]


def test_job_with_online_fakes_goes_from_validation_to_its_trials(sessions):
    spec = job_spec(reference_set={"kind": "online", "decode": False}, sampler={"kind": "autoregressive"})
    job_id = create_job(sessions, spec)

    done = RowWorker(sessions, _fid).run()

    assert [str(unit.kind) for unit in done] == ["validate", "baseline", *["trial"] * 4]
    specs = [unit.spec for unit in done if isinstance(unit.spec, TrainSpec)]
    assert [(spec.reference_set, spec.online_reference_set.decode) for spec in specs] == [((), False)] * 4
    with sessions() as session:
        assert session.get_one(Job, job_id).status == "succeeded"
        assert set(session.scalars(select(Round.status))) == {"completed"}


def test_event_log_tells_every_move_in_order(sessions):
    job_id = create_job(sessions, job_spec(rounds=1))

    RowWorker(sessions, _fid).run()

    with sessions() as session:
        types = session.scalars(select(Event.type).where(Event.job_id == job_id).order_by(Event.id)).all()
    moves = [name for name in types if name.startswith(("job.", "round."))]
    assert moves == [
        "job.queued",
        "round.pending",
        "round.pending",
        "round.selecting",
        "round.generating",
        "job.running",
        "round.completed",
        "round.training",
        "round.selecting",
        "round.completed",
        "job.succeeded",
    ]
    assert types.count("trial.evaluated") == types.count("checkpoint.created") == 4
