"""Averages of weights over training: how long they remember, and how new ones are made of stored ones.

Two kinds. By half-life (EDM): the past fades exponentially. By power function (EDM2): the memory grows with training
and is always the same share of it, and averages of other lengths can be put together afterwards:

    stored = [PowerAverage(images=6.4e6, std=std) for std in (0.05, 0.1)]
    coefficients_SW = post_hoc_coefficients(stored, [PowerAverage(images=6.4e6, std=0.07)])
    model = reconstruct(map(ddo_engine.load_model, paths), coefficients_SW[:, 0])
"""

from ddo_engine.ema.averaging import ema_decay_at, update_ema
from ddo_engine.ema.half_life import half_life_decay, ramped_half_life
from ddo_engine.ema.post_hoc import PowerAverage, post_hoc_coefficients, reconstruct
from ddo_engine.ema.power_function import gamma_to_std, power_decay, std_to_gamma

__all__ = [
    "PowerAverage",
    "ema_decay_at",
    "gamma_to_std",
    "half_life_decay",
    "post_hoc_coefficients",
    "power_decay",
    "ramped_half_life",
    "reconstruct",
    "std_to_gamma",
    "update_ema",
]
