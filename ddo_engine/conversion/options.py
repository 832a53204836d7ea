"""What a person must say about a file that does not say it itself."""

from typing import Annotated, Any, Literal

from pydantic import Field

from ddo_engine.spec import Settings

FAMILY_OF_CLASS = {"EDMPrecond": "edm", "MLPPrecond": "edm", "Precond": "edm2", "VAR": "var", "VQVAE": "var"}
PatchNums = tuple[Annotated[int, Field(ge=1, le=1024)], ...]


class ConversionOptions(Settings):
    """Options of :func:`ddo_engine.conversion.convert`.

    Attributes:
        family: What the file must turn out to be; anything else is refused.
        network: Constructor arguments, ``class_name`` among them, of a bare state dict whose shapes do not say them.
        patch_nums: Tokens along the side of every scale, of a VAR or VQVAE state dict that is not of the official size.
    """

    family: Literal["diffusers", "edm", "edm2", "var"] | None = None
    network: dict[str, Any] | None = None
    patch_nums: PatchNums | None = Field(default=None, min_length=1, max_length=64)
