"""Where the fakes of DDO come from: stored samples of the reference model, or samples drawn beside each batch."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from ddo_engine.spec.base import Settings


class OfflineReferenceSet(Settings):
    """Samples of the reference model, drawn anew in every round and stored: what diffusion models train against."""

    kind: Literal["offline"] = "offline"
    num_samples: int = Field(ge=1, le=10_000_000)
    shards: int = Field(default=1, ge=1, le=64, description="Units of work the set is cut into.")

    @model_validator(mode="after")
    def _shards_hold_images(self) -> Self:
        if self.shards > self.num_samples:
            raise ValueError("more shards than samples: lower shards")
        return self


class OnlineReferenceSet(Settings):
    """Samples that the reference model draws for each batch on the labels of its real images; VAR only.

    Without guidance, top-k or top-p, whatever the sampler's settings are: the fakes are samples of p_ref.
    """

    kind: Literal["online"] = "online"
    decode: bool = Field(
        default=True,
        description="Decode the drawn tokens to 8-bit pixels and encode these again, so that fakes come the way of the "
        "data; False trains on the tokens as they were drawn, which saves the tokenizer's time.",
    )
    batch_size: int = Field(
        default=64, ge=1, le=65536, description="Fakes per network call; calls are padded to a multiple of 16."
    )


def _kind_of(value: Any) -> str:
    return str(value.get("kind", "offline") if isinstance(value, dict) else getattr(value, "kind", "offline"))


REFERENCE_SET_KINDS = ("offline", "online")
ReferenceSetSettings = Annotated[
    Annotated[OfflineReferenceSet, Tag("offline")] | Annotated[OnlineReferenceSet, Tag("online")],
    Discriminator(
        _kind_of,
        custom_error_type="reference_set_kind",
        custom_error_message="kind must be one of " + ", ".join(REFERENCE_SET_KINDS),
    ),
]
