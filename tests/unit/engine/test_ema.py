"""The moving averages of weights."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from ddo_engine.ema import (
    PowerAverage,
    ema_decay_at,
    gamma_to_std,
    half_life_decay,
    post_hoc_coefficients,
    power_decay,
    ramped_half_life,
    reconstruct,
    std_to_gamma,
    update_ema,
)
from ddo_engine.spec import TrainingSettings
from tests.numerics.golden import arrays, description

GOLDEN = "12_edm2_loss_lr_ema"
BATCH_SIZE, TRAJECTORY = description(GOLDEN)["batch_size"], arrays(GOLDEN)["ema_trajectory"]
PHEMA = description(GOLDEN)["phema"]
POSTHOC = PHEMA["posthoc"]


def training(**ema):
    """A run of 40 steps, as the recorded one."""
    batches = {"kimg": 20.48, "batch_size": BATCH_SIZE, "learning_rate": 1e-3, "evaluate_every_kimg": 1}
    return TrainingSettings.model_validate(batches | ema)


def linear(weights):
    model = nn.Linear(5, 1, bias=False, dtype=torch.float64)
    model.weight.data.copy_(torch.as_tensor(weights)[None])
    return model


def average_along_trajectory(decay_at):
    model, averages = linear(TRAJECTORY[0]), []
    ema_model = deepcopy(model)
    for step, weights in enumerate(TRAJECTORY[1:]):
        model.weight.data.copy_(torch.from_numpy(weights[None]))
        update_ema(ema_model, model, decay_at(step))
        averages.append(ema_model.weight.detach()[0].numpy().copy())
    return np.stack(averages)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"ema_half_life_kimg": 5.0}, arrays(GOLDEN)["ema_edm_hl5000_noramp"]),
        ({"ema_half_life_kimg": 5.0, "ema_rampup_ratio": 0.05}, arrays(GOLDEN)["ema_edm_hl5000_ramp005"]),
        ({"ema_std": 0.05}, arrays(GOLDEN)["ema_power_std_005_010"][:, 0]),
        ({"ema_std": 0.1}, arrays(GOLDEN)["ema_power_std_005_010"][:, 1]),
    ],
)
def test_average_of_a_trial_along_a_recorded_trajectory_equals_official(settings, expected):
    averages = average_along_trajectory(lambda step: ema_decay_at(step, training(**settings)))
    np.testing.assert_allclose(averages, expected, rtol=1e-9)


def test_half_life_that_counts_the_images_after_a_step_equals_edm2s():
    def decay_at(step):
        return half_life_decay(BATCH_SIZE, ramped_half_life(5.0, (step + 1) * BATCH_SIZE, 0.09))

    np.testing.assert_allclose(average_along_trajectory(decay_at), arrays(GOLDEN)["ema_traditional_edm2"], rtol=1e-9)


def test_half_life_decay_over_one_half_life_is_one_half():
    assert half_life_decay(100, 1.0) ** 10 == pytest.approx(0.5, rel=1e-12)
    assert half_life_decay(1000, 1.0) == 0.5
    assert half_life_decay(1000, 0.0) == 0


def test_std_and_exponent_equal_official_tables():
    for std, gamma in PHEMA["std_to_exp"].items():
        assert std_to_gamma(float(std)) == pytest.approx(gamma, rel=1e-9)
    for gamma, std in PHEMA["exp_to_std"].items():
        assert gamma_to_std(float(gamma)) == pytest.approx(std, rel=1e-9)


@given(st.floats(0.001, 0.28))
def test_exponent_of_an_std_has_that_std(std):
    gamma = std_to_gamma(std)
    assert gamma > 0
    assert gamma_to_std(gamma) == pytest.approx(std, rel=1e-9)


@pytest.mark.parametrize("std", [0.0, 0.0009, 0.2801, 0.5, float("nan")])
def test_std_of_no_average_is_refused(std):
    with pytest.raises(ValueError, match=r"from 0\.001 to 0\.28"):
        std_to_gamma(std)


@pytest.mark.parametrize("gamma", [-1.0, -3.0, float("nan")])
def test_exponent_of_no_average_is_refused(gamma):
    with pytest.raises(ValueError, match="no average has an exponent"):
        gamma_to_std(gamma)


@pytest.mark.parametrize("row", PHEMA["beta"])
def test_power_decay_equals_official(row):
    assert power_decay(row["t_next"], row["t_delta"], row["std"]) == pytest.approx(row["beta"], rel=1e-9)


def test_power_average_remembers_nothing_from_before_the_trial():
    assert ema_decay_at(0, training(ema_std=0.1)) == 0
    assert ema_decay_at(0, training(ema_half_life_kimg=5.0)) == half_life_decay(BATCH_SIZE, 5.0)


def test_power_average_of_a_long_run_has_the_mean_and_std_of_its_profile():
    std, num_steps = 0.1, 4000
    weight_N = np.zeros(num_steps)
    for step in range(num_steps):
        decay = power_decay(step + 1, 1, std)
        weight_N *= decay
        weight_N[step] = 1 - decay
    time_N = (np.arange(num_steps) + 0.5) / num_steps
    mean = (weight_N * time_N).sum()
    gamma = std_to_gamma(std)
    assert weight_N.sum() == pytest.approx(1, rel=1e-12)
    assert mean == pytest.approx((gamma + 1) / (gamma + 2), rel=1e-3)
    assert np.sqrt((weight_N * (time_N - mean) ** 2).sum()) == pytest.approx(std, rel=2e-3)


# Post-hoc reconstruction


STORED = [PowerAverage(*each) for each in zip(POSTHOC["in_nimg"], POSTHOC["in_std"], strict=True)]
WANTED = [PowerAverage(POSTHOC["out_nimg"], std) for std in POSTHOC["out_std"]]


def stored_models():
    for average in STORED:
        profile = POSTHOC["in_std"].index(average.std)
        yield linear(arrays(GOLDEN)["ema_power_std_005_010"][average.images // BATCH_SIZE - 1, profile])


def test_post_hoc_coefficients_equal_official():
    coefficients_SW = post_hoc_coefficients(STORED, WANTED)
    np.testing.assert_allclose(coefficients_SW, arrays(GOLDEN)["phema_coefs"], rtol=1e-9, atol=1e-9)


def test_reconstructed_weights_equal_official():
    coefficients_SW = post_hoc_coefficients(STORED, WANTED)
    for coefficients_S, expected in zip(coefficients_SW.T, arrays(GOLDEN)["phema_reconstructed"], strict=True):
        model = reconstruct(stored_models(), coefficients_S)
        np.testing.assert_allclose(model.weight[0].numpy(), expected, rtol=1e-9)
        assert not model.weight.requires_grad


def test_post_hoc_coefficients_of_a_stored_average_choose_it():
    coefficients_SW = post_hoc_coefficients(STORED, STORED)
    np.testing.assert_allclose(coefficients_SW, np.eye(len(STORED)), atol=1e-9)


@pytest.mark.parametrize("std", [0.07, 0.15])
def test_reconstruction_of_an_average_that_was_kept_comes_close_to_it(std):
    weights_TN = np.random.default_rng(0).standard_normal((2000, 4)).cumsum(0)

    def averages_TN(std):
        average_N, averages = np.zeros(4), []
        for step, weights_N in enumerate(weights_TN):
            average_N = weights_N + power_decay(step + 1, 1, std) * (average_N - weights_N)
            averages.append(average_N)
        return np.stack(averages)

    stored = [PowerAverage(images, length) for length in (0.05, 0.1) for images in range(250, 2001, 250)]
    stored_SN = np.concatenate([averages_TN(length)[249::250] for length in (0.05, 0.1)])
    rebuilt_N = post_hoc_coefficients(stored, [PowerAverage(2000, std)])[:, 0] @ stored_SN
    kept_N = averages_TN(std)[-1]
    assert np.abs(rebuilt_N - kept_N).max() < 0.15 * np.abs(stored_SN - kept_N).max(1).min()


def test_post_hoc_coefficients_do_not_depend_on_the_unit_of_time():
    def scaled(averages):
        return [PowerAverage(1e6 * average.images, average.std) for average in averages]

    np.testing.assert_allclose(
        post_hoc_coefficients(scaled(STORED), scaled(WANTED)), post_hoc_coefficients(STORED, WANTED), atol=1e-9
    )


@pytest.mark.parametrize(
    ("stored", "wanted", "words"),
    [
        ([], WANTED, "needs stored averages"),
        ([STORED[0], STORED[0]], WANTED, "each of them once"),
        (STORED, [PowerAverage(20481, 0.1)], "none can be made for a later time"),
        (STORED, [PowerAverage(0, 0.1)], "images > 0"),
        (STORED, [PowerAverage(float("nan"), 0.1)], "images > 0"),
        (STORED, [PowerAverage(20480, 0.3)], r"from 0\.001 to 0\.28"),
        (
            [PowerAverage(100.0, 0.1), PowerAverage(np.nextafter(100.0, 0), 0.1)],
            [PowerAverage(90, 0.1)],
            "too much alike",
        ),
    ],
)
def test_post_hoc_coefficients_that_do_not_exist_are_refused(stored, wanted, words):
    with pytest.raises(ValueError, match=words):
        post_hoc_coefficients(stored, wanted)


def test_reconstruct_sums_half_precision_in_float32_and_takes_the_last_buffers():
    models = [nn.BatchNorm1d(2).half() for _ in range(3)]
    for index, model in enumerate(models):
        model.weight.data.fill_(1 + index / 1024)
        model.running_mean.fill_(index)
    rebuilt = reconstruct(models, [0.5, 0.25, 0.25])
    assert rebuilt.weight.dtype == torch.float32
    assert torch.equal(rebuilt.weight, torch.full((2,), 1 + 0.75 / 1024))
    assert torch.equal(rebuilt.running_mean, models[2].running_mean)
    assert models[2].weight.dtype == torch.float16
    assert models[0].weight[0] == 1


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ([], "no stored average"),
        ([nn.Linear(2, 2), nn.Linear(2, 3)], "one architecture"),
        ([nn.Linear(2, 2), nn.Linear(2, 2, bias=False)], "one architecture"),
        ([nn.Linear(2, 2)], "argument 2 is longer"),
        ([nn.Linear(2, 2)] * 3, "argument 2 is shorter"),
    ],
)
def test_reconstruct_from_models_that_do_not_fit_is_refused(models, words):
    with pytest.raises(ValueError, match=words):
        reconstruct(models, [] if not models else [0.5, 0.5])


# The average that is being kept


def test_update_ema_of_buffers_copies_them():
    model = nn.BatchNorm1d(2)
    ema_model = deepcopy(model)
    model.running_mean = torch.tensor([3.0, 4.0])
    model.num_batches_tracked = torch.tensor(7)
    update_ema(ema_model, model, 0.9)
    assert torch.equal(ema_model.running_mean, model.running_mean)
    assert ema_model.num_batches_tracked == 7


def test_update_ema_leaves_the_model_and_its_gradients_alone():
    model = nn.Linear(3, 1)
    ema_model = deepcopy(model).requires_grad_(False)
    before = deepcopy(model.state_dict())
    update_ema(ema_model, model, 0.5)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in ema_model.parameters())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "exactly one of ema_half_life_kimg and ema_std"),
        ({"ema_half_life_kimg": 1.0, "ema_std": 0.1}, "exactly one of ema_half_life_kimg and ema_std"),
        ({"ema_std": 0.1, "ema_rampup_ratio": 0.05}, "leave it out with ema_std"),
        ({"ema_std": 0.0009}, "ema_std"),
        ({"ema_std": 0.29}, "ema_std"),
        ({"ema_half_life_kimg": 1.0, "ema_rampup_ratio": 0.0}, "ema_rampup_ratio"),
    ],
)
def test_settings_of_no_average_or_of_two_are_refused(settings, words):
    with pytest.raises(ValidationError, match=words):
        training(**settings)


@pytest.mark.parametrize("std", [0.001, 0.28])
def test_every_std_that_settings_accept_is_one_of_an_average(std):
    assert ema_decay_at(3, training(ema_std=std)) >= 0
