"""Tensors in torch's own formats, zip, before it, and TorchScript: read without torch, and as it would read them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ddo_engine.conversion.byte_source import ByteSource, Region
from ddo_engine.conversion.inert_objects import Budget, InertGlobal, PersistentId
from ddo_engine.conversion.inert_pickle import InertUnpickler
from ddo_engine.conversion.official_globals import STATE_DICT_GLOBALS
from ddo_engine.conversion.refusal import damaged
from ddo_engine.conversion.script_modules import ScriptGlobals, script_tensors
from ddo_engine.conversion.tensor_records import is_tensor, locate_tensors, require_tensors
from ddo_engine.conversion.torch_stream import Storage, StorageReference, read_torch_stream, storage_reference
from ddo_engine.conversion.torch_zip import zip_records
from ddo_engine.stored_tensor import StoredTensor

_MAX_PICKLE_BYTES = 1 << 26
_WRAPPERS = ("state_dict", "model")


def read_zip_state_dict(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a state dict that ``torch.save`` wrote.

    Raises:
        CorruptCheckpoint: The file is damaged, holds more than a state dict, or mentions anything but tensors.
    """
    return _read_zip(path, STATE_DICT_GLOBALS, _state_dict)


def read_script_tensors(path: Path) -> dict[str, StoredTensor]:
    """Return the parameters and buffers of a TorchScript program, whose code is left alone.

    Raises:
        CorruptCheckpoint: The file is damaged, or its modules hold anything but numbers, texts, lists and tensors.
    """
    return _read_zip(path, ScriptGlobals(), script_tensors, without="code")


def _read_zip(
    path: Path,
    allowed: Mapping[tuple[str, str], InertGlobal],
    tensors_of: Callable[[Any, Path], Mapping[str, Any]],
    without: str | None = None,
) -> dict[str, StoredTensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        records = zip_records(file, size, path.name, without)
        pickles = [name for name in records if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise damaged(path.name, "it is a zip file, but not one that torch writes")
        folder = pickles[0].removesuffix("data.pkl")
        if (order := records.get(f"{folder}byteorder")) and ByteSource(file, order, path.name).read(
            min(order.length, 8)
        ) != b"little":
            raise damaged(path.name, "its numbers are not little-endian")
        if records[pickles[0]].length > _MAX_PICKLE_BYTES:
            raise damaged(path.name, "its description of tensors is far larger than any network's")
        source = ByteSource(file, records[pickles[0]], path.name)
        value = InertUnpickler(source, allowed, Budget(), persistent=True).load()

        def find_storage(identifier: Any) -> Storage:
            reference = _reference(identifier, source)
            region = records.get(f"{folder}data/{reference.key}")
            if region is None or region.length != reference.num_elements * reference.dtype.itemsize:
                raise damaged(path.name, f"its storage {reference.key[:80]!r} is missing or of another size")
            return Storage(region, reference.dtype)

        return locate_tensors(tensors_of(value, path), path, find_storage)


def read_legacy_state_dict(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a state dict that ``torch.save`` wrote before version 1.6.

    Raises:
        CorruptCheckpoint: As in :func:`read_zip_state_dict`.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        source = ByteSource(file, Region(0, size), path.name)
        value, storages = read_torch_stream(source, STATE_DICT_GLOBALS, Budget())
        return locate_tensors(
            _state_dict(value, path), path, lambda identifier: storages[_reference(identifier, source).key]
        )


def _reference(identifier: Any, source: ByteSource) -> StorageReference:
    if not isinstance(identifier, PersistentId):
        raise source.refuse("it has a tensor without storage")
    return storage_reference(identifier, source)


def _state_dict(value: Any, path: Path) -> Mapping[str, Any]:
    """Return the names and tensors in a bare state dict, or in one under the key ``state_dict`` or ``model``."""
    if not isinstance(value, dict):
        raise damaged(path.name, f"it holds a {type(value).__name__}, not a state dict")
    if not any(is_tensor(item) for item in value.values()):
        inner = [value[key] for key in _WRAPPERS if isinstance(value.get(key), dict)]
        if len(inner) == 1:
            value = inner[0]
    return require_tensors(value, path)
