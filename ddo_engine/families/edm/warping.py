"""Affine warps of images with little aliasing: double the resolution, sample bilinearly, halve it again.

Shapes: B batch, C channels, H height, W width. Coordinates are (x, y) in pixels from the centre of the image.
"""

import torch
from torch import Tensor
from torch.nn import functional

# The low-pass filter of the wavelet sym6 (Daubechies, "Ten lectures on wavelets", section 8.1.1). Its shifts by two are
# orthonormal, so that halving undoes doubling: the identity leaves an image as it is.
_SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
_TAPS = len(_SYM6)


def warp(images_BCHW: Tensor, linear_B22: Tensor, offset_B2: Tensor) -> Tensor:
    """Return images whose pixel at q shows what was at ``linear q + offset``; outside, images are mirrored once.

    The margin is as wide as mirroring allows whatever the warps are, and not just as wide as the widest warp of the
    batch needs: image i depends on warp i alone, and the CPU need not wait for numbers of the GPU.

    Args:
        images_BCHW: float32.
        linear_B22: Acts on (x, y) columns.
        offset_B2: In pixels.

    Returns:
        Same shape and dtype. What lies outside the mirrored margin is 0.

    Source: arXiv:2206.00364, appendix F.2, after arXiv:2006.06676, appendix B (the filter and the pipeline).
    """
    batch, channels, height, width = images_BCHW.shape
    margins = [width - 1, width - 1, height - 1, height - 1]
    doubled = _double(functional.pad(images_BCHW, margins, mode="reflect"))
    # Wider than 2H by what the filter of the halving looks at beyond the borders.
    shape = (2 * height + _TAPS - 2, 2 * width + _TAPS - 2)
    grid = _sampling_grid(linear_B22, offset_B2, _sides(doubled), images_BCHW.new_tensor([shape[1], shape[0]]))
    grid_BHW2 = functional.affine_grid(grid, [batch, channels, *shape], align_corners=False)
    return _halve(functional.grid_sample(doubled, grid_BHW2, mode="bilinear", align_corners=False))


def _sampling_grid(linear_B22: Tensor, offset_B2: Tensor, sides_in_2: Tensor, sides_out_2: Tensor) -> Tensor:
    """Return the warp between doubled images as ``affine_grid`` wants it: sides are [-1, 1]. Shape (B, 2, 3).

    A doubled image has the pixel u where the image has ``(u + 1/2) / 2``: the filter is centred half a pixel off.
    """
    offset_B2 = linear_B22.sum(2) / 2 + 2 * offset_B2 - 0.5
    linear_B22 = linear_B22 * sides_out_2 / sides_in_2[:, None]
    return torch.cat([linear_B22, (offset_B2 * 2 / sides_in_2)[:, :, None]], dim=2)


def _sides(images_BCHW: Tensor) -> Tensor:
    return images_BCHW.new_tensor([images_BCHW.shape[3], images_BCHW.shape[2]])


def _double(images_BCHW: Tensor) -> Tensor:
    """Return images of shape (B, C, 2H, 2W). The transpose of :func:`_halve`, but for the borders."""
    channels, crop = images_BCHW.shape[1], _TAPS // 2 - 1
    row = _filter_row(images_BCHW)
    wide = functional.conv_transpose2d(images_BCHW, row, stride=(1, 2), padding=(0, crop), groups=channels)
    return functional.conv_transpose2d(wide, row.mT, stride=(2, 1), padding=(crop, 0), groups=channels)


def _halve(images_BCHW: Tensor) -> Tensor:
    """Return images of half the size, less what the filter needs at the borders."""
    channels = images_BCHW.shape[1]
    row = _filter_row(images_BCHW)
    narrow = functional.conv2d(images_BCHW, row, stride=(1, 2), groups=channels)
    return functional.conv2d(narrow, row.mT, stride=(2, 1), groups=channels)


def _filter_row(like_BCHW: Tensor) -> Tensor:
    return like_BCHW.new_tensor(_SYM6).expand(like_BCHW.shape[1], 1, 1, _TAPS)
