"""Kernel inception distance (KID): the squared maximum mean discrepancy of two sets of features.

Legend: N real vectors, M fake vectors, S vectors of each in a subset, D dimensions.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_SEED = 0  # of the subsets: all that is measured on as many vectors is measured on the same places


def kernel_distance(
    real_ND: Tensor,
    fake_MD: Tensor,
    *,
    num_subsets: int,
    subset_size: int,
    on_subset: Callable[[int], None] = lambda _: None,
) -> tuple[float, float]:
    """Return mean and standard deviation of :func:`squared_discrepancy` over subsets, each without repetition.

    The mean is without bias whatever the subsets. The deviation is that of single subsets, as KID is usually told; that
    of the mean is smaller, but not by the root of their number, because subsets share vectors.

    Args:
        real_ND: Features of real images.
        fake_MD: Features of generated ones.
        num_subsets: 100 in the paper.
        subset_size: S; 1,000 in the paper.
        on_subset: Called with how many more are done, after each.

    Raises:
        ValueError: A subset has fewer than two vectors, or more than there are.

    Source: arXiv:1801.01401, section 4.
    """
    if num_subsets < 1 or not 2 <= subset_size <= min(len(real_ND), len(fake_MD)):
        raise ValueError(
            f"{num_subsets} subsets of {subset_size} vectors cannot be drawn of {len(real_ND)} and {len(fake_MD)}"
        )
    generator = torch.Generator().manual_seed(_SEED)
    found: list[float] = []
    for _ in range(num_subsets):
        real_SD, fake_SD = (
            features[torch.randperm(len(features), generator=generator)[:subset_size].to(features.device)]
            for features in (real_ND, fake_MD)
        )
        found.append(squared_discrepancy(real_SD, fake_SD.to(real_SD.device)))
        on_subset(1)
    found_S = torch.tensor(found, dtype=torch.float64)
    return float(found_S.mean()), float(found_S.std(correction=0))


def squared_discrepancy(real_ND: Tensor, fake_MD: Tensor) -> float:
    """Return the unbiased estimate of MMD² under the kernel (x·y / D + 1)³, in float64; below zero now and then.

    Args:
        real_ND: At least two vectors.
        fake_MD: At least two vectors.

    Source: arXiv:1801.01401, eq. 4, with the kernel of section 4.
    """
    real_ND, fake_MD = real_ND.double(), fake_MD.double()
    within = sum(_mean_of_pairs(features) for features in (real_ND, fake_MD))
    return float(within - 2 * _kernel(real_ND, fake_MD).mean())


def _mean_of_pairs(features_ND: Tensor) -> Tensor:
    """Return the mean of the kernel over pairs of two different vectors."""
    kernel_NN = _kernel(features_ND, features_ND)
    return (kernel_NN.sum() - kernel_NN.trace()) / (len(features_ND) * (len(features_ND) - 1))


def _kernel(a_MD: Tensor, b_ND: Tensor) -> Tensor:
    return (a_MD @ b_ND.T / a_MD.shape[1] + 1) ** 3
