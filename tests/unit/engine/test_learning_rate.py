"""Warm-up and decay of the learning rate, and VAR's weight decay."""

import json
import math

import pytest
from pydantic import ValidationError

from ddo_engine.errors import InvalidSpec
from ddo_engine.learning_rate import (
    edm2_learning_rate,
    learning_rate_at,
    var_learning_rate,
    var_weight_decay,
    weight_decay_at,
)
from ddo_engine.spec import TrainingSettings
from ddo_engine.spec_file import read_spec
from tests.numerics.golden import description

EDM2_ROWS = description("12_edm2_loss_lr_ema")["lr_schedule"]
VAR_ROWS = description("15_var_lr_schedule")["rows"]


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


# EDM and EDM2


@pytest.mark.parametrize("row", EDM2_ROWS, ids=lambda row: f"{row['ref_lr']}-{row['ref_batches']}-{row['cur_nimg']}")
def test_edm2_rate_equals_official(row):
    rate = edm2_learning_rate(
        row["cur_nimg"],
        peak=row["ref_lr"],
        warmup_images=row["rampup_Mimg"] * 1e6,
        reference_images=row["ref_batches"] * row["batch_size"],
    )
    assert rate == pytest.approx(row["lr"], rel=1e-9, abs=0)


@pytest.mark.parametrize(
    "row", [row for row in EDM2_ROWS if row["cur_nimg"] % row["batch_size"] == 0 and row["cur_nimg"] < 1e8]
)
def test_rate_of_the_step_that_edm2s_loop_takes_after_so_many_images_equals_official(row):
    training = settings(
        kimg=100_000,
        batch_size=row["batch_size"],
        learning_rate=row["ref_lr"],
        warmup_kimg=row["rampup_Mimg"] * 1000,
        schedule={"kind": "edm2", "decay_reference_batches": row["ref_batches"]},
    )
    assert learning_rate_at(row["cur_nimg"] // row["batch_size"], training) == pytest.approx(row["lr"], rel=1e-9, abs=0)


def test_edm_rate_rises_over_the_round_from_zero_as_in_the_papers_cifar10_runs():
    training = settings(kimg=1500, batch_size=500, learning_rate=1.5e-4, warmup_kimg=1500, schedule={"kind": "edm"})
    rates = [learning_rate_at(step, training) for step in range(3000)]
    assert rates == pytest.approx([1.5e-4 * step / 3000 for step in range(3000)], rel=1e-12)


def test_edm_rate_stays_at_the_peak_after_warmup_and_without_one():
    training = settings(warmup_kimg=0.2, schedule={"kind": "edm"})
    assert [learning_rate_at(step, training) for step in (0, 10, 19, 20, 99)] == [0, 0.25, 0.475, 0.5, 0.5]
    assert learning_rate_at(0, settings(schedule={"kind": "edm"})) == 0.5


# VAR


def named(row):
    return f"{row['sche']}-{row['wp_it']}-{row['max_it']}-{row['it']}"


@pytest.mark.parametrize("row", VAR_ROWS, ids=named)
def test_var_rate_and_weight_decay_equal_official(row):
    rate = var_learning_rate(
        row["it"],
        peak=row["peak_lr"],
        num_steps=row["max_it"],
        warmup_steps=row["wp_it"],
        initial_factor=row["wp0"],
        final_factor=row["wpe"],
        decay=row["sche"],
    )
    assert rate == pytest.approx(row["lr"], rel=1e-9, abs=0)
    weight_decay = var_weight_decay(row["it"], num_steps=row["max_it"], initial=row["wd0"], final=row["wd_end"])
    assert weight_decay == pytest.approx(row["wd"], rel=1e-9, abs=0)


@pytest.mark.parametrize("row", VAR_ROWS, ids=named)
def test_rate_of_a_run_with_vars_schedule_equals_official(row):
    training = settings(
        kimg=row["max_it"] * 1.024,
        batch_size=1024,
        learning_rate=row["peak_lr"],
        warmup_kimg=row["wp_it"] * 1.024,
        final_learning_rate_factor=row["wpe"],
        schedule={"kind": "var", "decay": row["sche"]},
    )
    assert training.num_steps == row["max_it"]
    assert learning_rate_at(row["it"], training) == pytest.approx(row["lr"], rel=1e-9, abs=0)


@pytest.mark.parametrize("warmup_kimg", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("decay", ["lin0", "cos"])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 100])
def test_var_rate_of_a_short_run_is_between_zero_and_the_peak(warmup_kimg, decay, num_steps):
    training = settings(
        batch_size=1000 // num_steps,
        warmup_kimg=warmup_kimg,
        final_learning_rate_factor=0.1,
        schedule={"kind": "var", "decay": decay},
    )
    assert all(0 < learning_rate_at(step, training) <= 0.5 for step in range(training.num_steps))


@pytest.mark.parametrize("row", VAR_ROWS, ids=named)
def test_settings_of_a_var_run_give_the_official_weight_decay_of_a_step(row):
    training = settings(
        kimg=row["max_it"] / 1000, batch_size=1, weight_decay=row["wd0"], final_weight_decay=row["wd_end"]
    )
    assert weight_decay_at(row["it"], training) == pytest.approx(row["wd"], rel=1e-9, abs=0)


def test_var_weight_decay_of_a_single_step_is_the_initial_one():
    assert var_weight_decay(0, num_steps=1, initial=0.05, final=0.08) == 0.05


# Settings


def test_schedule_without_being_named_is_the_cosine():
    named_one = settings(warmup_kimg=0.2, final_learning_rate_factor=0.1, schedule={"kind": "cosine"})
    assert settings(warmup_kimg=0.2, final_learning_rate_factor=0.1) == named_one


@pytest.mark.parametrize("schedule", [{"kind": "edm"}, {"kind": "edm2", "decay_reference_batches": 10}])
def test_final_factor_of_a_schedule_that_has_none_is_refused(schedule):
    with pytest.raises(ValidationError, match="knows no final_learning_rate_factor"):
        settings(schedule=schedule, final_learning_rate_factor=0.5)


@pytest.mark.parametrize(
    ("schedule", "param"),
    [
        ({"kind": "edm2"}, "schedule.decay_reference_batches"),
        ({"kind": "edm2", "decay_reference_batches": -1}, "schedule.decay_reference_batches"),
        ({"kind": "var", "decay": "exp"}, "schedule.decay"),
        ({"kind": "cosine", "initial_factor": 0.1}, "schedule.initial_factor"),
        ({"kind": "var", "initial_factor": 1.5}, "schedule.initial_factor"),
        ({"kind": "linear"}, "schedule"),
        ({"decay": "cos"}, "schedule"),
    ],
)
def test_schedule_that_does_not_exist_is_refused_naming_the_field_as_written(tmp_path, schedule, param):
    content = {"kimg": 1.0, "batch_size": 10, "learning_rate": 0.5, "ema_half_life_kimg": 1, "evaluate_every_kimg": 1}
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(content | {"schedule": schedule}))
    with pytest.raises(InvalidSpec) as caught:
        read_spec(path, TrainingSettings)
    assert caught.value.param == param
