"""What the manifest of a model of the library may say about its network.

The bounds keep a damaged or hostile manifest from costing memory or time before its tensors are even looked at.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ddo_engine.families.diffusers.timesteps import EDMTimesteps, Prediction, Timesteps
from ddo_engine.spec import PositiveFloat, Settings

DownBlock = Literal[
    "DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D", "SkipDownBlock2D", "AttnSkipDownBlock2D"
]
UpBlock = Literal["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "SkipUpBlock2D", "AttnSkipUpBlock2D"]
Channels = Annotated[int, Field(ge=1, le=4096)]
Activation = Literal["silu", "swish", "mish", "gelu", "relu"]
MAX_LEVELS = 8


class UNetArguments(Settings):
    """Constructor arguments of the library's ``UNet2DModel``; names and defaults are its own.

    Left out: Fourier features of the time, which belong to ``ScoreSdeVeScheduler`` and its own parametrisation, and
    class embeddings other than a table.
    """

    sample_size: int = Field(ge=1, le=4096)
    in_channels: Channels = 3
    out_channels: Channels = 3
    center_input_sample: bool = False
    time_embedding_type: Literal["positional", "learned"] = "positional"
    time_embedding_dim: Channels | None = None
    freq_shift: int = Field(default=0, ge=0, le=1)
    flip_sin_to_cos: bool = True
    down_block_types: Annotated[tuple[DownBlock, ...], Field(min_length=1, max_length=MAX_LEVELS)] = (
        "DownBlock2D",
        "AttnDownBlock2D",
        "AttnDownBlock2D",
        "AttnDownBlock2D",
    )
    mid_block_type: Literal["UNetMidBlock2D"] | None = "UNetMidBlock2D"
    up_block_types: Annotated[tuple[UpBlock, ...], Field(min_length=1, max_length=MAX_LEVELS)] = (
        "AttnUpBlock2D",
        "AttnUpBlock2D",
        "AttnUpBlock2D",
        "UpBlock2D",
    )
    block_out_channels: Annotated[tuple[Channels, ...], Field(min_length=1, max_length=MAX_LEVELS)] = (
        224,
        448,
        672,
        896,
    )
    layers_per_block: int = Field(default=2, ge=1, le=16)
    mid_block_scale_factor: PositiveFloat = 1
    downsample_padding: int = Field(default=1, ge=0, le=1)
    downsample_type: Literal["conv", "resnet"] = "conv"
    upsample_type: Literal["conv", "resnet"] = "conv"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    act_fn: Activation = "silu"
    attention_head_dim: Channels | None = 8
    norm_num_groups: Channels = 32
    attn_norm_num_groups: Channels | None = None
    norm_eps: PositiveFloat = 1e-5
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    add_attention: bool = True
    class_embed_type: None = None
    num_class_embeds: int | None = Field(default=None, ge=1, le=100_000)
    num_train_timesteps: int | None = Field(default=None, ge=1, le=100_000)

    @field_validator("sample_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
            return value[0]
        return value

    @model_validator(mode="after")
    def _shapes_work_out(self) -> Self:
        if self.out_channels == 2 * self.in_channels:
            raise ValueError(
                "out_channels is twice in_channels, so the network also learned its variances: only a network that "
                "predicts the image or the noise alone can be finetuned; choose one with out_channels = in_channels"
            )
        if self.out_channels != self.in_channels:
            raise ValueError("out_channels must equal in_channels")
        if self.sample_size % 2 ** (len(self.block_out_channels) - 1):
            raise ValueError("sample_size must be divisible by 2 once per level of block_out_channels but the first")
        if self.in_channels != 3 and any("Skip" in block for block in self.down_block_types + self.up_block_types):
            raise ValueError("the library's blocks with image skips work on 3 channels only")
        return self


class UNetConfig(Settings):
    """A ``UNet2DModel``, what it predicts, and the schedule that it was trained with."""

    class_name: Literal["UNet2DModel"]
    unet: UNetArguments
    prediction: Prediction = "epsilon"
    timesteps: Timesteps

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if isinstance(self.timesteps, EDMTimesteps):
            if self.prediction == "sample":
                raise ValueError("EDM schedulers have no prediction of samples: it is epsilon or v_prediction")
            num_timesteps = 0
        else:
            num_timesteps = self.timesteps.num_train_timesteps
        if self.unet.time_embedding_type == "learned" and self.unet.num_train_timesteps != num_timesteps:
            raise ValueError("a learned time embedding needs discrete timesteps, as many as the scheduler has")
        return self
