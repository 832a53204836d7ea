"""The loss scale of float16: only there, and what it forgives."""

import pytest
import torch

from ddo_engine.loss_scale import INITIAL_SCALE, LOWEST_SCALE, make_loss_scaler, may_skip
from ddo_engine.spec import TrainingSettings

CPU = torch.device("cpu")
TRAINING = TrainingSettings(kimg=1, batch_size=4, learning_rate=0.01, ema_half_life_kimg=1, evaluate_every_kimg=1)


def scaler_of(precision: str) -> torch.amp.GradScaler:
    return make_loss_scaler(TRAINING.model_copy(update={"precision": precision}), CPU)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_loss_scaler_beside_float16_changes_nothing(precision: str) -> None:
    scaler, loss = scaler_of(precision), torch.tensor(3.0)
    assert scaler.scale(loss) is loss
    assert scaler.state_dict() == {}
    assert not may_skip(scaler)


def test_loss_scaler_halves_on_overflow_until_its_floor() -> None:
    scaler, parameter = scaler_of("float16"), torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], fused=True)
    scales = []
    while may_skip(scaler):
        scales.append(scaler.get_scale())
        scaler.scale(parameter.sum()).backward()
        parameter.grad = torch.full_like(parameter, torch.inf)
        scaler.unscale_(optimizer)
        scaler.update()
    assert scales == [INITIAL_SCALE / 2**halved for halved in range(11)]
    assert scaler.get_scale() == LOWEST_SCALE
