"""Averages over a fixed share of training: weights from time t count as ``t^gamma`` does.

Their length is told as std, the standard deviation of that profile over the time trained so far.
"""

import numpy as np

MIN_STD, MAX_STD = 0.001, 0.28


def std_to_gamma(std: float) -> float:
    """Return the exponent whose profile has this relative standard deviation.

    Args:
        std: 0.001 … 0.28; beyond it, at 12^-1/2, is the plain mean of all weights, whose exponent is 0.

    Raises:
        ValueError: ``std`` is outside.

    Source: arXiv:2312.02696, algorithm 2: the largest root of ``(gamma + 2)^2 (gamma + 3) = std^-2 (gamma + 1)``.
    """
    if not MIN_STD <= std <= MAX_STD:
        raise ValueError(f"std is {std}: give a relative standard deviation from {MIN_STD} to {MAX_STD}")
    precision = std**-2
    return float(np.roots([1, 7, 16 - precision, 12 - precision]).real.max())


def gamma_to_std(gamma: float) -> float:
    """Return the relative standard deviation of the profile with this exponent.

    Args:
        gamma: > −1.

    Raises:
        ValueError: ``gamma`` is not.

    Source: arXiv:2312.02696, eq. 123.
    """
    if not gamma > -1:
        raise ValueError(f"gamma is {gamma}: no average has an exponent of -1 or less")
    return float(np.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))))


def power_decay(images: int, batch_size: int, std: float) -> float:
    """Return the factor by which one step shrinks the past of an average by power function.

    The first step has 0: the average is then that step's weights, and what it was before does not matter.

    Args:
        images: Seen after the step, this one's included; >= ``batch_size``.
        batch_size: Images of the step.
        std: Length of the average relative to ``images``, see :func:`std_to_gamma`.

    Raises:
        ValueError: ``std`` is out of range.

    Source: arXiv:2312.02696, section 3.1.
    """
    return float((1 - batch_size / images) ** (std_to_gamma(std) + 1))
