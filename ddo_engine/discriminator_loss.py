"""What a discriminator minimises in a step: the cross-entropy of real against generated images, both noised alike.

Shapes: B rows of a batch of real images, and of one of fakes; first the real ones, then the fakes, where there are 2B.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor
from torch.nn import functional

from ddo_engine.batches import BatchSource
from ddo_engine.families.diffusion.denoiser import broadcast_to_images
from ddo_engine.families.diffusion.likelihood import draw_noise
from ddo_engine.families.diffusion.space import Space
from ddo_engine.families.discriminator.network import Discriminator
from ddo_engine.randomness import generator_for
from ddo_engine.spec import DiscriminatorTraining

# Thirds of the noise distribution, from the least noise on, for the diagnostics.
BANDS = ("low", "middle", "high")


@dataclass(frozen=True)
class DiscriminatorLoss:
    """The loss of one step, and what is told of it.

    Attributes:
        space: Where the model denoises, and the discriminator looks.
        is_conditional: Whether the discriminator sees labels.
        real: Dataset images.
        fake: Samples of the model.
        training: Noise distribution.
        seed: The run's seed.
    """

    space: Space
    is_conditional: bool
    real: BatchSource
    fake: BatchSource
    training: DiscriminatorTraining
    seed: int

    @property
    def diagnostics(self) -> tuple[str, ...]:
        """Names of what :meth:`__call__` returns beside the loss, in order: sums over rows, and how many they are."""
        sides = tuple(f"correct_{side}" for side in ("real", "fake"))
        return sides + tuple(f"{what}_{band}" for band in BANDS for what in ("correct", "rows"))

    def __call__(self, network: Discriminator, step: int) -> tuple[Tensor, Tensor]:
        """Return the mean loss of the batch of ``step`` (0-based), ln 2 at chance; and the diagnostics, no gradient.

        Row i of the fakes has the noise of row i of the real images: what they differ in is then not their noise.

        Returns:
            0-dim; and shape (K,).

        Source: arXiv:2211.17091, section 3, with the noise distribution in the place of its weight of noise levels.
        """
        rows = range(self.real.batch_size)
        generator = generator_for(self.real.device, self.seed, "noise", step)
        batches = [source.batch(step, rows) for source in (self.real, self.fake)]
        x0_BCHW = torch.cat([self.space.to_model(batch, generator) for batch in batches])
        noise = draw_noise(x0_BCHW[: len(rows)], self.training.P_mean, self.training.P_std, generator)
        t_B, eps_BCHW = noise.t_B.repeat(2), noise.eps_BCHW.repeat(2, 1, 1, 1)
        labels_B = None
        if self.is_conditional:
            labels_B = torch.cat([batch.labels_B for batch in batches if batch.labels_B is not None])
        logit_B = network.logit(x0_BCHW + broadcast_to_images(t_B) * eps_BCHW, t_B, labels_B)
        sign_B = torch.ones_like(logit_B)
        sign_B[len(rows) :] = -1
        return functional.softplus(-sign_B * logit_B).mean(), self._correct((sign_B * logit_B).detach() > 0, t_B)

    def _correct(self, correct_B: Tensor, t_B: Tensor) -> Tensor:
        edge = NormalDist().inv_cdf(2 / 3)
        normal_B = (t_B.log() - self.training.P_mean) / self.training.P_std
        bands = (normal_B < -edge, (normal_B >= -edge) & (normal_B <= edge), normal_B > edge)
        sides = [half.sum() for half in correct_B.chunk(2)]
        return torch.stack(sides + [count for band in bands for count in ((correct_B & band).sum(), band.sum())])

    def report(self, means: dict[str, float]) -> dict[str, float]:
        """Return the diagnostics of a window as people read them: shares. Bands in which no row fell are left out."""
        shares = {f"accuracy_{side}": means[f"correct_{side}"] / self.real.batch_size for side in ("real", "fake")}
        seen: Sequence[str] = [band for band in BANDS if means[f"rows_{band}"] > 0]
        return shares | {f"accuracy_{band}_noise": means[f"correct_{band}"] / means[f"rows_{band}"] for band in seen}
