"""How a model of the library names noise levels: by one of the steps of a discrete schedule, or by ln(sigma) / 4.

The schedules are computed in float32 and in the library's order of operations, because the rounding of a thousand
factors is part of the noise levels that a model was trained with.
"""

import math
from itertools import pairwise
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ddo_engine.spec import PositiveFloat, Settings

Prediction = Literal["epsilon", "v_prediction", "sample"]
Beta = Annotated[float, Field(ge=0, le=1)]
MAX_TIMESTEPS = 100_000
_LARGEST_COSINE_BETA = 0.999


class DiscreteTimesteps(Settings):
    """A variance-preserving process of ``num_train_timesteps`` steps, as the library's DDPM-like schedulers have it."""

    kind: Literal["discrete"] = "discrete"
    num_train_timesteps: int = Field(default=1000, ge=2, le=MAX_TIMESTEPS)
    beta_start: Beta = 0.0001
    beta_end: Beta = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = "linear"
    trained_betas: Annotated[tuple[Beta, ...], Field(min_length=2, max_length=MAX_TIMESTEPS)] | None = None
    rescale_betas_zero_snr: bool = False

    @model_validator(mode="after")
    def _noise_grows(self) -> Self:
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError(f"trained_betas must have num_train_timesteps = {self.num_train_timesteps} values")
        levels_T = self.noise_levels()
        if len(levels_T) < 2 or not bool((levels_T[0] > 0) & (levels_T.diff() > 0).all()):
            raise ValueError("the betas must make the noise grow from step to step")
        return self

    def noise_levels(self) -> Tensor:
        """Return ``sigma_t = sqrt((1 - a_t) / a_t)``, ascending, a_t being the product of ``1 - beta`` up to step t.

        Returns:
            float64 on the CPU, of shape (T,), in units of data in [-1, 1]; without a last step that is noise alone.

        Source: arXiv:2006.11239, eq. 4; arXiv:2206.00364, appendix C.3 (the same process with sigma as its time).
        """
        betas_T = self._betas()
        if self.rescale_betas_zero_snr:
            betas_T = _with_zero_terminal_snr(betas_T)
        products_T = (1 - betas_T).cumprod(0)
        products_T = products_T[products_T > 0].to(torch.float64)
        return ((1 - products_T) / products_T).sqrt()

    def _betas(self) -> Tensor:
        # Explicitly on the CPU: networks are also built on the meta device.
        device, steps = torch.device("cpu"), self.num_train_timesteps
        if self.trained_betas is not None:
            return torch.tensor(self.trained_betas, dtype=torch.float32, device=device)
        if self.beta_schedule == "linear":
            return torch.linspace(self.beta_start, self.beta_end, steps, dtype=torch.float32, device=device)
        if self.beta_schedule == "scaled_linear":
            first, last = math.sqrt(self.beta_start), math.sqrt(self.beta_end)
            return torch.linspace(first, last, steps, dtype=torch.float32, device=device) ** 2
        if self.beta_schedule == "sigmoid":
            ramp_T = torch.linspace(-6, 6, steps, dtype=torch.float32, device=device).sigmoid()
            return ramp_T * (self.beta_end - self.beta_start) + self.beta_start
        cosine = [_cosine_product(step / steps) for step in range(steps + 1)]
        betas = [min(1 - after / before, _LARGEST_COSINE_BETA) for before, after in pairwise(cosine)]
        return torch.tensor(betas, dtype=torch.float32, device=device)


class EDMTimesteps(Settings):
    """EDM's preconditioning around the network, as the library's EDM schedulers have it."""

    kind: Literal["edm"] = "edm"
    sigma_data: PositiveFloat = 0.5


Timesteps = Annotated[DiscreteTimesteps | EDMTimesteps, Field(discriminator="kind")]


def _cosine_product(time: float) -> float:
    """Source: arXiv:2102.09672, eq. 17."""
    return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2


def _with_zero_terminal_snr(betas_T: Tensor) -> Tensor:
    """Shift and scale the square roots of the products so that the last is 0 and the first stays.

    Source: arXiv:2305.08891, algorithm 1.
    """
    roots_T = (1 - betas_T).cumprod(0).sqrt()
    first, last = roots_T[0].clone(), roots_T[-1].clone()
    products_T = ((roots_T - last) * (first / (first - last))) ** 2
    return 1 - torch.cat([products_T[:1], products_T[1:] / products_T[:-1]])
