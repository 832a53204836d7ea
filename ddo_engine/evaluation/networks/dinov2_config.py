"""What a DINOv2 network is built from."""

from typing import Literal, Self

from pydantic import Field, model_validator

from ddo_engine.spec import Settings


class Dinov2Settings(Settings):
    """Arguments of the transformers library's ``Dinov2Config``, under its names; the defaults are DINOv2-B's.

    Bounds are well above DINOv2-g, the largest that there is.
    """

    hidden_size: int = Field(default=768, ge=1, le=4096)
    num_hidden_layers: int = Field(default=12, ge=1, le=100)
    num_attention_heads: int = Field(default=12, ge=1, le=128)
    mlp_ratio: int = Field(default=4, ge=1, le=16)
    image_size: int = Field(default=224, ge=1, le=2048, description="Of the images that it was trained on.")
    patch_size: int = Field(default=16, ge=1, le=64)
    num_channels: Literal[3] = 3
    qkv_bias: bool = True
    use_swiglu_ffn: bool = False
    layer_norm_eps: float = Field(default=1e-6, gt=0, le=1)
    hidden_act: Literal["gelu"] = "gelu"

    @model_validator(mode="after")
    def _sizes_divide(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size must be divisible by num_attention_heads")
        if self.image_size < self.patch_size:
            raise ValueError("image_size must not be below patch_size")
        return self
