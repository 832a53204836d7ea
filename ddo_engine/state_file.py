"""The file of a training state: safetensors, one JSON header, and a digest over all of it.

Safetensors holds nothing that could be executed, and its bytes follow from the content alone as long as there
is one metadata key. It has no checksum of its own: a flipped bit in a weight would otherwise go unnoticed.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ddo_engine.errors import CorruptCheckpoint
from ddo_engine.files import write_atomically
from ddo_engine.spec import Settings

_HEADER_KEY = "ddo_state"


class StateHeader(Settings):
    """All of a training state that is not a tensor."""

    format_version: Literal[1] = 1
    identity: dict[str, Any] = Field(description="The run that it is a state of: settings and input hashes.")
    step: int = Field(ge=0, description="Finished optimizer steps.")
    kimg: float = Field(ge=0)
    evaluated_step: int = Field(ge=0, description="Step of the last finished evaluation; 0 before the first.")
    best_fid: float | None
    window_steps: int = Field(ge=0, description="Steps in the running window of diagnostics.")
    beta: float | None = Field(default=None, gt=0, description="What the probe found for beta 'auto'.")
    warnings_raised: tuple[str, ...] = Field(default=(), description="Codes of the warnings that were given.")
    saturated_windows: int = Field(default=0, ge=0, description="Windows on end with a saturated discriminator.")
    loss_scale: dict[str, int | float] = Field(
        default_factory=dict, description="State of the loss scaler; empty where there is none."
    )
    numerics: dict[str, str] = Field(description="What besides the run decides the bits: engine, torch, device, …")


@dataclass(frozen=True)
class SavedState:
    """A training state as it lies in a file.

    Attributes:
        header: Everything but the tensors.
        tensors: By name, on the CPU.
    """

    header: StateHeader
    tensors: Mapping[str, Tensor]


def write_state(path: Path, state: SavedState) -> None:
    """Write a state atomically; the same state gives the same bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    # A string in the JSON, not an object: the digest is of these very characters.
    header = json.dumps(state.header.model_dump(mode="json"), sort_keys=True)
    content = json.dumps({"header": header, "sha256": _digest(header, tensors)}, sort_keys=True)
    write_atomically(path, lambda temporary: save_file(tensors, temporary, {_HEADER_KEY: content}))


def read_state(path: Path) -> SavedState:
    """Read a state.

    Raises:
        CorruptCheckpoint: The file is cut short, changed since it was written, or not a training state.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (OSError, SafetensorError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    try:
        content = json.loads(metadata[_HEADER_KEY])
        header, sha256 = content["header"], content["sha256"]
        if _digest(header, tensors) != sha256:
            raise _damaged(path, "its content does not match its SHA-256")
        return SavedState(StateHeader.model_validate_json(header), tensors)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError, ValidationError) as error:
        if isinstance(error, CorruptCheckpoint):
            raise
        raise _damaged(path, f"it has no readable {_HEADER_KEY} header") from error


def _damaged(path: Path, reason: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f"{path.name} is not an undamaged training state ({reason}): use an earlier one, or start the trial again",
        param="state",
    )


def _digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
