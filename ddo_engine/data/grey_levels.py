"""Datasets whose pixels take fewer than 256 values.

Generated images must be rounded as the data were: otherwise what tells real from fake is the rounding,
and that is what a discriminative loss learns.
"""

import torch
from torch import Tensor


def grey_values(levels: int) -> Tensor:
    """Return the pixel values round(k·255/(levels − 1)), k = 0 … levels − 1. Shape (levels,), uint8.

    Raises:
        ValueError: ``levels`` is not in 2 … 256.
    """
    if not 2 <= levels <= 256:
        raise ValueError(f"levels must be in 2 … 256, not {levels}")
    return torch.tensor([round(k * 255 / (levels - 1)) for k in range(levels)], dtype=torch.uint8)


def round_to_grey_levels(images: Tensor, levels: int) -> Tensor:
    """Move every pixel to the nearest of ``levels`` equally spaced values (the lower one of two equally near).

    Args:
        images: uint8, any shape.
        levels: Number of values, 2 … 256; 256 changes nothing.

    Returns:
        uint8 of the same shape and device.
    """
    values_L = grey_values(levels)
    if levels == 256:
        return images
    distance_VL = (torch.arange(256)[:, None] - values_L.long()[None, :]).abs()
    table_V = values_L[distance_VL.argmin(dim=1)].to(images.device)
    return table_V[images.long()]


def has_grey_levels(images: Tensor, levels: int) -> bool:
    """Tell whether every pixel already is one of the ``levels`` values: what data of that many levels must satisfy."""
    occurs_V = torch.bincount(images.reshape(-1), minlength=256) > 0
    allowed_V = torch.zeros(256, dtype=torch.bool, device=images.device)
    allowed_V[grey_values(levels).long().to(images.device)] = True
    return not bool((occurs_V & ~allowed_V).any())
