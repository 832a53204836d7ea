"""A picture of the first samples of an evaluation. All that is measured on the same seeds has the same places in it."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ddo_engine.files import write_atomically

_MOST_COLUMNS = 8
_MOST_PIXELS = 1024  # of the picture, along each side: fewer samples of large images
_FEWEST_PIXELS = 64  # of a sample: smaller ones are shown as blocks of one colour
_GAP_PIXELS, _GAP_GREY = 2, 128


def num_shown(img_resolution: int) -> int:
    """Return how many samples of this size are shown: 64 up to 128 pixels a side, then fewer."""
    return _columns(img_resolution) ** 2


def sample_grid(images_NCHW: Tensor) -> Tensor:
    """Return one picture: row by row, each pixel of small images a block of equal pixels, with grey lines between.

    Args:
        images_NCHW: uint8, of 1 or 3 channels; N as :func:`num_shown` says, or fewer: the rest is black.

    Returns:
        uint8, shape (H, W, C).
    """
    num_images, channels, height, width = images_NCHW.shape
    columns = _columns(max(height, width))
    rows = -(-num_images // columns)
    missing = images_NCHW.new_zeros(rows * columns - num_images, channels, height, width)
    factor = max(1, _FEWEST_PIXELS // max(height, width))
    cells = torch.cat([images_NCHW, missing]).repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    cells = torch.nn.functional.pad(cells, (0, _GAP_PIXELS, 0, _GAP_PIXELS), value=_GAP_GREY)
    *_, height, width = cells.shape
    by_place = cells.view(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    picture_HWC = by_place.reshape(rows * height, columns * width, channels)
    return picture_HWC[:-_GAP_PIXELS, :-_GAP_PIXELS]


def write_sample_grid(path: Path, images_NCHW: Tensor) -> None:
    """Write :func:`sample_grid` as a PNG; equal samples give equal bytes."""
    picture_HWC = sample_grid(images_NCHW).numpy()
    image = Image.fromarray(picture_HWC[..., 0] if picture_HWC.shape[2] == 1 else picture_HWC)
    write_atomically(path, lambda temporary: image.save(temporary, format="PNG"))


def _columns(side: int) -> int:
    return max(1, min(_MOST_COLUMNS, _MOST_PIXELS // side))
