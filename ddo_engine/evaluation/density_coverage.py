"""Density and coverage: precision and recall that a few outliers among the real images do not move.

Legend: N real vectors, M fake vectors, D dimensions.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ddo_engine.evaluation.precision_recall import Manifold


def density_coverage(
    real: Manifold, fake_MD: Tensor, on_rows: Callable[[int], None] = lambda _: None
) -> tuple[float, float]:
    """Return density (real balls around a fake, by their expected number) and coverage (real balls with a fake).

    Args:
        real: ``Manifold.of(real features, k)``; k is 5 in the paper.
        fake_MD: Features of generated images.
        on_rows: As of :meth:`Manifold.of`; M of them in all.

    Returns:
        Density, >= 0, and about 1 where fakes are as the real; coverage in [0, 1].

    Source: arXiv:2002.09797, section 3.
    """
    num_around = 0
    covered_N = torch.zeros(len(real.squared_radii_N), dtype=torch.bool, device=real.squared_radii_N.device)
    for inside_BN in real.inside(fake_MD, on_rows):
        num_around += int(inside_BN.sum())
        covered_N |= inside_BN.any(dim=0)
    return num_around / (real.neighbours * len(fake_MD)), float(covered_N.double().mean())
