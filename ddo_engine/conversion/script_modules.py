"""The modules in a TorchScript file, as records: its pickle names classes of the code beside it, which nobody runs."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ddo_engine.conversion.inert_objects import InertGlobal, InertObject
from ddo_engine.conversion.official_globals import SCRIPT_GLOBALS
from ddo_engine.conversion.refusal import damaged
from ddo_engine.conversion.tensor_records import MAX_TENSORS, is_tensor

_CLASSES = "__torch__"
_MAX_MODULES = 20_000


class ScriptGlobals(Mapping[tuple[str, str], InertGlobal]):
    """What the pickle of a TorchScript file may mention: tensors, lists, and any class of its own code."""

    def __getitem__(self, key: tuple[str, str]) -> InertGlobal:
        """Return what a module and a name stand for."""
        module, name = key
        if isinstance(module, str) and module.split(".")[0] == _CLASSES:
            return InertGlobal(f"{module}.{name}", makes=True)
        return SCRIPT_GLOBALS[key]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Iterate over the names that are known beforehand."""
        return iter(SCRIPT_GLOBALS)

    def __len__(self) -> int:
        """Return how many these are."""
        return len(SCRIPT_GLOBALS)


def script_tensors(program: Any, path: Path) -> dict[str, Any]:
    """Return the records of the tensors in a module and in those below it, by their names with dots.

    Raises:
        CorruptCheckpoint: The file holds no module, or far more of them than any network.
    """
    tensors: dict[str, Any] = {}
    waiting = [("", program)]
    num_modules = 0
    while waiting:
        prefix, module = waiting.pop()
        num_modules += 1
        # One module in many places is one record: a short file could describe a tree of any size.
        if num_modules > _MAX_MODULES or len(tensors) > MAX_TENSORS:
            raise damaged(path.name, "it has far more modules than any network")
        if not _is_module(module) or not isinstance(module.state, dict):
            raise damaged(path.name, "it holds no module")
        for name, value in module.state.items():
            if is_tensor(value):
                tensors[prefix + name] = value
            elif _is_module(value):
                waiting.append((f"{prefix}{name}.", value))
    return tensors


def _is_module(value: Any) -> bool:
    return isinstance(value, InertObject) and value.kind.split(".")[0] == _CLASSES
