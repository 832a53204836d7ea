"""Which run a training state is of, and what its last bits depend on."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist

from ddo_engine.errors import IncompatibleInputs
from ddo_engine.log import log
from ddo_engine.parallel.layout import Layout
from ddo_engine.state_file import SavedState
from ddo_engine.version import ENGINE_VERSION


def check_belongs_to(saved: SavedState, identity: Mapping[str, Any]) -> None:
    """Refuse a state of another run.

    Raises:
        IncompatibleInputs: Naming the settings that differ.
    """
    theirs, ours = _flat(saved.header.identity), _flat(identity)
    differing = [name for name in sorted(theirs.keys() | ours.keys()) if theirs.get(name) != ours.get(name)]
    if differing:
        first = differing[0]
        others = f" (and {len(differing) - 1} more: {', '.join(differing[1:6])})" if len(differing) > 1 else ""
        raise IncompatibleInputs(
            f"the training state is of another run: {first} is {theirs.get(first)} there and {ours.get(first)} "
            f"in the spec{others}. Give the state of this run, or none to start again",
            param="state",
        )


def numerics_of(device: torch.device, layout: Layout | None = None) -> dict[str, str]:
    """Return what decides the last bits of a run besides its spec: resuming elsewhere may change them."""
    numerics = {"engine": ENGINE_VERSION, "device": device.type, "torch": torch.__version__}
    numerics |= {} if layout is None else layout.numerics
    if dist.is_available() and dist.is_initialized():
        numerics["processes"] = str(dist.get_world_size())
    if device.type == "cuda":
        return numerics | {"gpu": torch.cuda.get_device_name(device)}
    return numerics | {"instructions": torch.backends.cpu.get_cpu_capability(), "threads": str(torch.get_num_threads())}


def warn_of_other_numerics(saved: SavedState, ours: Mapping[str, str]) -> None:
    """Say so where the numbers of a state were computed by other means than those at hand (:func:`numerics_of`)."""
    theirs = dict(saved.header.numerics)
    if theirs != ours:
        log.warning("the state was written under %s, this is %s: results may differ in their last bits", theirs, ours)


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {name: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{name}.{key}" if name else str(key))
    return flat
