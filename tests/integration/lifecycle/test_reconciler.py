"""What is left behind is picked up."""

import time

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select, text, update

from service.doorbell import QUEUE, Doorbell
from service.leases import claim
from service.models import Event, Job, WorkUnit
from service.reconciler import Reconciler, _only_one, reconcile
from tests.job_rows import RowWorker, create_job

PAST = text("clock_timestamp() - interval '60 s'")


@pytest.fixture
def doorbell(service_settings):
    doorbell = Doorbell(service_settings)
    yield doorbell
    doorbell.close()


@pytest.fixture
def rung(valkey_url, valkey):
    with valkey.connect() as client:
        yield lambda: client.llen(QUEUE)


def _change(sessions, **values):
    with sessions.begin() as session:
        session.execute(update(WorkUnit).values(**values))


def _one_unit(sessions):
    with sessions() as session:
        return session.scalars(select(WorkUnit)).one()


def test_reconcile_requeues_and_rings_for_units_of_silent_workers(sessions, engine, doorbell, service_settings, rung):
    create_job(sessions)
    with sessions.begin() as session:
        claim(session, "silent", 30)
    assert reconcile(engine, doorbell, service_settings)
    assert _one_unit(sessions).status == "running"
    _change(sessions, lease_expires_at=PAST)

    assert reconcile(engine, doorbell, service_settings)

    unit = _one_unit(sessions)
    assert (unit.status, unit.crashes, unit.lease_owner) == ("queued", 1, None)
    assert rung() == 1


def test_reconcile_rings_again_only_after_a_while(sessions, engine, doorbell, service_settings, rung):
    create_job(sessions)
    reconcile(engine, doorbell, service_settings)
    assert rung() == 0
    _change(sessions, rung_at=PAST)

    for _ in range(3):
        reconcile(engine, doorbell, service_settings)

    assert rung() == 1


def test_reconcile_leaves_units_whose_pause_is_not_over(sessions, engine, doorbell, service_settings, rung):
    create_job(sessions)
    _change(sessions, rung_at=None, run_after=text("clock_timestamp() + interval '60 s'"))

    reconcile(engine, doorbell, service_settings)

    assert rung() == 0


def test_reconcile_advances_a_job_that_nobody_works_on(sessions, engine, doorbell, service_settings, rung):
    """As after a crash of older code between a unit's end and the plan."""
    job_id = create_job(sessions)
    RowWorker(sessions, lambda *_: 1.0).step()
    with sessions.begin() as session:
        session.execute(update(Job).values(status="cancelling"))
        session.execute(update(WorkUnit).where(WorkUnit.status == "queued").values(status="cancelled"))

    reconcile(engine, doorbell, service_settings)

    with sessions() as session:
        assert session.get_one(Job, job_id).status == "cancelled"


def test_reconcile_finishes_cancelling_jobs_with_queued_units(sessions, engine, doorbell, service_settings, rung):
    job_id = create_job(sessions)
    with sessions.begin() as session:
        session.execute(update(Job).values(status="cancelling"))

    reconcile(engine, doorbell, service_settings)

    with sessions() as session:
        assert session.get_one(Job, job_id).status == "cancelled"


def test_reconcile_one_unreadable_job_does_not_stop_the_others(sessions, engine, doorbell, service_settings, rung):
    broken, good = create_job(sessions), create_job(sessions)
    with sessions.begin() as session:
        session.execute(update(Job).values(status="cancelling"))
        session.execute(update(Job).where(Job.id == broken).values(spec={"nonsense": 1}))

    assert reconcile(engine, doorbell, service_settings)

    with sessions() as session:
        assert session.get_one(Job, good).status == "cancelled"


def test_reconcile_acts_in_one_process_at_a_time(sessions, engine, doorbell, service_settings, rung):
    create_job(sessions)
    _change(sessions, rung_at=PAST)
    with _only_one(engine) as alone:
        assert alone
        assert not reconcile(engine, doorbell, service_settings)
        assert rung() == 0

    assert reconcile(engine, doorbell, service_settings)
    assert rung() == 1


def test_reconcile_with_a_dead_broker_still_repairs_rows(sessions, engine, service_settings):
    deaf = Doorbell(service_settings.model_copy(update={"broker_url": SecretStr("redis://127.0.0.1:1/0")}))
    create_job(sessions)
    with sessions.begin() as session:
        claim(session, "silent", 30)
    _change(sessions, lease_expires_at=PAST)

    assert reconcile(engine, deaf, service_settings)

    assert _one_unit(sessions).status == "queued"
    deaf.close()


def test_reconciler_thread_works_and_stops(sessions, engine, doorbell, service_settings, rung):
    create_job(sessions)
    with sessions.begin() as session:
        claim(session, "silent", 30)
    _change(sessions, lease_expires_at=PAST)
    reconciler = Reconciler(engine, doorbell, service_settings.model_copy(update={"reconcile_seconds": 0.1}))

    reconciler.start()
    until = time.monotonic() + 10
    while _one_unit(sessions).status != "queued" and time.monotonic() < until:
        time.sleep(0.05)
    reconciler.stop()

    with sessions() as session:
        assert session.scalar(select(func.count()).where(Event.type == "unit.queued")) == 1
