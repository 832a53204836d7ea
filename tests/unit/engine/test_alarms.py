"""Which windows of diagnostics give a warning, and which end a trial."""

import pytest

from ddo_engine.alarms import Alarms
from ddo_engine.spec import TrainingSettings

TRAINING = TrainingSettings(kimg=100, batch_size=4, learning_rate=0.01, ema_half_life_kimg=1, evaluate_every_kimg=1)
HEALTHY = {
    "discriminator_accuracy": 0.6,
    "saturated_share": 0.1,
    "ratio_real_std": 2.0,
    "ratio_fake_std": 2.0,
    "reference_loss": 100.0,
    "target_loss": 103.0,
}
SATURATED = HEALTHY | {"discriminator_accuracy": 0.97, "saturated_share": 0.6}
IDLE = HEALTHY | {"ratio_real_std": 0.01, "ratio_fake_std": 0.02}


def look(alarms, values, kimg=50.0, training=TRAINING, beta=1.0):
    return [warning.code for warning in alarms.look_at(values, training, beta=beta, step=1, kimg=kimg)]


def test_healthy_window_gives_no_warning():
    assert look(Alarms(), HEALTHY) == []


@pytest.mark.parametrize(
    ("values", "code"),
    [
        (SATURATED, "discriminator_saturated"),
        (IDLE, "discriminator_idle"),
        (HEALTHY | {"target_loss": 201.0}, "loss_on_data_doubled"),
    ],
)
def test_unhealthy_window_warns_once(values, code):
    alarms = Alarms()
    assert look(alarms, values) == [code]
    assert look(alarms, values) == []
    assert alarms.raised == (code,)


@pytest.mark.parametrize(
    "values",
    [
        HEALTHY | {"saturated_share": 1.0},  # all ratios near −ln(alpha) / beta: the balance of a large alpha
        HEALTHY | {"discriminator_accuracy": 1.0},  # small ratios of the right sign
        HEALTHY | {"target_loss": 199.0},
    ],
)
def test_window_with_one_sign_of_saturation_alone_gives_no_warning(values):
    alarms = Alarms()
    assert look(alarms, values) == []
    assert alarms.saturated_windows == 0


def test_trial_ends_after_two_saturated_windows_on_end_unless_told_otherwise():
    alarms = Alarms()
    ends = []
    for values in (SATURATED, HEALTHY, SATURATED, SATURATED):
        look(alarms, values)
        ends.append(alarms.ends(TRAINING))
    assert ends == [False, False, False, True]
    assert not alarms.ends(TRAINING.model_copy(update={"stop_when_saturated": False}))


@pytest.mark.parametrize(
    ("warmup_kimg", "kimg", "warns"),
    [(0, 24.9, False), (0, 25, True), (40, 39, False), (40, 40, True), (100, 49, False), (100, 50, True)],
)
def test_ratio_that_barely_moves_is_told_of_after_warm_up_or_half_the_trial(warmup_kimg, kimg, warns):
    training = TRAINING.model_copy(update={"warmup_kimg": warmup_kimg})
    assert bool(look(Alarms(), IDLE, kimg, training)) == warns


def test_ratio_barely_moves_in_terms_of_beta():
    assert look(Alarms(), HEALTHY, beta=0.02) == ["discriminator_idle"]
    assert look(Alarms(), IDLE, beta=3.0) == []


def test_run_without_ratios_gives_no_warning():
    assert look(Alarms(), {"loss": 1.0}, beta=None) == []


def test_alarms_taken_up_again_say_nothing_twice():
    alarms = Alarms()
    look(alarms, SATURATED)
    resumed = Alarms(alarms.raised, alarms.saturated_windows)
    assert look(resumed, SATURATED) == []
    assert resumed.ends(TRAINING)
