"""A small residual classifier under a preconditioning of its own: the logit of "real" at any noise level.

Shapes: B batch, C channels, H height, W width, K classes, E channels of the embedding.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from ddo_engine.families.configuration import refusing_what_cannot_be_built
from ddo_engine.families.diffusion.denoiser import broadcast_to_images
from ddo_engine.families.edm.embeddings import PositionalEmbedding
from ddo_engine.spec import PositiveFloat, Settings

EPS = 1e-6  # of the norms


def normalised(x_BCHW: Tensor) -> Tensor:
    """Return images whose every pixel has a mean square of 1 over its channels.

    In plain operations: on a CPU the gradient of torch's group norm depends on the number of threads in its last bits.
    """
    return x_BCHW * (x_BCHW.square().mean(dim=1, keepdim=True) + EPS).rsqrt()


class ResidualBlock(nn.Module):
    """Two convolutions; noise level and label scale what lies between. The resolution is halved first, or not."""

    def __init__(self, in_channels: int, out_channels: int, emb_channels: int, *, goes_down: bool) -> None:
        super().__init__()
        self.goes_down = goes_down
        self.conv0 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.modulation = nn.Linear(emb_channels, out_channels)
        self.conv1 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        nn.init.zeros_(self.conv1.weight)

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor) -> Tensor:
        """Return the block's output."""
        if self.goes_down:
            x_BCHW = functional.avg_pool2d(x_BCHW, 2)
        hidden = self.conv0(functional.silu(normalised(x_BCHW)))
        hidden = normalised(hidden) * (1 + broadcast_to_pixels(self.modulation(emb_BE)))
        out: Tensor = self.skip(x_BCHW) + self.conv1(functional.silu(hidden))
        return out


def broadcast_to_pixels(values_BC: Tensor) -> Tensor:
    """Return a tensor of shape (B, C) as (B, C, 1, 1)."""
    return values_BC[:, :, None, None]


class Discriminator(nn.Module):
    """``logit(x; sigma) = sigma_data c_in F(c_in x; c_noise)``: log-odds that a noised image was a real one.

    ``c_in = 1 / sqrt(sigma² + sigma_data²)`` and ``c_noise = ln(sigma) / 4`` are EDM's. The factor in front is how such
    a logit behaves: noise hides what tells the images apart, and log p/q of two densities blurred by sigma falls as
    1 / sigma. So the network proper has an output of one size at all noise levels, and what guidance adds to the
    denoised image, sigma² grad logit, stays of the size of sigma_data grad F, also at a sigma that was never trained.

    Attributes:
        img_resolution: Height and width of what the model denoises: pixels, or latents.
        img_channels: C.
        label_dim: Number of classes; 0 for a discriminator that sees no labels.
        sigma_data: The model's.
        works_on: What the model works on.
    """

    family: ClassVar[str] = "discriminator"

    def __init__(
        self,
        *,
        img_resolution: int,
        img_channels: int,
        label_dim: int,
        sigma_data: float,
        works_on: Literal["pixels", "latents"],
        model_channels: int,
        channel_mult: Sequence[int],
        num_blocks: int,
    ) -> None:
        super().__init__()
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.label_dim = label_dim
        self.sigma_data = sigma_data
        self.works_on = works_on
        emb_channels = 4 * model_channels
        self.map_noise = PositionalEmbedding(model_channels)
        self.map_label = nn.Linear(label_dim, model_channels, bias=False) if label_dim else None
        self.map_layer0 = nn.Linear(model_channels, emb_channels)
        self.map_layer1 = nn.Linear(emb_channels, emb_channels)
        channels = model_channels
        self.input = nn.Conv2d(img_channels, channels, 3, padding=1)
        blocks = []
        for level, mult in enumerate(channel_mult):
            for index in range(num_blocks):
                goes_down = level > 0 and index == 0
                blocks.append(ResidualBlock(channels, mult * model_channels, emb_channels, goes_down=goes_down))
                channels = mult * model_channels
        self.blocks = nn.ModuleList(blocks)
        resolution = img_resolution // 2 ** (len(channel_mult) - 1)
        self.output = nn.Linear(channels * resolution**2, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def logit(self, x_BCHW: Tensor, sigma_B: Tensor, labels_B: Tensor | None) -> Tensor:
        """Return ``log d / (1 − d)`` of noisy images, in the dtype of the weights. Shape (B,).

        Args:
            x_BCHW: In the model's space.
            sigma_B: Their noise levels, > 0.
            labels_B: int64 class indices; ignored by a discriminator that sees none.

        Raises:
            ValueError: It sees labels, and there are none.
        """
        dtype = self.output.weight.dtype
        with torch.autocast(x_BCHW.device.type, enabled=False):
            sigma_B = sigma_B.to(dtype)
            c_in_B = 1 / (sigma_B**2 + self.sigma_data**2).sqrt()
            scaled = broadcast_to_images(c_in_B) * x_BCHW.to(dtype)
            logit_B: Tensor = self.sigma_data * c_in_B * self(scaled, sigma_B.log() / 4, labels_B)
            return logit_B

    def forward(self, scaled_BCHW: Tensor, c_noise_B: Tensor, labels_B: Tensor | None) -> Tensor:
        """Return F, shape (B,)."""
        embedding = self.map_noise(c_noise_B).to(scaled_BCHW.dtype)
        if self.map_label is not None:
            if labels_B is None:
                raise ValueError("the discriminator is class-conditional: images must have labels")
            one_hot_BK = functional.one_hot(labels_B, self.label_dim).to(scaled_BCHW.dtype)
            embedding = embedding + self.map_label(one_hot_BK * self.label_dim**0.5)
        embedding_BE = functional.silu(self.map_layer1(functional.silu(self.map_layer0(embedding))))
        hidden = self.input(scaled_BCHW)
        for block in self.blocks:
            hidden = block(hidden, embedding_BE)
        output_B1: Tensor = self.output(functional.silu(normalised(hidden)).flatten(1))
        return output_B1[:, 0]


class DiscriminatorConfig(Settings):
    """Constructor arguments of :class:`Discriminator`; the bounds keep a hostile manifest from costing memory."""

    class_name: Literal["Discriminator"] = "Discriminator"
    img_resolution: int = Field(ge=1, le=4096)
    img_channels: int = Field(ge=1, le=4096)
    label_dim: int = Field(default=0, ge=0, le=100_000)
    sigma_data: PositiveFloat = 0.5
    works_on: Literal["pixels", "latents"] = "pixels"
    model_channels: int = Field(ge=4, le=1024, multiple_of=4)
    channel_mult: tuple[Annotated[int, Field(ge=1, le=16)], ...] = Field(min_length=1, max_length=8)
    num_blocks: int = Field(ge=1, le=16)

    @model_validator(mode="after")
    def _resolution_halves(self) -> Self:
        if self.img_resolution % 2 ** (len(self.channel_mult) - 1):
            raise ValueError("img_resolution must be divisible by 2 once per level of channel_mult but the first")
        return self

    def build(self) -> Discriminator:
        """Return the network, randomly initialised; its logit is 0 everywhere."""
        return Discriminator(**self.model_dump(exclude={"class_name"}))


def build_network(config: dict[str, Any]) -> Discriminator:
    """Return the network that ``config`` describes, randomly initialised.

    Raises:
        CorruptCheckpoint: An argument is missing, foreign or out of range.
    """
    with refusing_what_cannot_be_built():
        return DiscriminatorConfig.model_validate(config).build()
