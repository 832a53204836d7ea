"""The networks of this family by the ``class_name`` in a checkpoint's manifest, and what may stand beside it.

The bounds keep a damaged or hostile manifest from costing memory or time before its tensors are even looked at.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from ddo_engine.errors import CorruptCheckpoint
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


class SongUNetConfig(Settings):
    """Constructor arguments of :class:`EDMPrecond`, names and defaults as in the official code."""

    class_name: Literal["EDMPrecond"]
    model_type: Literal["SongUNet"]
    img_resolution: int = Field(ge=1, le=4096)
    img_channels: int = Field(ge=1, le=4096)
    label_dim: int = Field(default=0, ge=0, le=100_000)
    use_fp16: Literal[False] = False
    sigma_data: PositiveFloat = 0.5
    augment_dim: int = Field(default=0, ge=0, le=4096)
    model_channels: int = Field(default=128, ge=4, le=4096, multiple_of=2)
    channel_mult: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        default=(1, 2, 2, 2), min_length=1, max_length=12
    )
    channel_mult_emb: int = Field(default=4, ge=1, le=64)
    num_blocks: int = Field(default=4, ge=1, le=64)
    attn_resolutions: tuple[int, ...] = Field(default=(16,), max_length=12)
    dropout: float = Field(default=0.10, ge=0, lt=1)
    embedding_type: Literal["positional", "fourier"] = "positional"
    channel_mult_noise: int = Field(default=1, ge=1, le=64)
    encoder_type: Literal["standard", "residual"] = "standard"
    decoder_type: Literal["standard"] = "standard"
    resample_filter: tuple[PositiveFloat, ...] = Field(default=(1, 1), min_length=2, max_length=16)

    @model_validator(mode="after")
    def _shapes_work_out(self) -> Self:
        if self.img_resolution % 2 ** (len(self.channel_mult) - 1):
            raise ValueError("img_resolution must be divisible by 2 once per level of channel_mult but the first")
        if len(self.resample_filter) % 2:
            raise ValueError("resample_filter must have an even number of taps")
        return self

    def build(self) -> PreconditionedDenoiser:
        """Return the network, randomly initialised."""
        return EDMPrecond(**self.model_dump(exclude={"class_name", "model_type", "use_fp16", "decoder_type"}))


_CONFIG: TypeAdapter[MLPConfig | SongUNetConfig] = TypeAdapter(
    Annotated[MLPConfig | SongUNetConfig, Field(discriminator="class_name")]
)


def build_network(config: dict[str, Any]) -> PreconditionedDenoiser:
    """Return the network that ``config`` describes, randomly initialised.

    Raises:
        CorruptCheckpoint: ``class_name`` is unknown, or an argument is missing, foreign or out of range.
    """
    try:
        return _CONFIG.validate_python(config).build()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ("network", *first["loc"]))
        raise _unbuildable(where, first["msg"]) from error
    except ValueError as error:  # torch's own checks, such as channels that do not divide into groups
        raise _unbuildable("network", str(error)) from error


def _unbuildable(where: str, reason: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f"the checkpoint's manifest describes a network that cannot be built: {where}: {reason}; "
        "correct the manifest's 'network' and save the checkpoint again",
        param=where,
    )
