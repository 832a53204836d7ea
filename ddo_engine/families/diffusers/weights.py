"""Weights in a folder of the library: a safetensors file, or a ``.bin`` of torch, of which nothing is run.

Files from before version 0.15 of the library call the parts of an attention otherwise; they get their present names.
"""

import re
from pathlib import Path

from ddo_engine.conversion.sniffing import FileFormat, sniff
from ddo_engine.conversion.torch_file import read_legacy_state_dict, read_zip_state_dict
from ddo_engine.errors import CorruptCheckpoint
from ddo_engine.stored_tensor import StoredTensor
from ddo_engine.tensor_file import read_tensor_file

_NAME = "diffusion_pytorch_model"
_OLD_ATTENTION = re.compile(r"(.*\battentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")
_PRESENT = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def read_weights(folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors of the network whose ``config.json`` lies in ``folder``, by their present names.

    Raises:
        CorruptCheckpoint: There is no file of weights, it is split into shards, or it cannot be read.
    """
    path = weights_file(folder)
    found = read_tensor_file(path).tensors if path.suffix == ".safetensors" else _read_bin(path)
    tensors = {present_name(name): tensor for name, tensor in found.items()}
    if len(tensors) < len(found):
        raise CorruptCheckpoint(f"{path.name} holds parts of an attention under old and present names: save it again")
    return tensors


def weights_file(folder: Path) -> Path:
    """Return the file of weights in a folder.

    Raises:
        CorruptCheckpoint: There is none, or it is split into shards.
    """
    for suffix in (".safetensors", ".bin"):
        if (folder / f"{_NAME}{suffix}").is_file():
            return folder / f"{_NAME}{suffix}"
    if any(folder.glob(f"{_NAME}*.index.json")):
        raise CorruptCheckpoint(
            f"the weights in {folder.name} are split into shards: save the model again with a max_shard_size above its "
            "size"
        )
    raise CorruptCheckpoint(
        f"{folder.name} holds no {_NAME}.safetensors and no {_NAME}.bin: add the weights, without a variant such as "
        "fp16 in their file's name"
    )


def present_name(name: str) -> str:
    """Return what the library calls a tensor today."""
    match = _OLD_ATTENTION.fullmatch(name)
    return f"{match[1]}.{_PRESENT[match[2]]}.{match[3]}" if match else name


def _read_bin(path: Path) -> dict[str, StoredTensor]:
    read = {FileFormat.TORCH_ZIP: read_zip_state_dict, FileFormat.TORCH_LEGACY: read_legacy_state_dict}
    found = sniff(path)
    if found not in read:
        raise CorruptCheckpoint(f"{path.name} was not written by torch.save: fetch it again")
    return read[found](path)
