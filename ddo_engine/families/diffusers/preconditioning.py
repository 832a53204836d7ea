"""From what a network of the library predicts to a denoiser ``D(x; sigma)`` of images with noise of size sigma.

A variance-preserving model sees ``x / sqrt(sigma^2 + 1)``; then ``c_skip`` and ``c_out`` follow from what it predicts:

epsilon       D = x - sigma F                                       F* = eps
v_prediction  D = x / (sigma^2 + 1) - sigma F / sqrt(sigma^2 + 1)   F* = (eps - sigma x0) / sqrt(sigma^2 + 1)
sample        D = F                                                 F* = x0

Source: arXiv:2006.11239, eq. 15; arXiv:2202.00512, appendix D; arXiv:2206.00364, table 1 for the change of variables.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ddo_engine.families.diffusers.timesteps import DiscreteTimesteps, EDMTimesteps, Prediction
from ddo_engine.families.diffusion.denoiser import Scalings, broadcast_to_images


class Preconditioning(Protocol):
    """What is around the network.

    Attributes:
        sigma_data: Standard deviation of the data for which the network's input has variance 1.
        sigma_max: The highest noise level that the network was trained with; None where nothing bounds it.
    """

    @property
    def sigma_data(self) -> float:
        """See above."""

    @property
    def sigma_max(self) -> float | None:
        """See above."""

    def scalings(self, sigma_B: Tensor) -> Scalings:
        """Return the four factors; ``c_noise`` is what the network takes for its timestep."""

    def target(self, x0_BCHW: Tensor, t_B: Tensor, eps_BCHW: Tensor) -> Tensor:
        """Return ``F* = (x0 - c_skip x_t) / c_out`` for ``x_t = x0 + t eps``, without differences of near equals."""


class VariancePreserving:
    """Discrete timesteps. ``c_noise`` is the step whose noise level is nearest, as for iDDPM in arXiv:2206.00364.

    Beyond the schedule that is the first or the last step: samplers may end a little below its lowest level, as usual,
    and are refused where they start above its highest; in training the tails of the noise distribution reach both.
    """

    sigma_data = 1.0

    def __init__(self, timesteps: DiscreteTimesteps, prediction: Prediction) -> None:
        levels_T = timesteps.noise_levels()
        self.sigma_max = float(levels_T[-1])
        self._prediction = prediction
        self._midpoints = ((levels_T[1:] + levels_T[:-1]) / 2).to(torch.float32)

    def scalings(self, sigma_B: Tensor) -> Scalings:
        """See :class:`Preconditioning`."""
        c_in_B = (sigma_B**2 + 1).rsqrt()
        c_skip_B, c_out_B = {
            "epsilon": (torch.ones_like(sigma_B), -sigma_B),
            "v_prediction": (c_in_B**2, -sigma_B * c_in_B),
            "sample": (torch.zeros_like(sigma_B), torch.ones_like(sigma_B)),
        }[self._prediction]
        step_B = torch.bucketize(sigma_B.contiguous(), self._midpoints.to(sigma_B))
        return Scalings(c_skip_B=c_skip_B, c_out_B=c_out_B, c_in_B=c_in_B, c_noise_B=step_B.to(torch.float32))

    def target(self, x0_BCHW: Tensor, t_B: Tensor, eps_BCHW: Tensor) -> Tensor:
        """See :class:`Preconditioning`."""
        if self._prediction == "epsilon":
            return eps_BCHW
        if self._prediction == "sample":
            return x0_BCHW
        t = broadcast_to_images(t_B)
        return (eps_BCHW - t * x0_BCHW) * (t**2 + 1).rsqrt()


@dataclass(frozen=True)
class ElucidatedPreconditioning:
    """EDM's factors; the library's ``v_prediction`` turns the sign of ``c_out`` around (arXiv:2206.00364, table 1)."""

    timesteps: EDMTimesteps
    sign: Literal[1, -1]
    sigma_max: None = None

    @property
    def sigma_data(self) -> float:
        """Of the scheduler."""
        return self.timesteps.sigma_data

    def scalings(self, sigma_B: Tensor) -> Scalings:
        """See :class:`Preconditioning`."""
        variance_B = sigma_B**2 + self.sigma_data**2
        return Scalings(
            c_skip_B=self.sigma_data**2 / variance_B,
            c_out_B=self.sign * sigma_B * self.sigma_data / variance_B.sqrt(),
            c_in_B=1 / variance_B.sqrt(),
            c_noise_B=sigma_B.log() / 4,
        )

    def target(self, x0_BCHW: Tensor, t_B: Tensor, eps_BCHW: Tensor) -> Tensor:
        """See :class:`Preconditioning`."""
        t = broadcast_to_images(t_B)
        scaled = x0_BCHW * t / self.sigma_data - self.sigma_data * eps_BCHW
        return self.sign * scaled / (t**2 + self.sigma_data**2).sqrt()


def preconditioning_of(timesteps: DiscreteTimesteps | EDMTimesteps, prediction: Prediction) -> Preconditioning:
    """Return what is around a network that predicts this at these timesteps: EDM's are never of kind ``sample``."""
    if isinstance(timesteps, DiscreteTimesteps):
        return VariancePreserving(timesteps, prediction)
    return ElucidatedPreconditioning(timesteps, 1 if prediction == "epsilon" else -1)
