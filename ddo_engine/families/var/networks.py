"""The networks of this family by the ``class_name`` in a checkpoint's manifest, and what may stand beside it.

The bounds keep a damaged or hostile manifest from costing memory or time before its tensors are even looked at.
"""

from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, TypeAdapter, model_validator

from ddo_engine.families.configuration import refusing_what_cannot_be_built
from ddo_engine.families.var.transformer import VAR
from ddo_engine.families.var.vqvae import VQVAE
from ddo_engine.spec import PositiveFloat, Settings

OFFICIAL_PATCH_NUMS = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


def _increasing(patch_nums: tuple[int, ...]) -> tuple[int, ...]:
    if any(finer <= coarser for coarser, finer in pairwise(patch_nums)):
        raise ValueError("scales must go from coarse to fine")
    return patch_nums


PatchNums = Annotated[
    tuple[Annotated[int, Field(ge=1, le=64)], ...],
    Field(min_length=2, max_length=32),
    AfterValidator(_increasing),
]


class VQVAEConfig(Settings):
    """Constructor arguments of :class:`VQVAE`: of the official class, and of the encoder and decoder inside it."""

    class_name: Literal["VQVAE"]
    vocab_size: int = Field(ge=2, le=1_048_576)
    z_channels: int = Field(ge=1, le=4096)
    ch: int = Field(ge=4, le=4096, multiple_of=4)
    v_patch_nums: PatchNums = OFFICIAL_PATCH_NUMS
    ch_mult: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(default=(1, 1, 2, 2, 4), min_length=1, max_length=8)
    num_res_blocks: int = Field(default=2, ge=1, le=16)
    in_channels: int = Field(default=3, ge=1, le=64)
    using_sa: bool = True
    using_mid_sa: bool = True
    share_quant_resi: int = Field(
        default=4, ge=2, le=32, description="The official 0 and 1 keep their convolutions under other names."
    )
    quant_resi: float = Field(default=0.5, gt=0, le=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    test_mode: bool = Field(default=True, description="Of the official class; networks here are built in eval mode.")

    def build(self) -> VQVAE:
        """Return the network, randomly initialised."""
        return VQVAE(**self.model_dump(exclude={"class_name", "test_mode"}))


class VARConfig(Settings):
    """Constructor arguments of :class:`VAR`, and those of its tokenizer that decide its shapes.

    ``shared_aln`` and ``attn_l2_norm`` are other architectures, which none of the checkpoints up to d30 has.
    """

    class_name: Literal["VAR"]
    num_classes: int = Field(ge=0, le=100_000)
    depth: int = Field(ge=1, le=128)
    embed_dim: int = Field(ge=1, le=16_384)
    num_heads: int = Field(ge=1, le=512)
    patch_nums: PatchNums = OFFICIAL_PATCH_NUMS
    vocab_size: int = Field(ge=2, le=1_048_576)
    z_channels: int = Field(ge=1, le=4096)
    mlp_ratio: float = Field(default=4.0, gt=0, le=64)
    norm_eps: PositiveFloat = 1e-6
    shared_aln: Literal[False] = False
    attn_l2_norm: Literal[True] = True
    cond_drop_rate: float = Field(default=0.1, ge=0, le=1)
    drop_path_rate: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _shapes_work_out(self) -> Self:
        if self.embed_dim % self.num_heads:
            raise ValueError("embed_dim must be divisible by num_heads")
        if round(self.embed_dim * self.mlp_ratio) < 1:
            raise ValueError("mlp_ratio leaves the feed-forward layers no width")
        return self

    def build(self) -> VAR:
        """Return the network, randomly initialised."""
        return VAR(**self.model_dump(exclude={"class_name", "shared_aln", "attn_l2_norm"}))


_CONFIG: TypeAdapter[VARConfig | VQVAEConfig] = TypeAdapter(
    Annotated[VARConfig | VQVAEConfig, Field(discriminator="class_name")]
)


def build_network(config: dict[str, Any]) -> VAR | VQVAE:
    """Return the network that ``config`` describes, randomly initialised.

    Raises:
        CorruptCheckpoint: ``class_name`` is unknown, or an argument is missing, foreign or out of range.
    """
    with refusing_what_cannot_be_built(tags=("VAR", "VQVAE")):
        return _CONFIG.validate_python(config).build()
