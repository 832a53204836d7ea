"""Averages of any length, put together from stored averages by power functions once training is over.

Every stored average is a weighted mean of the weights in training, and so is the wanted one. The stored profiles are
combined to come as close to the wanted profile as they can, in the sense of least squares over training time, and then
scaled to weigh 1 in all: weights that did not change in training come out as they are.
"""

import math
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ddo_engine.ema.power_function import std_to_gamma

# Beyond it fewer than four digits of the coefficients mean anything; two lengths stored a thousand times reach 1e11.
MAX_CONDITION = 1e12


@dataclass(frozen=True)
class PowerAverage:
    """Which average by power function.

    Attributes:
        images: When it was taken: images seen since the average began. > 0.
        std: Its relative length, see :func:`ddo_engine.ema.std_to_gamma`.
    """

    images: float
    std: float


def post_hoc_coefficients(stored: Sequence[PowerAverage], wanted: Sequence[PowerAverage]) -> NDArray[np.float64]:
    """Return how much of each stored average goes into each wanted one.

    Args:
        stored: S averages of one training run. Two lengths, stored several times, give any length between well.
        wanted: W averages, none later than the last stored one.

    Returns:
        float64, shape (S, W). Columns sum to 1; single coefficients may be negative.

    Raises:
        ValueError: Nothing is stored, an average is stored twice or too much alike another, one is wanted that lies
            after all stored ones, or a time or length is out of range.

    Source: arXiv:2312.02696, section 3.2 and algorithm 3.
    """
    if not stored or len(set(stored)) < len(stored):
        raise ValueError("post-hoc reconstruction needs stored averages, each of them once")
    if not all(0 < average.images < math.inf for average in (*stored, *wanted)):  # NaN is refused too
        raise ValueError("an average needs a number of images > 0")
    last = max(average.images for average in stored)
    if any(average.images > last for average in wanted):
        raise ValueError(f"the last stored average was taken after {last:g} images: none can be made for a later time")
    products_SS = _inner_products(stored, stored)
    if np.linalg.cond(products_SS) > MAX_CONDITION:
        raise ValueError("the stored averages are too much alike to be told apart: leave some of them out")
    coefficients_SW = np.linalg.solve(products_SS, _inner_products(stored, wanted))
    normalised_SW: NDArray[np.float64] = coefficients_SW / coefficients_SW.sum(axis=0)
    return normalised_SW


@torch.no_grad()
def reconstruct(models: Iterable[nn.Module], coefficients_S: Sequence[float] | NDArray[np.float64]) -> nn.Module:
    """Return the average that the coefficients make of the stored ones.

    Args:
        models: The S stored averages, in the order of the coefficients. Looked at one at a time: an iterator that
            loads them keeps no more than two in memory.
        coefficients_S: A column of what :func:`post_hoc_coefficients` returns.

    Returns:
        A new model, without gradients. Parameters are summed and kept in float32 or wider; buffers are the last
        model's.

    Raises:
        ValueError: There are more models than coefficients or fewer, or none, or they are not of one architecture.
    """
    sums: dict[str, Tensor] = {}
    model: nn.Module | None = None
    for model, coefficient in zip(models, coefficients_S, strict=True):
        terms = {name: _at_least_float32(value) * float(coefficient) for name, value in model.named_parameters()}
        if not sums:
            sums = terms
        elif {name: term.shape for name, term in terms.items()} != {name: total.shape for name, total in sums.items()}:
            raise ValueError("the stored averages are not of one architecture: give those of one training run")
        else:
            sums = {name: total + terms[name] for name, total in sums.items()}
    if model is None:
        raise ValueError("there is no stored average to reconstruct from")
    result = deepcopy(model).requires_grad_(False)
    for name, parameter in result.named_parameters():
        parameter.data = sums[name]
    return result


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _inner_products(ones: Sequence[PowerAverage], others: Sequence[PowerAverage]) -> NDArray[np.float64]:
    """Return the integrals over training time of the products of two profiles each, shape (ones, others).

    The profile of an average taken at T is ``p(t) = (gamma + 1) t^gamma / T^(gamma + 1)`` for t in [0, T], else 0. Two
    of them, T1 <= T2, give ``(gamma1 + 1) (gamma2 + 1) / (gamma1 + gamma2 + 1) (T1 / T2)^gamma2 / T2``; times in this
    form stay ratios, where powers of numbers of images would overflow.
    """
    images, other_images = (np.array([average.images for average in each], dtype=np.float64) for each in (ones, others))
    gamma, other_gamma = (np.array([std_to_gamma(average.std) for average in each]) for each in (ones, others))
    T_a, T_b, a, b = images[:, None], other_images[None], gamma[:, None], other_gamma[None]
    later, gamma_of_later = np.maximum(T_a, T_b), np.where(T_a <= T_b, b, a)
    products: NDArray[np.float64] = (
        (a + 1) * (b + 1) / (a + b + 1) * (np.minimum(T_a, T_b) / later) ** gamma_of_later / later
    )
    return products
