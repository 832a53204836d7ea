"""The registry of model families. Importing it does not import torch; asking for a family does."""

from importlib import import_module
from typing import TYPE_CHECKING, cast

from ddo_engine.errors import CorruptCheckpoint

if TYPE_CHECKING:
    from ddo_engine.families.protocol import Family

_MODULES = {
    "diffusers": "ddo_engine.families.diffusers",
    "discriminator": "ddo_engine.families.discriminator",
    "edm": "ddo_engine.families.edm",
    "edm2": "ddo_engine.families.edm2",
    "var": "ddo_engine.families.var",
}


def get_family(name: str) -> "Family":
    """Return the family of this name.

    Raises:
        CorruptCheckpoint: There is no such family. The name comes from a checkpoint's manifest.
    """
    if name not in _MODULES:
        raise CorruptCheckpoint(
            f"the checkpoint is of the model family {name!r}, which this engine does not know; "
            f"known: {', '.join(sorted(_MODULES))}",
            param="family",
        )
    return cast("Family", import_module(_MODULES[name]).FAMILY)
