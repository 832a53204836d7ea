"""Warm-up and decay of the learning rate."""

import math

import pytest

from ddo_engine.learning_rate import learning_rate_at
from ddo_engine.spec import TrainingSettings


def settings(**overrides):
    defaults = {"kimg": 1.0, "batch_size": 10, "learning_rate": 0.5, "ema_half_life_kimg": 1, "evaluate_every_kimg": 1}
    return TrainingSettings.model_validate(defaults | overrides)


def test_rate_without_warmup_is_the_peak_throughout():
    training = settings()
    assert {learning_rate_at(step, training) for step in range(training.num_steps)} == {0.5}


def test_rate_in_warmup_rises_linearly_from_the_first_step_to_the_peak():
    training = settings(warmup_kimg=0.2)
    rates = [learning_rate_at(step, training) for step in range(25)]
    assert rates[:20] == pytest.approx([0.5 * (step + 1) / 20 for step in range(20)])
    assert rates[19:] == [0.5] * 6


def test_rate_with_warmup_of_the_whole_run_peaks_at_its_end():
    training = settings(warmup_kimg=1.0)
    assert learning_rate_at(49, training) == pytest.approx(0.25)
    assert learning_rate_at(99, training) == 0.5


def test_rate_after_warmup_follows_half_a_cosine_to_the_final_factor():
    training = settings(warmup_kimg=0.2, final_learning_rate_factor=0.1)
    assert learning_rate_at(19, training) == 0.5
    assert learning_rate_at(59, training) == pytest.approx(0.5 * 0.55)
    assert learning_rate_at(39, training) == pytest.approx(0.5 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))))
    assert learning_rate_at(99, training) == pytest.approx(0.05)
    rates = [learning_rate_at(step, training) for step in range(19, 100)]
    assert rates == sorted(rates, reverse=True)


def test_rate_of_a_last_batch_beyond_the_length_is_still_the_final_one():
    training = settings(kimg=0.095, final_learning_rate_factor=0.1)
    assert training.num_steps == 10
    assert learning_rate_at(9, training) == pytest.approx(0.05)
