"""Bilinear resizing as TensorFlow 1 does it: the first pixel stays the first, nothing is averaged.

Libraries of today put pixels at the centres of their areas, and average when they shrink an image; a feature network
that was trained behind the old rule sees other images behind the new one.
"""

import torch
from torch import Tensor


def resize(images_BCHW: Tensor, size: int) -> Tensor:
    """Return the images with ``size`` pixels a side.

    Output pixel i lies at ``i * input side / size`` of the input, and mixes the two pixels around that place; beyond
    the last pixel there is only the last.

    Args:
        images_BCHW: Floating-point; its sides may differ.
        size: Of both sides.

    Returns:
        Shape (B, C, size, size), in the dtype of the input.

    Source: ``tf.image.resize_bilinear`` with its defaults, ``align_corners=False`` and no half-pixel centres.
    """
    return _resize_last(_resize_last(images_BCHW, size).transpose(2, 3), size).transpose(2, 3)


def _resize_last(x: Tensor, size: int) -> Tensor:
    """Resize the last dimension."""
    old_size = x.shape[-1]
    numerators = torch.arange(size, device=x.device) * old_size
    before = numerators // size
    after = (before + 1).clamp(max=old_size - 1)
    weight = (numerators % size).to(x.dtype) / size
    return torch.lerp(x.index_select(-1, before), x.index_select(-1, after), weight)
