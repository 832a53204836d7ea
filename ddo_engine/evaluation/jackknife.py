"""How far a number of samples would move if others had been drawn, told from the samples at hand.

Legend: M samples, G groups, D dimensions.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddo_engine.evaluation.moments import Moments

NUM_GROUPS = 20
_SEED = 0  # of shuffled groups


def jackknife_std(
    features_MD: Tensor, moments: Moments, statistic: Callable[[Moments], float], *, shuffled: bool = False
) -> float:
    """Return the standard deviation of ``statistic`` over samples, by the jackknife that leaves out a group at a time.

    It knows nothing of what all samples have in common: the bias of the statistic, the real images, the model.

    Args:
        features_MD: Of independent samples. Groups are runs of them: where labels follow seeds, every run has the
            shares of the classes that all have, as it is with other seeds.
        moments: Of all of them.
        statistic: Called once a group, with the moments of the others.
        shuffled: Form groups at random instead, of images that may come in order of their classes.

    Raises:
        ValueError: There are fewer than two samples a group.

    Source: Efron, Stein, "The jackknife estimate of variance" (1981), for groups; by its theorem the
    variance is too large on average, never too small.
    """
    if len(features_MD) < 2 * NUM_GROUPS:
        raise ValueError(f"{NUM_GROUPS} groups need at least {2 * NUM_GROUPS} samples, not {len(features_MD)}")
    if shuffled:
        features_MD = features_MD[torch.randperm(len(features_MD), generator=torch.Generator().manual_seed(_SEED))]
    groups = features_MD.tensor_split(NUM_GROUPS)
    found = [statistic(moments.without(Moments.of(group_BD))) for group_BD in groups]
    mean = math.fsum(found) / NUM_GROUPS
    return math.sqrt((NUM_GROUPS - 1) / NUM_GROUPS * math.fsum((each - mean) ** 2 for each in found))
