"""EDM2's network by its official constructor arguments, as a checkpoint's manifest has them.

The bounds keep a damaged or hostile manifest from costing memory or time before its tensors are even looked at.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ddo_engine.families.configuration import refusing_what_cannot_be_built
from ddo_engine.families.edm2.precond import Precond
from ddo_engine.families.edm2.unet import BlockOptions, UNet
from ddo_engine.spec import PositiveFloat, Settings

Share = Annotated[float, Field(ge=0, le=1)]
Multiplier = Annotated[int, Field(ge=1, le=64)]


class PrecondConfig(Settings):
    """Constructor arguments of the official ``Precond`` and of the ``UNet`` and ``Block`` that it passes them on to."""

    class_name: Literal["Precond"]
    img_resolution: int = Field(ge=1, le=4096)
    img_channels: int = Field(ge=1, le=4096)
    label_dim: int = Field(default=0, ge=0, le=100_000)
    use_fp16: bool = True
    sigma_data: PositiveFloat = 0.5
    logvar_channels: int = Field(default=128, ge=1, le=65_536)
    model_channels: int = Field(default=192, ge=1, le=4096)
    channel_mult: tuple[Multiplier, ...] = Field(default=(1, 2, 3, 4), min_length=1, max_length=12)
    channel_mult_noise: Multiplier | None = None
    channel_mult_emb: Multiplier | None = None
    num_blocks: int = Field(default=3, ge=1, le=64)
    attn_resolutions: tuple[int, ...] = Field(default=(16, 8), max_length=12)
    label_balance: Share = 0.5
    concat_balance: Share = 0.5
    resample_filter: tuple[PositiveFloat, ...] = Field(default=(1, 1), min_length=2, max_length=16)
    channels_per_head: int = Field(default=64, ge=1, le=65_536)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    res_balance: Share = 0.3
    attn_balance: Share = 0.3
    clip_act: PositiveFloat | None = 256.0

    @model_validator(mode="after")
    def _shapes_work_out(self) -> Self:
        if self.img_resolution % 2 ** (len(self.channel_mult) - 1):
            raise ValueError("img_resolution must be divisible by 2 once per level of channel_mult but the first")
        if len(self.resample_filter) % 2:
            raise ValueError("resample_filter must have an even number of taps")
        return self

    def build(self) -> Precond:
        """Return the network, randomly initialised."""
        image: dict[str, Any] = self.model_dump(include={"img_resolution", "img_channels", "label_dim"})
        unet = UNet(
            **image,
            model_channels=self.model_channels,
            channel_mult=self.channel_mult,
            channel_mult_noise=self.channel_mult_noise,
            channel_mult_emb=self.channel_mult_emb,
            num_blocks=self.num_blocks,
            attn_resolutions=self.attn_resolutions,
            label_balance=self.label_balance,
            concat_balance=self.concat_balance,
            options=BlockOptions(
                resample_filter=self.resample_filter,
                channels_per_head=self.channels_per_head,
                dropout=self.dropout,
                res_balance=self.res_balance,
                attn_balance=self.attn_balance,
                clip_act=self.clip_act,
            ),
        )
        return Precond(
            unet, **image, use_fp16=self.use_fp16, sigma_data=self.sigma_data, logvar_channels=self.logvar_channels
        )


def build_network(config: dict[str, Any]) -> Precond:
    """Return the network that ``config`` describes, randomly initialised.

    Raises:
        CorruptCheckpoint: ``class_name`` is unknown, or an argument is missing, foreign or out of range.
    """
    with refusing_what_cannot_be_built():
        return PrecondConfig.model_validate(config).build()
