"""Torch's stream of several pickles and raw data: its ``.pth`` format before 1.6, and each storage in an NVlabs pickle.

The pickles are, in this order: a magic number, a version, a description of the machine, the object, and the keys of
its storages. Behind them lie the storages: a number of elements each, then the elements.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ddo_engine.conversion.byte_source import ByteSource, Region
from ddo_engine.conversion.inert_objects import Budget, InertGlobal, PersistentId
from ddo_engine.conversion.inert_pickle import InertUnpickler
from ddo_engine.conversion.official_globals import STORAGE_DTYPES

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_VERSION = 1001


@dataclass(frozen=True)
class Storage:
    """Elements that lie in the file.

    Attributes:
        region: Where.
        dtype: Of what kind.
    """

    region: Region
    dtype: torch.dtype

    @property
    def num_elements(self) -> int:
        """Elements that it holds."""
        return self.region.length // self.dtype.itemsize


@dataclass(frozen=True)
class StorageReference:
    """What a pickle says of a storage outside of it."""

    key: str
    dtype: torch.dtype
    num_elements: int


def read_torch_stream(
    source: ByteSource, allowed: Mapping[tuple[str, str], InertGlobal], budget: Budget
) -> tuple[Any, Mapping[str, Storage]]:
    """Read a stream that ends where ``source`` ends.

    Returns:
        The object, with :class:`PersistentId` for storages, and the storages by key.

    Raises:
        CorruptCheckpoint: It is not such a stream, or was written on a big-endian machine.
    """
    if InertUnpickler(source, {}, budget).load() != MAGIC_NUMBER:
        raise source.refuse("it has no stream of torch where one should be")
    if InertUnpickler(source, {}, budget).load() != _VERSION:
        raise source.refuse("it is of another version of torch's old format")
    machine = InertUnpickler(source, {}, budget).load()
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise source.refuse("its numbers are not little-endian")
    unpickler = InertUnpickler(source, allowed, budget, persistent=True)
    value = unpickler.load()
    keys = InertUnpickler(source, {}, budget).load()
    references: dict[str, StorageReference] = {}
    for identifier in unpickler.persistent_ids:
        reference = storage_reference(identifier, source)
        if references.setdefault(reference.key, reference) != reference:
            raise source.refuse(f"it describes storage {reference.key[:80]!r} in two ways")
    # Only texts are compared: a list of lists that each hold the last one twice is as long as the file is short.
    is_list_of_names = isinstance(keys, list) and all(type(key) is str for key in keys)
    if not is_list_of_names or sorted(keys) != sorted(references):
        raise source.refuse("its list of storages is not that of its tensors")
    storages = {}
    for key in keys:
        reference = references[key]
        if int.from_bytes(source.read(8), "little", signed=True) != reference.num_elements:
            raise source.refuse(f"storage {key[:80]!r} has not as many elements as its tensors think")
        region = source.skip(reference.num_elements * reference.dtype.itemsize)
        storages[key] = Storage(region, reference.dtype)
    if source.remaining:
        raise source.refuse(f"it has {source.remaining} bytes after its end")
    return value, storages


def storage_reference(identifier: PersistentId, source: ByteSource) -> StorageReference:
    """Return what a persistent id of torch says.

    Raises:
        CorruptCheckpoint: It is not one, or is a view of another storage.
    """
    match identifier.value:
        case (
            "storage",
            InertGlobal(name=kind),
            str(key),
            str(),
            int(num_elements),
            *rest,
        ) if kind in STORAGE_DTYPES and num_elements >= 0 and rest in ([], [None]):
            return StorageReference(key, STORAGE_DTYPES[kind], num_elements)
    raise source.refuse("it refers to a storage in a way that torch does not, or to a view of one")
