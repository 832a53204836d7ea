"""Pickles in the layout of NVlabs' network files, and state dicts as VAR publishes them, written without their code.

Objects of the official persistent classes are stand-ins that pickle as the official ones do: as a call of a function of
the official name with one dictionary.
"""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MODULE_SOURCE = "raise SystemExit('the text of a module, which nobody may run')\n" * 20
BUFFERS = ("resample_filter", "freqs", "phases")


def _reconstruct_persistent_obj(meta):
    raise AssertionError("nothing of a pickle is called")


class EasyDict(dict):
    """Pickles as an instance of the official class does."""


OFFICIAL_NAMES = {
    _reconstruct_persistent_obj: ("torch_utils.persistence", "_reconstruct_persistent_obj"),
    EasyDict: ("dnnlib.util", "EasyDict"),
}


class Persistent:
    """An object of an official class."""

    def __init__(self, class_name: str, state: dict[str, Any]) -> None:
        self.class_name, self.state = class_name, state

    def __reduce__(self):
        meta = {
            "type": "class",
            "version": 6,
            "module_src": MODULE_SOURCE,
            "class_name": self.class_name,
            "state": self.state,
        }
        return _reconstruct_persistent_obj, (meta,), None


class OfficialPickler(pickle._Pickler):
    """Writes the official names of the stand-ins, and numpy's of a generation."""

    def __init__(self, file, numpy_generation: int) -> None:
        super().__init__(file, protocol=4)
        self._generation = numpy_generation
        self.dispatch = dict(pickle._Pickler.dispatch)
        self.dispatch[FunctionType] = self.dispatch[type] = type(self).save_global

    def save_global(self, obj, name=None):
        if obj in OFFICIAL_NAMES:
            module, name = OFFICIAL_NAMES[obj]
        else:
            module, name = pickle.whichmodule(obj, name or obj.__qualname__), name or obj.__qualname__
        if self._generation == 1:
            module = module.replace("numpy._core", "numpy.core")
        self.save(module)
        self.save(name)
        self.write(pickle.STACK_GLOBAL)
        self.memoize(obj)


def module_state(**attributes: Any) -> dict[str, Any]:
    """The ``__dict__`` of an empty module."""
    return {**nn.Module().__dict__, "training": False, "_init_args": (), "_init_kwargs": {}, **attributes}


def network(class_name: str, arguments: Mapping[str, Any], weights: Mapping[str, Tensor], *positional: Any):
    """A network whose state dict is ``weights``, constructed with ``arguments``."""
    inner = {"EDMPrecond": {"model": arguments.get("model_type")}, "Precond": {"unet": "UNet"}}.get(class_name, {})
    root = _module("", class_name, weights, inner)
    root.state.update(
        _init_args=positional,
        _init_kwargs=dict(arguments),
        **{name: arguments[name] for name in ("img_resolution", "img_channels") if name in arguments},
        label_dim=arguments.get("label_dim", 0),
        use_fp16=arguments.get("use_fp16", False),
        sigma_data=arguments.get("sigma_data", 0.5),
    )
    if class_name == "EDMPrecond":
        root.state.update(sigma_min=0, sigma_max=float("inf"))
    return root


def _module(prefix: str, class_name: str, weights: Mapping[str, Tensor], inner: Mapping[str, str]) -> Any:
    own = {key: value for key, value in weights.items() if "." not in key}
    children: dict[str, dict[str, Tensor]] = {}
    for key, value in weights.items():
        if "." in key:
            child, _, rest = key.partition(".")
            children.setdefault(child, {})[rest] = value
    modules = {
        name: _module(f"{prefix}{name}.", inner.get(name, "Block"), below, {}) for name, below in children.items()
    }
    modules["norm_that_is_none"] = None
    if prefix.endswith(("enc.", "dec.")):
        folder = nn.ModuleDict()
        folder._modules = modules
        return folder
    state = module_state(
        _parameters={k: _parameter(v) for k, v in own.items() if k not in BUFFERS},
        _buffers={k: v for k, v in own.items() if k in BUFFERS} | {"hidden": torch.zeros(2), "absent": None},
        _non_persistent_buffers_set={"hidden"},
        _modules=modules,
        skip_scale=np.sqrt(0.5),
    )
    return Persistent(class_name, state)


def _parameter(value: Any) -> Any:
    """A parameter, unless a test puts something else in its place."""
    return nn.Parameter(value, requires_grad=False) if isinstance(value, Tensor) else value


def dumped(top: Any, numpy_generation: int = 2) -> bytes:
    """The pickle of a whole file."""
    file = io.BytesIO()
    OfficialPickler(file, numpy_generation).dump(top)
    return file.getvalue()


def edm_file(arguments: Mapping[str, Any], weights: Mapping[str, Tensor], *, generation: int = 2, **top: Any) -> bytes:
    """A file as EDM publishes them. ``arguments`` have no ``class_name``."""
    loss = Persistent(
        "EDMLoss", {"P_mean": -1.2, "P_std": 1.2, "sigma_data": 0.5, "_init_args": (), "_init_kwargs": {}}
    )
    pipe = Persistent("AugmentPipe", {"p": 0.12, "xflip": 1e8, "_init_args": (), "_init_kwargs": {"p": 0.12}})
    content = {
        "ema": network("EDMPrecond", arguments, weights),
        "loss_fn": loss,
        "augment_pipe": pipe,
        "dataset_kwargs": {"class_name": "training.dataset.ImageFolderDataset", "path": "cifar10.zip", "xflip": False},
    }
    return dumped({**content, **top}, generation)


def rgb_encoder():
    return Persistent("StandardRGBEncoder", {"_init_args": (), "_init_kwargs": {}})


def latent_encoder(**arguments: Any):
    final_std, final_mean = np.float32(arguments.get("final_std", 0.5)), np.float32(arguments.get("final_mean", 0))
    raw_std = np.float32(arguments.get("raw_std", [4.17, 4.62, 3.71, 3.28]))
    raw_mean = np.float32(arguments.get("raw_mean", [5.81, 3.25, 0.12, -2.15]))
    scale = final_std / raw_std
    state = {
        "vae_name": "stabilityai/sd-vae-ft-mse",
        "scale": scale,
        "bias": final_mean - raw_mean * scale,
        "batch_size": 8,
        "_vae": None,
        "_init_args": (),
        "_init_kwargs": arguments,
    }
    return Persistent("StabilityVAEEncoder", state)


def edm2_file(
    arguments: Mapping[str, Any], weights: Mapping[str, Tensor], *, generation: int = 2, encoder: Any = None, **top: Any
) -> bytes:
    """A file as EDM2 publishes them: float16, buffers included."""
    half = {name: weight.half() for name, weight in weights.items()}
    loss = Persistent("EDM2Loss", {"P_mean": -0.4, "P_std": 1.0, "_init_args": (), "_init_kwargs": {}})
    content = {
        "encoder": encoder or rgb_encoder(),
        "dataset_kwargs": EasyDict(class_name="training.dataset.ImageFolderDataset", path="img64.zip", use_labels=True),
        "loss_fn": loss,
        "ema": network("Precond", arguments, half),
    }
    return dumped(EasyDict({**content, **top}), generation)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
