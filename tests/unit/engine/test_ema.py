"""The moving average of weights."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from ddo_engine.ema import ema_decay, update_ema
from tests.numerics.golden import arrays, description

GOLDEN = "12_edm2_loss_lr_ema"


def test_ema_of_a_recorded_trajectory_equals_official():
    trajectory, expected = arrays(GOLDEN)["ema_trajectory"], arrays(GOLDEN)["ema_edm_hl5000_noramp"]
    model = nn.Linear(5, 1, bias=False, dtype=torch.float64)
    model.weight.data.copy_(torch.from_numpy(trajectory[:1]))
    ema_model = deepcopy(model)
    decay = ema_decay(description(GOLDEN)["batch_size"], 5.0)
    for weights, average in zip(trajectory[1:], expected, strict=True):
        model.weight.data.copy_(torch.from_numpy(weights[None]))
        update_ema(ema_model, model, decay)
        np.testing.assert_allclose(ema_model.weight.detach()[0], average, rtol=1e-12)


def test_ema_decay_over_one_half_life_is_one_half():
    assert ema_decay(100, 1.0) ** 10 == pytest.approx(0.5, rel=1e-12)
    assert ema_decay(1000, 1.0) == 0.5


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
