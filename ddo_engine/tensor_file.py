"""Safetensors files, written and read a piece at a time.

The library's own writer wants all tensors in memory, and its reader maps the file. The bytes here are those that the
library would write; it also judges the headers of files that are read.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ddo_engine.errors import CorruptCheckpoint
from ddo_engine.stored_tensor import StoredTensor, WritableTensor, pieces_of

# The library orders tensors by this, the last of them first, and by name; headers grow to a multiple of 8 bytes.
_CODES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
}
_RANK = {dtype: rank for rank, dtype in enumerate(_CODES)}
_DTYPES = {code: dtype for dtype, code in _CODES.items()}
_ALIGNMENT = 8
MAX_HEADER_BYTES = 1 << 24  # the largest model of the families has a header of 200 KB


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file whose header has been read.

    Attributes:
        metadata: Strings that its writer left in it.
        tensors: By name, in the order of their bytes.
    """

    metadata: Mapping[str, str]
    tensors: Mapping[str, StoredTensor]


def dtype_code(dtype: torch.dtype) -> str:
    """Return how safetensors calls a dtype, such as ``F32``."""
    return _CODES[dtype]


@dataclass(frozen=True)
class FileLayout:
    """Where everything lies in a file that is to be written.

    Attributes:
        head: The first bytes, up to those of the tensors.
        starts: Byte of each tensor's first element, by name, in the order of the file.
    """

    head: bytes
    starts: Mapping[str, int]


def file_layout(tensors: Mapping[str, WritableTensor], metadata: Mapping[str, str]) -> FileLayout:
    """Return where a file with these tensors has what; no tensor is looked into.

    Args:
        tensors: Of a dtype that safetensors and the engine both know.
        metadata: What its readers find beside the tensors.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    names = sorted(tensors, key=lambda name: (-_RANK[tensors[name].dtype], name))
    end = 0
    for name in names:
        start, end = end, end + prod(tensors[name].shape) * tensors[name].dtype.itemsize
        header[name] = {
            "dtype": _CODES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    head = struct.pack("<Q", len(text)) + text
    return FileLayout(head, {name: len(head) + header[name]["data_offsets"][0] for name in names})


def write_tensor_file(path: Path, tensors: Mapping[str, WritableTensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; equal tensors and metadata (of one key) give equal bytes.

    Arguments as in :func:`file_layout`.
    """
    layout = file_layout(tensors, metadata)
    with path.open("wb") as file:
        file.write(layout.head)
        for name in layout.starts:
            for piece in pieces_of(tensors[name]):
                file.write(piece.view(torch.uint8).numpy().data)


def read_tensor_file(path: Path) -> TensorFile:
    """Read the header of a safetensors file.

    Raises:
        CorruptCheckpoint: The file is missing, truncated, of another format, or has tensors of a foreign dtype.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER_BYTES:
                raise unreadable(path, f"its header of {length} bytes is far longer than any network's")
            with safe_open(path, framework="pt"):  # checks that offsets, sizes and the file's length agree
                pass
            header = json.loads(file.read(length))
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        if isinstance(error, CorruptCheckpoint):
            raise
        raise unreadable(path, str(error)) from error
    metadata = header.pop("__metadata__", None) or {}
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if entry["dtype"] not in _DTYPES:
            raise unreadable(path, f"{name} is stored as {entry['dtype']}, which no family uses")
        start, _ = entry["data_offsets"]
        tensors[name] = StoredTensor(path, 8 + length + start, _DTYPES[entry["dtype"]], tuple(entry["shape"]))
    return TensorFile(metadata, tensors)


def unreadable(path: Path, reason: str) -> CorruptCheckpoint:
    """Return the error that refuses a file of another format."""
    return CorruptCheckpoint(
        f"{path.name} cannot be read as a safetensors file ({reason}): it is missing, truncated or of another format; "
        "upload it again, or convert it to safetensors first"
    )
