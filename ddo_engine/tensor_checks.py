"""Whether tensors in a file are those of a network, and numbers."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ddo_engine.errors import CorruptCheckpoint
from ddo_engine.stored_tensor import StoredTensor
from ddo_engine.tensor_file import dtype_code

_STORABLE = (torch.float32, torch.float16, torch.bfloat16)


def require_same_tensors(path: Path, found: Mapping[str, StoredTensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not those of a network by name, shape and dtype.

    Args:
        path: The file that they lie in, for messages.
        found: Not read.
        expected: The network's state dict, on any device.

    Raises:
        CorruptCheckpoint: Naming up to three that differ.
    """
    floating = _floating_dtype(found, expected)
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} does not belong to the network" for name in sorted(found.keys() - expected.keys())]
    for name in sorted(expected.keys() & found.keys()):
        tensor, dtype = found[name], expected[name].dtype
        if dtype == torch.float32:
            dtype = floating
        if tensor.shape != tuple(expected[name].shape):
            problems.append(f"{name} has shape {list(tensor.shape)}, not {list(expected[name].shape)}")
        elif tensor.dtype != dtype:
            problems.append(f"{name} is stored as {dtype_code(tensor.dtype)}, not {dtype_code(dtype)}")
    if problems:
        more = f" (and {len(problems) - 3} more like these)" if len(problems) > 3 else ""
        raise CorruptCheckpoint(
            f"the tensors of {path.name} are not those of the network in its manifest: "
            f"{'; '.join(problems[:3])}{more}; export the checkpoint again, with the configuration it was "
            "trained with"
        )


def _floating_dtype(found: Mapping[str, StoredTensor], expected: Mapping[str, Tensor]) -> torch.dtype:
    """Return what a float32 network is stored in: half the precision is as good, but all of it alike."""
    for name, tensor in expected.items():
        if tensor.dtype == torch.float32 and name in found and found[name].dtype in _STORABLE:
            return found[name].dtype
    return torch.float32


def require_finite(path: Path, name: str, tensor: Tensor, *, is_parameter: bool) -> None:
    """Refuse a tensor that holds NaN, or a parameter that holds infinities.

    Raises:
        CorruptCheckpoint: Naming it.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return
    # The extremes of a tensor with NaN are NaN; taking them is a tenth of the work of looking at every element.
    extremes = torch.stack(tensor.aminmax())
    # Buffers may be masks, and masks hold infinities.
    if bool((torch.isfinite(extremes) if is_parameter else ~torch.isnan(extremes)).all()):
        return
    raise CorruptCheckpoint(
        f"{name} in {path.name} holds NaN or infinite values: the training that wrote it diverged; "
        "use an earlier checkpoint"
    )
