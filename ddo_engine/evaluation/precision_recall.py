"""Improved precision and recall: how many samples lie on the data's manifold, and the other way round.

Legend: N real vectors, M fake vectors, D dimensions.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 2**20  # of the distance matrix, at a time
ROUNDING = 1e-10  # of the largest squared norm: exact copies are at distance zero up to so much

OnRows = Callable[[int], None]


def _unheard(_: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Manifold:
    """Balls around feature vectors, each reaching to its k-th nearest neighbour (itself not counted).

    Attributes:
        features_ND: float64 centres.
        squared_radii_N: float64.
        neighbours: k.
    """

    features_ND: Tensor
    squared_radii_N: Tensor
    neighbours: int

    @classmethod
    def of(cls, features_ND: Tensor, neighbours: int, on_rows: OnRows = _unheard) -> "Manifold":
        """Estimate the manifold that ``features_ND`` lie on.

        Args:
            features_ND: Any float dtype.
            neighbours: k.
            on_rows: Told how many vectors more have been compared with all: it takes minutes.

        Raises:
            ValueError: There are not more vectors than ``neighbours``.
        """
        if features_ND.shape[0] <= neighbours:
            raise ValueError(f"{neighbours} neighbours need more than {features_ND.shape[0]} vectors")
        features_ND = features_ND.double()
        radii = [
            distances_BN.topk(neighbours + 1, dim=1, largest=False).values[:, -1]
            for distances_BN in _squared_distances(features_ND, features_ND, on_rows)
        ]
        return cls(features_ND, torch.cat(radii), neighbours)

    def inside(self, features_MD: Tensor, on_rows: OnRows = _unheard) -> Iterator[Tensor]:
        """Yield which of the N balls hold each of ``features_MD``, for consecutive rows. Shape (B, N)."""
        features_MD = features_MD.to(self.features_ND).contiguous()
        largest = max(float(tensor.square().sum(dim=1).max()) for tensor in (self.features_ND, features_MD))
        reach_N = self.squared_radii_N + ROUNDING * largest
        for distances_BN in _squared_distances(features_MD, self.features_ND, on_rows):
            yield distances_BN <= reach_N

    def share_inside(self, features_MD: Tensor, on_rows: OnRows = _unheard) -> float:
        """Return the share of ``features_MD`` that lie in at least one ball."""
        num_inside = sum(int(inside_BN.any(dim=1).sum()) for inside_BN in self.inside(features_MD, on_rows))
        return num_inside / len(features_MD)


def precision_recall(real: Manifold, fake_MD: Tensor, on_rows: OnRows = _unheard) -> tuple[float, float]:
    """Return precision (fakes on the real manifold) and recall (reals on the fake manifold), both in [0, 1].

    Args:
        real: ``Manifold.of(real features, k)``, which does not change between evaluations.
        fake_MD: Features of generated images.
        on_rows: As of :meth:`Manifold.of`; 2 M + N of them in all.

    Raises:
        ValueError: There are not more fakes than k.

    Source: arXiv:1904.06991, eqs. 1 and 2.
    """
    fake = Manifold.of(fake_MD.to(real.features_ND.device), real.neighbours, on_rows)
    return real.share_inside(fake_MD, on_rows), fake.share_inside(real.features_ND, on_rows)


def _squared_distances(a_MD: Tensor, b_ND: Tensor, on_rows: OnRows) -> Iterator[Tensor]:
    """Yield ‖a_i − b_j‖² for consecutive rows i, within ``CHUNK_BYTES``."""
    centre_D = b_ND.mean(dim=0)  # small norms: less cancellation
    a_MD, b_ND = a_MD - centre_D, b_ND - centre_D
    norms_N = b_ND.square().sum(dim=1)
    rows = max(1, CHUNK_BYTES // (8 * b_ND.shape[0]))
    for a_BD in torch.split(a_MD, rows):
        squared_BN = torch.addmm(norms_N[None, :], a_BD, b_ND.T, alpha=-2)
        yield squared_BN.add_(a_BD.square().sum(dim=1, keepdim=True)).clamp_(min=0)
        on_rows(len(a_BD))
