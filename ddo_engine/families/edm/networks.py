"""The networks of this family by the ``class_name`` in a checkpoint's manifest, and what may stand beside it.

The bounds keep a damaged or hostile manifest from costing memory or time before its tensors are even looked at.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, TypeAdapter, model_validator

from ddo_engine.families.configuration import refusing_what_cannot_be_built
from ddo_engine.families.edm.adm_unet import DhariwalUNet
from ddo_engine.families.edm.mlp import MLPPrecond
from ddo_engine.families.edm.preconditioning import PreconditionedDenoiser
from ddo_engine.families.edm.song_unet import EDMPrecond
from ddo_engine.spec import PositiveFloat, Settings


class MLPConfig(Settings):
    """Constructor arguments of :class:`MLPPrecond`."""

    class_name: Literal["MLPPrecond"]
    img_resolution: int = Field(ge=1, le=256)
    img_channels: int = Field(ge=1, le=4096)
    label_dim: int = Field(default=0, ge=0, le=100_000)
    sigma_data: PositiveFloat = 0.5
    width: int = Field(default=96, ge=1, le=16_384)
    num_blocks: int = Field(default=2, ge=0, le=256)
    embedding_channels: int = Field(default=64, ge=2, le=4096, multiple_of=2)

    def build(self) -> PreconditionedDenoiser:
        """Return the network, randomly initialised."""
        return MLPPrecond(**self.model_dump(exclude={"class_name"}))


class _EDMPrecondConfig(Settings):
    """What both kinds of the official ``EDMPrecond`` have in common, names as in the official code.

    ``label_dropout`` only matters to official pretraining: the engine trains in eval mode.
    """

    class_name: Literal["EDMPrecond"]
    img_resolution: int = Field(ge=1, le=4096)
    img_channels: int = Field(ge=1, le=4096)
    label_dim: int = Field(default=0, ge=0, le=100_000)
    use_fp16: bool = False
    sigma_data: PositiveFloat = 0.5
    augment_dim: int = Field(default=0, ge=0, le=4096)
    model_channels: int = Field(ge=4, le=4096, multiple_of=2)
    channel_mult: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(min_length=1, max_length=12)
    channel_mult_emb: int = Field(default=4, ge=1, le=64)
    num_blocks: int = Field(ge=1, le=64)
    attn_resolutions: tuple[int, ...] = Field(max_length=12)
    dropout: float = Field(default=0.10, ge=0, lt=1)
    label_dropout: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _resolution_halves(self) -> Self:
        if self.img_resolution % 2 ** (len(self.channel_mult) - 1):
            raise ValueError("img_resolution must be divisible by 2 once per level of channel_mult but the first")
        return self


class SongUNetConfig(_EDMPrecondConfig):
    """Constructor arguments of ``EDMPrecond`` with DDPM++ or NCSN++."""

    model_type: Literal["SongUNet"]
    model_channels: int = Field(default=128, ge=4, le=4096, multiple_of=2)
    channel_mult: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        default=(1, 2, 2, 2), min_length=1, max_length=12
    )
    num_blocks: int = Field(default=4, ge=1, le=64)
    attn_resolutions: tuple[int, ...] = Field(default=(16,), max_length=12)
    embedding_type: Literal["positional", "fourier"] = "positional"
    channel_mult_noise: int = Field(default=1, ge=1, le=64)
    encoder_type: Literal["standard", "residual"] = "standard"
    decoder_type: Literal["standard"] = "standard"
    resample_filter: tuple[PositiveFloat, ...] = Field(default=(1, 1), min_length=2, max_length=16)

    @model_validator(mode="after")
    def _filter_is_even(self) -> Self:
        if len(self.resample_filter) % 2:
            raise ValueError("resample_filter must have an even number of taps")
        return self

    def build(self) -> PreconditionedDenoiser:
        """Return the network, randomly initialised."""
        return EDMPrecond(**self.model_dump(exclude={"class_name", "model_type", "label_dropout", "decoder_type"}))


class DhariwalUNetConfig(_EDMPrecondConfig):
    """Constructor arguments of ``EDMPrecond`` with ADM's U-Net."""

    model_type: Literal["DhariwalUNet"] = "DhariwalUNet"
    model_channels: int = Field(default=192, ge=4, le=4096, multiple_of=2)
    channel_mult: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        default=(1, 2, 3, 4), min_length=1, max_length=12
    )
    num_blocks: int = Field(default=3, ge=1, le=64)
    attn_resolutions: tuple[int, ...] = Field(default=(32, 16, 8), max_length=12)

    def build(self) -> PreconditionedDenoiser:
        """Return the network, randomly initialised."""
        image = self.model_dump(include={"img_resolution", "img_channels", "label_dim"})
        of_preconditioning = {"class_name", "model_type", "label_dropout", "use_fp16", "sigma_data"}
        unet = DhariwalUNet(**self.model_dump(exclude=of_preconditioning))
        return PreconditionedDenoiser(unet, **image, sigma_data=self.sigma_data, use_fp16=self.use_fp16)


def _kind_of(config: Any) -> str:
    if not isinstance(config, dict):
        return ""
    if config.get("class_name") == "EDMPrecond":
        return str(config.get("model_type", "DhariwalUNet"))  # the official default
    return str(config.get("class_name"))


_KINDS = ("MLPPrecond", "SongUNet", "DhariwalUNet")
_CONFIG: TypeAdapter[MLPConfig | SongUNetConfig | DhariwalUNetConfig] = TypeAdapter(
    Annotated[
        Annotated[MLPConfig, Tag("MLPPrecond")]
        | Annotated[SongUNetConfig, Tag("SongUNet")]
        | Annotated[DhariwalUNetConfig, Tag("DhariwalUNet")],
        Discriminator(
            _kind_of,
            custom_error_type="network_kind",
            custom_error_message="class_name must be EDMPrecond, with the model_type SongUNet or DhariwalUNet, "
            "or MLPPrecond",
        ),
    ]
)


def build_network(config: dict[str, Any]) -> PreconditionedDenoiser:
    """Return the network that ``config`` describes, randomly initialised.

    Raises:
        CorruptCheckpoint: ``class_name`` is unknown, or an argument is missing, foreign or out of range.
    """
    with refusing_what_cannot_be_built(tags=_KINDS):
        return _CONFIG.validate_python(config).build()
