"""From the record of a call that would have made a tensor to the tensor's place in the file."""

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

from ddo_engine.conversion.inert_objects import InertObject
from ddo_engine.conversion.official_globals import PARAMETER, TENSOR
from ddo_engine.conversion.refusal import damaged
from ddo_engine.conversion.torch_stream import Storage
from ddo_engine.errors import CorruptCheckpoint
from ddo_engine.stored_tensor import StoredTensor

MAX_TENSORS = 20_000
_MAX_DIMENSIONS = 8
_MAX_SIZE = 1 << 40

FindStorage = Callable[[Any], Storage]


def is_tensor(value: Any) -> bool:
    """Say whether a record is that of a tensor or a parameter."""
    return isinstance(value, InertObject) and value.kind in (PARAMETER, TENSOR)


def locate_tensors(records: Mapping[str, Any], path: Path, find_storage: FindStorage) -> dict[str, StoredTensor]:
    """Return where named tensors lie.

    Args:
        records: By name.
        path: The file.
        find_storage: Turns a record's storage into its place.

    Raises:
        CorruptCheckpoint: Something is not a tensor; a tensor does not lie in its storage; it is not dense, such as an
            expanded one; or two tensors share elements.
    """
    if len(records) > MAX_TENSORS:
        raise damaged(path.name, f"it has {len(records)} tensors, more than any network of the families")
    tensors = {name: _locate(name, record, path, find_storage) for name, record in records.items()}
    _refuse_aliases(tensors, path)
    return tensors


def _locate(name: str, record: Any, path: Path, find_storage: FindStorage) -> StoredTensor:
    arguments: tuple[Any, ...] = record.arguments if is_tensor(record) else ()
    if arguments and record.kind == PARAMETER:
        inner = arguments[0]
        arguments = inner.arguments if is_tensor(inner) and inner.kind == TENSOR else ()
    if len(arguments) not in (6, 7):
        raise damaged(path.name, f"{name[:200]} is not a tensor as torch stores it")
    start, shape, strides = arguments[1:4]
    storage = find_storage(arguments[0])
    _require(_are_sizes(shape) and _are_sizes(strides) and _are_sizes((start,)), name, path)
    _require(len(shape) == len(strides), name, path)
    if prod(shape) == 0:
        return StoredTensor(path, storage.region.offset, storage.dtype, shape)
    end = start + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
    _require(end <= storage.num_elements and end - start == prod(shape) and _is_dense(shape, strides), name, path)
    offset = storage.region.offset + start * storage.dtype.itemsize
    row_major = _is_dense(shape, strides, in_order=True)
    return StoredTensor(path, offset, storage.dtype, shape, None if row_major else strides)


def _are_sizes(values: Any) -> bool:
    return (
        isinstance(values, tuple)
        and len(values) <= _MAX_DIMENSIONS
        and all(type(value) is int and 0 <= value <= _MAX_SIZE for value in values)
    )


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...], *, in_order: bool = False) -> bool:
    """Say whether every element has a place of its own and no place is left over, in row-major order if need be."""
    axes = [(stride, size) for size, stride in zip(shape, strides, strict=True) if size > 1]
    expected = 1
    for stride, size in reversed(axes) if in_order else sorted(axes):
        if stride != expected:
            return False
        expected *= size
    return True


def _require(condition: bool, name: str, path: Path) -> None:
    if not condition:
        raise damaged(path.name, f"tensor {name[:200]} does not lie densely within its storage")


def _refuse_aliases(tensors: Mapping[str, StoredTensor], path: Path) -> None:
    end, last = 0, ""
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
        if tensor.num_bytes == 0:
            continue
        if tensor.offset < end:
            raise damaged(path.name, f"tensors {last[:200]} and {name[:200]} share elements, official ones do not")
        end, last = tensor.offset + tensor.num_bytes, name


def require_tensors(records: Mapping[Any, Any], path: Path) -> dict[str, Any]:
    """Return a mapping as one of names to records of tensors.

    Raises:
        CorruptCheckpoint: A key is not a string, or a value not a tensor.
    """
    for name, record in records.items():
        if not isinstance(name, str) or not is_tensor(record):
            raise _not_a_state_dict(path, name)
    return dict(records)


def _not_a_state_dict(path: Path, name: Any) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f"{path.name} is not a bare state dict: {str(name)[:200]!r} in it is not a tensor; load it where it was "
        "written and save the network's state_dict() alone"
    )
