"""When what is due."""

import pytest

from ddo_engine.schedule import Schedule
from ddo_engine.spec import TrainingSettings


def schedule(**overrides):
    defaults = {
        "kimg": 51.2,
        "batch_size": 256,
        "learning_rate": 0.5,
        "ema_half_life_kimg": 1,
        "evaluate_every_kimg": 25.6,
    }
    return Schedule(TrainingSettings.model_validate(defaults | overrides))


def due(is_due, timetable):
    return [step for step in range(timetable.training.num_steps + 1) if is_due(step)]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({}, [100, 200]),
        ({"evaluate_every_kimg": 51.2}, [200]),
        ({"evaluate_every_kimg": 1000}, [200]),
        ({"evaluate_every_kimg": 20}, [79, 157, 200]),
        ({"kimg": 1, "evaluate_every_kimg": 0.256}, [1, 2, 3, 4]),
        ({"kimg": 1, "evaluate_every_kimg": 1e-300}, [1, 2, 3, 4]),
        ({"kimg": 0.9, "batch_size": 100, "evaluate_every_kimg": 0.3}, [3, 6, 9]),
        ({"kimg": 0.35, "batch_size": 50, "evaluate_every_kimg": 0.1}, [2, 4, 6, 7]),
    ],
)
def test_evaluations_are_at_multiples_and_at_the_end_but_never_at_the_start(overrides, expected):
    timetable = schedule(**overrides)
    assert due(timetable.evaluates_at, timetable) == expected


@pytest.mark.parametrize("every", [25.6, 12.8, 0.1, 0.3, 0.7, 6.4])
def test_evaluations_are_as_many_as_the_settings_say(every):
    timetable = schedule(kimg=every * 30, batch_size=10, evaluate_every_kimg=every)
    steps = due(timetable.evaluates_at, timetable)
    assert len(steps) == 30
    assert [timetable.kimg_at(step) for step in steps] == pytest.approx([every * (i + 1) for i in range(30)])


def test_states_are_saved_at_every_evaluation_and_at_their_own_interval():
    timetable = schedule(kimg=1, batch_size=100, evaluate_every_kimg=0.5, save_state_every_kimg=0.3)
    assert due(timetable.saves_state_at, timetable) == [3, 5, 6, 9, 10]
    assert due(schedule().saves_state_at, schedule()) == [100, 200]


@pytest.mark.parametrize("num_steps", [1, 7, 20, 21, 199, 200, 1000])
def test_metrics_are_reported_about_twenty_times_and_last_at_the_end(num_steps):
    timetable = schedule(kimg=num_steps / 100, batch_size=10, evaluate_every_kimg=100)
    steps = due(timetable.reports_at, timetable)
    assert len(steps) == min(num_steps, 20)
    assert steps[-1] == num_steps
    assert 0 not in steps
