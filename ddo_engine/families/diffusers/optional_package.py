"""The `diffusers` library, an optional extra of the engine: loaded when a model of its asks for it.

Only constructors of networks are called, with values that were checked here: nothing of the library reads a folder,
runs code from one, or asks a hub.
"""

from importlib import import_module
from typing import Any

from ddo_engine.errors import InvalidSpec


def network_class(name: str) -> Any:
    """Return a class of the library by its name.

    Raises:
        InvalidSpec: The library is not installed.
    """
    try:
        library = import_module("diffusers")
    except ImportError as error:
        raise InvalidSpec(
            f"the checkpoint is a {name} of the diffusers library, which is not installed here: install the extra "
            "ddo-finetuning-service[diffusers], or choose a checkpoint of another family"
        ) from error
    return getattr(library, name)
