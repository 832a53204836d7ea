"""Models of the `diffusers` library: ``UNet2DModel`` as a base checkpoint, ``AutoencoderKL`` for latents."""

from ddo_engine.families.diffusers.family import DiffusersFamily
from ddo_engine.families.diffusers.folder import import_folder

FAMILY = DiffusersFamily()

__all__ = ["FAMILY", "DiffusersFamily", "import_folder"]
