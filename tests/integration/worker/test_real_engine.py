"""A worker with the real engine: a unit handed back in its middle ends in the same bytes as one left in peace."""

import sys

import pytest
from sqlalchemy import select

from service.models import Checkpoint, Evaluation, Event
from tests.engine_inputs import make_inputs


def _results(workplace, job_id):
    with workplace.sessions() as session:
        checkpoints = select(Checkpoint.kimg, Checkpoint.sha256).where(Checkpoint.job_id == job_id)
        evaluations = select(Evaluation.kimg, Evaluation.metrics["fid"].as_float()).where(Evaluation.job_id == job_id)
        return [sorted(tuple(row) for row in session.execute(each)) for each in (checkpoints, evaluations)]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_real_engine_drained_mid_trial_gives_the_same_bytes(workplace):
    make_inputs(workplace.folder / "inputs")
    spec = workplace.spec(
        grid={"alpha": [2.0], "beta": [0.5]},
        training={
            "kimg": 12.8,
            "batch_size": 16,
            "learning_rate": 1e-3,
            "ema_half_life_kimg": 1.6,
            "evaluate_every_kimg": 3.2,
            "save_state_every_kimg": 0.32,
        },
        sampler={"num_steps": 3, "batch_size": 64},
        reference_set={"num_samples": 64},
        evaluation={"num_samples": 48, "neighbours": 3},
    )
    real = {"DDO_ENGINE_PYTHON": sys.executable, "DDO_ENGINE_DEVICE": "cpu", "DDO_ENGINE_THREADS": "1"}
    workplace.start_worker(**real, DDO_LEASE_SECONDS="30")
    undisturbed = workplace.submit(spec)
    assert workplace.wait_for_end(undisturbed, 90).status == "succeeded"
    disturbed = workplace.submit(spec)
    workplace.wait_until(lambda: any(unit.state_kimg for unit in workplace.units(kind="trial", job_id=disturbed)), 60)

    workplace.workers[0].terminate()
    assert workplace.workers[0].wait(20) == 0
    workplace.start_worker(**real, DDO_LEASE_SECONDS="30")
    assert workplace.wait_for_end(disturbed, 90).status == "succeeded"

    with workplace.sessions() as session:
        started = select(Event.data).where(Event.job_id == disturbed, Event.type == "unit.started")
        resumed = [data["resumed_from_kimg"] for data in session.scalars(started)]
    assert 0 < max(kimg or 0 for kimg in resumed) < 12.8
    (trial,) = workplace.units(kind="trial", job_id=disturbed)
    assert (trial.attempt, trial.crashes) == (2, 0)
    assert _results(workplace, disturbed) == _results(workplace, undisturbed)
