"""EDM's augmentation of training images, and the labels that tell the network of it.

A network that is told how its input was augmented learns from augmented images without drawing them: at sampling the
labels are left out, which counts as zeros and stands for an untouched image.

Shapes: B batch, C channels, H height, W width, A = 9 augmentation labels.

Source: arXiv:2206.00364, appendix F.2, table 6.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ddo_engine.families.edm.warping import warp
from ddo_engine.families.protocol import BatchPart

AUGMENT_DIM = 9
_SCALE_STD = 0.2  # of log2 of the zoom
_STRETCH_STD = 0.2  # of log2 of the stretch
_SHIFT_STD = 0.125  # in sides of the image
_FLIP_X_WEIGHT = 1e8  # on the probability: left and right are exchanged in half of all images
_TURNED_AXIS_PROBABILITY = 0.5  # the other stretches are along x or y


@dataclass(frozen=True)
class AugmentationDraw:
    """The random numbers behind one augmentation of B images, in the order in which they are drawn.

    Gates are uniform in [0, 1): what they belong to is done where they lie below a probability. All of shape (B,) but
    the shift.

    Attributes:
        flip_x_B: 0 or 1: exchange left and right.
        flip_x_gate_B: Of that.
        flip_y_B: 0 or 1: exchange top and bottom.
        flip_y_gate_B: Of that.
        scale_B: Standard normal: log2 of the zoom in fifths.
        scale_gate_B: Of that.
        turn_B: Uniform in [0, 1): the angle of a rotation, from −pi to pi.
        turn_gate_B: Of that.
        stretch_B: Standard normal: log2 of the stretch along an axis, and of the squeeze across it, in fifths.
        axis_B: Uniform in [0, 1): the angle of that axis, from −pi to pi.
        stretch_gate_B: Of the stretch.
        axis_gate_B: Of the angle.
        shift_2B: Standard normal: right and down, in eighths of width and height. Shape (2, B).
        shift_gate_B: Of both.
    """

    flip_x_B: Tensor
    flip_x_gate_B: Tensor
    flip_y_B: Tensor
    flip_y_gate_B: Tensor
    scale_B: Tensor
    scale_gate_B: Tensor
    turn_B: Tensor
    turn_gate_B: Tensor
    stretch_B: Tensor
    axis_B: Tensor
    stretch_gate_B: Tensor
    axis_gate_B: Tensor
    shift_2B: Tensor
    shift_gate_B: Tensor

    def of_rows(self, rows: BatchPart) -> "AugmentationDraw":
        """Return the draw for these rows of the batch."""
        return AugmentationDraw(*(rows.rows_of(getattr(self, entry.name), dim=-1) for entry in fields(self)))

    def repeat(self, times: int) -> "AugmentationDraw":
        """Return the draw for several batches one after another: row i is augmented alike in all of them."""
        return AugmentationDraw(*(torch.cat([getattr(self, entry.name)] * times, dim=-1) for entry in fields(self)))


@dataclass(frozen=True)
class Augmentation:
    """What is done to B images: zeros where a gate was closed. All of shape (B,), float32, but the flips (bool).

    Attributes:
        flip_x_B: Exchange left and right.
        flip_y_B: Exchange top and bottom.
        scale_B: log2 of the zoom in fifths.
        angle_B: Of the rotation, radians.
        stretch_B: log2 of the stretch in fifths.
        axis_B: Angle of its axis, radians.
        shift_x_B: In eighths of the width.
        shift_y_B: In eighths of the height.
    """

    flip_x_B: Tensor
    flip_y_B: Tensor
    scale_B: Tensor
    angle_B: Tensor
    stretch_B: Tensor
    axis_B: Tensor
    shift_x_B: Tensor
    shift_y_B: Tensor

    @classmethod
    def of(cls, draw: AugmentationDraw, probability: float) -> "Augmentation":
        """Close the gates: everything but the exchange of left and right is done with this probability."""
        angle_B, axis_B = ((2 * uniform_B - 1) * math.pi for uniform_B in (draw.turn_B, draw.axis_B))
        shift_2B = _behind(draw.shift_gate_B, draw.shift_2B, probability)
        return cls(
            flip_x_B=_behind(draw.flip_x_gate_B, draw.flip_x_B, probability * _FLIP_X_WEIGHT) > 0,
            flip_y_B=_behind(draw.flip_y_gate_B, draw.flip_y_B, probability) > 0,
            scale_B=_behind(draw.scale_gate_B, draw.scale_B, probability),
            angle_B=_behind(draw.turn_gate_B, angle_B, probability),
            stretch_B=_behind(draw.stretch_gate_B, draw.stretch_B, probability),
            axis_B=_behind(draw.axis_gate_B, axis_B, _TURNED_AXIS_PROBABILITY),
            shift_x_B=shift_2B[0],
            shift_y_B=shift_2B[1],
        )

    @property
    def labels_BA(self) -> Tensor:
        """What the network is told: zeros for an untouched image. float32."""
        labels = [
            self.flip_x_B.to(torch.float32),
            self.flip_y_B.to(torch.float32),
            self.scale_B,
            self.angle_B.cos() - 1,
            self.angle_B.sin(),
            self.stretch_B * self.axis_B.cos(),
            self.stretch_B * self.axis_B.sin(),
            self.shift_x_B,
            self.shift_y_B,
        ]
        return torch.stack(labels, dim=1)

    def apply(self, images_BCHW: Tensor) -> Tensor:
        """Return the augmented images: flipped, then all the rest as one affine warp. float32, same shape."""
        images_BCHW = torch.where(self.flip_x_B[:, None, None, None], images_BCHW.flip(3), images_BCHW)
        images_BCHW = torch.where(self.flip_y_B[:, None, None, None], images_BCHW.flip(2), images_BCHW)
        height, width = images_BCHW.shape[2:]
        # From where a pixel is to where its content was: shifted last, so taken back first.
        shift_B2 = _SHIFT_STD * torch.stack([self.shift_x_B * width, self.shift_y_B * height], dim=1)
        linear_B22 = self._inverse_linear()
        return warp(images_BCHW, linear_B22, -(linear_B22 @ shift_B2[:, :, None])[:, :, 0])

    def _inverse_linear(self) -> Tensor:
        """Return the inverse of zoom, rotation and stretch, acting on (x, y) columns. Shape (B, 2, 2)."""
        squeeze_B = (-_STRETCH_STD * self.stretch_B).exp2()
        along_axis_B22 = torch.diag_embed(torch.stack([squeeze_B, 1 / squeeze_B], dim=1))
        unstretch_B22 = _rotation(-self.axis_B) @ along_axis_B22 @ _rotation(self.axis_B)
        zoom_B = (_SCALE_STD * self.scale_B).exp2()
        return _rotation(self.angle_B) / zoom_B[:, None, None] @ unstretch_B22


def draw_augmentation(num_images: int, generator: torch.Generator) -> AugmentationDraw:
    """Draw for this many images, on the generator's device: field after field, whatever the gates then say."""

    def coin() -> Tensor:
        return torch.randint(2, (num_images,), generator=generator, device=generator.device)

    def uniform() -> Tensor:
        return torch.rand(num_images, generator=generator, device=generator.device)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, num_images, generator=generator, device=generator.device)

    return AugmentationDraw(
        flip_x_B=coin(),
        flip_x_gate_B=uniform(),
        flip_y_B=coin(),
        flip_y_gate_B=uniform(),
        scale_B=normal(),
        scale_gate_B=uniform(),
        turn_B=uniform(),
        turn_gate_B=uniform(),
        stretch_B=normal(),
        axis_B=uniform(),
        stretch_gate_B=uniform(),
        axis_gate_B=uniform(),
        shift_2B=normal(2),
        shift_gate_B=uniform(),
    )


def augment(images_BCHW: Tensor, draw: AugmentationDraw, probability: float) -> tuple[Tensor, Tensor]:
    """Augment images.

    Args:
        images_BCHW: float32, in [-1, 1].
        draw: For these B images.
        probability: Of each part but the exchange of left and right, in (0, 1]; 0.12 for CIFAR-10.

    Returns:
        Images of the same shape, which may leave [-1, 1] a little; and their labels, shape (B, 9), float32.
    """
    augmentation = Augmentation.of(draw, probability)
    return augmentation.apply(images_BCHW), augmentation.labels_BA


def _behind(gate_B: Tensor, values_B: Tensor, probability: float) -> Tensor:
    return torch.where(gate_B < probability, values_B, 0)


def _rotation(angle_B: Tensor) -> Tensor:
    cosine_B, sine_B = angle_B.cos(), angle_B.sin()
    return torch.stack([torch.stack([cosine_B, -sine_B], dim=1), torch.stack([sine_B, cosine_B], dim=1)], dim=1)
