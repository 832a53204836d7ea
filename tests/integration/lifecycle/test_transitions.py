"""Every pair of statuses, in the database."""

from itertools import product

import pytest
from sqlalchemy import func, select, update

from service.models import Event, Job, Round, WorkUnit
from service.statuses import TRANSITIONS, JobStatus, RoundStatus, UnitStatus
from service.transitions import LeaseLostError, move_job, move_round, move_unit
from tests.job_rows import create_job


def _pairs(kind):
    return [pytest.param(*pair, id=f"{pair[0]}-{pair[1]}") for pair in product(kind, kind)]


def _put(session, model, row_id, status):
    session.execute(update(model).where(model.id == row_id).values(status=status))
    session.commit()


def _allowed(source, target):
    return target in TRANSITIONS[type(source)].get(source, ())


def _num_events(session):
    return session.scalar(select(func.count()).select_from(Event))


@pytest.fixture(scope="module")
def kept(postgres):
    """One database for all pairs: a fresh one for each of 138 would take longer than the rest of the tests."""
    from sqlalchemy import create_engine

    from service.database import create_session_factory

    engine = create_engine(postgres.create_database("pairs", template="migrated"))
    sessions = create_session_factory(engine)
    job_id = create_job(sessions)
    with sessions.begin() as session:
        round_ = Round(job_id=job_id, round_index=0)
        session.add(round_)
        session.flush()
        unit_id = session.scalars(select(WorkUnit.id)).one()
        ids = (job_id, round_.id, unit_id)
    yield sessions, *ids
    engine.dispose()
    postgres.drop_database("pairs")


@pytest.mark.parametrize(("source", "target"), _pairs(JobStatus))
def test_move_job_moves_exactly_where_the_table_allows(kept, source, target):
    sessions, job_id, _, _ = kept
    with sessions() as session:
        _put(session, Job, job_id, source)
        before = _num_events(session)

        moved = move_job(session, job_id, target)
        session.commit()

        assert moved == _allowed(source, target)
        assert session.scalar(select(Job.status)) == (target if moved else source)
        assert _num_events(session) == before + moved


@pytest.mark.parametrize(("source", "target"), _pairs(RoundStatus))
def test_move_round_moves_exactly_where_the_table_allows(kept, source, target):
    sessions, _, round_id, _ = kept
    with sessions() as session:
        _put(session, Round, round_id, source)
        before = _num_events(session)

        moved = move_round(session, session.get_one(Round, round_id), target)
        session.commit()

        assert moved == _allowed(source, target)
        assert session.scalar(select(Round.status)) == (target if moved else source)
        assert _num_events(session) == before + moved


@pytest.mark.parametrize(("source", "target"), _pairs(UnitStatus))
@pytest.mark.parametrize("attempt", [None, 0, 1])
def test_move_unit_moves_exactly_where_table_and_attempt_allow(kept, source, target, attempt):
    sessions, _, _, unit_id = kept
    with sessions() as session:
        session.execute(update(WorkUnit).values(attempt=1))
        _put(session, WorkUnit, unit_id, source)
        before = _num_events(session)
        allowed = _allowed(source, target) and attempt != 0

        if allowed:
            unit = move_unit(session, unit_id, target, attempt=attempt)
            assert unit.attempt == (2 if target is UnitStatus.RUNNING else 1)
        else:
            with pytest.raises(LeaseLostError):
                move_unit(session, unit_id, target, attempt=attempt)
        session.commit()

        assert session.scalar(select(WorkUnit.status)) == (target if allowed else source)
        assert _num_events(session) == before + allowed
