"""Direct Discriminative Optimization of image models: the method, usable as a library and as a command line.

    import ddo_engine
    model = ddo_engine.load_model("model.safetensors")
    images_BCHW = ddo_engine.sample(model, seeds=range(16))

:func:`load_model` also takes checkpoints as their authors publish them; :func:`convert` makes ours of them, and
:func:`export` files that the official code loads. All of it with examples: ``docs/engine.md``.

Importing this package does not import torch; the first use of a name below does.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddo_engine.conversion import convert, export
    from ddo_engine.evaluation import load_features
    from ddo_engine.loading import load_model
    from ddo_engine.sampling import sample

__all__ = ["convert", "export", "load_features", "load_model", "sample"]

_HOME = {
    "convert": "ddo_engine.conversion",
    "export": "ddo_engine.conversion",
    "load_features": "ddo_engine.evaluation",
    "load_model": "ddo_engine.loading",
    "sample": "ddo_engine.sampling",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
