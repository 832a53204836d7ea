"""The convolutional networks between pixels and the features that are quantised.

Shapes: B batch, C channels, H and W height and width in pixels; h and w those of the features, 2^(levels - 1) times
smaller.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from ddo_engine.families.var.vqgan_layers import Level, Middle, convolution, group_norm


@dataclass(frozen=True)
class EncoderDecoderShape:
    """What encoder and decoder have in common.

    Attributes:
        z_channels: Of the features.
        in_channels: Of the pixels.
        ch: Base width.
        ch_mult: Width of each level, from the highest resolution down, in units of ``ch``.
        num_res_blocks: A level of the encoder; a level of the decoder has one more.
        using_sa: Attention behind every block of the lowest level.
        using_mid_sa: Attention between the two blocks in the middle.
        dropout: Inside the residual blocks, in training mode.
    """

    z_channels: int
    in_channels: int
    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    using_sa: bool
    using_mid_sa: bool
    dropout: float

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.ch * mult for mult in self.ch_mult]

    @property
    def downsampling(self) -> int:
        """Pixels per feature, along each side."""
        return int(2 ** (len(self.ch_mult) - 1))

    def has_attention(self, level: int) -> bool:
        """Tell whether the blocks of a level are followed by attention."""
        return self.using_sa and level == len(self.ch_mult) - 1


class Encoder(nn.Module):
    """From pixels to features."""

    def __init__(self, shape: EncoderDecoderShape) -> None:
        super().__init__()
        widths = shape.widths
        inputs = [shape.ch, *widths[:-1]]
        self.conv_in = convolution(shape.in_channels, shape.ch)
        self.down = nn.ModuleList(
            Level(
                [inputs[level], *[widths[level]] * shape.num_res_blocks],
                dropout=shape.dropout,
                attention=shape.has_attention(level),
                down=level < len(widths) - 1,
            )
            for level in range(len(widths))
        )
        self.mid = Middle(widths[-1], dropout=shape.dropout, attention=shape.using_mid_sa)
        self.norm_out = group_norm(widths[-1])
        self.conv_out = convolution(widths[-1], shape.z_channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return features, shape (B, z_channels, h, w)."""
        hidden = self.conv_in(x_BCHW)
        for level in self.down:
            hidden = level(hidden)
        features: Tensor = self.conv_out(functional.silu(self.norm_out(self.mid(hidden))))
        return features


class Decoder(nn.Module):
    """From features to pixels. ``up`` is numbered as the encoder's ``down`` is, and runs from its last to its first."""

    def __init__(self, shape: EncoderDecoderShape) -> None:
        super().__init__()
        widths = shape.widths
        inputs = [*widths[1:], widths[-1]]
        self.conv_in = convolution(shape.z_channels, widths[-1])
        self.mid = Middle(widths[-1], dropout=shape.dropout, attention=shape.using_mid_sa)
        self.up = nn.ModuleList(
            Level(
                [inputs[level], *[widths[level]] * (shape.num_res_blocks + 1)],
                dropout=shape.dropout,
                attention=shape.has_attention(level),
                up=level > 0,
            )
            for level in range(len(widths))
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = convolution(widths[0], shape.in_channels)

    def forward(self, features_BChw: Tensor) -> Tensor:
        """Return pixels around [-1, 1], shape (B, in_channels, H, W)."""
        hidden = self.mid(self.conv_in(features_BChw))
        for level in reversed(self.up):
            hidden = level(hidden)
        pixels: Tensor = self.conv_out(functional.silu(self.norm_out(hidden)))
        return pixels
