"""The file of a training state: safetensors, one JSON header, and a digest over all of it.

Safetensors holds nothing that could be executed, and its bytes follow from the content alone as long as there
is one metadata key. It has no checksum of its own: a flipped bit in a weight would otherwise go unnoticed.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from ddo_engine.errors import CorruptCheckpoint
from ddo_engine.files import write_atomically
from ddo_engine.parallel.ranks import ALONE, Ranks
from ddo_engine.parallel.rows import Rows, send_rows
from ddo_engine.spec import Settings
from ddo_engine.stored_tensor import StoredTensor, WritableTensor, pieces_of
from ddo_engine.tensor_file import FileLayout, file_layout, read_tensor_file

_HEADER_KEY = "ddo_state"


class StateHeader(Settings):
    """All of a training state that is not a tensor."""

    format_version: Literal[1] = 1
    identity: dict[str, Any] = Field(description="The run that it is a state of: settings and input hashes.")
    step: int = Field(ge=0, description="Finished optimizer steps.")
    kimg: float = Field(ge=0)
    evaluated_step: int = Field(ge=0, description="Step of the last finished evaluation; 0 before the first.")
    evaluated_scales: int = Field(default=0, ge=0, description="Guidance scales done of the evaluation that is due.")
    best_fid: float | None
    best_step: int = Field(default=0, ge=0, description="Step of best_fid; 0 before the first, and where it is unsaid.")
    window_steps: int = Field(ge=0, description="Steps in the running window of diagnostics.")
    beta: float | None = Field(default=None, gt=0, description="What the probe found for beta 'auto'.")
    warnings_raised: tuple[str, ...] = Field(default=(), description="Codes of the warnings that were given.")
    saturated_windows: int = Field(default=0, ge=0, description="Windows on end with a saturated discriminator.")
    loss_scale: dict[str, int | float] = Field(
        default_factory=dict, description="State of the loss scaler; empty where there is none."
    )
    numerics: dict[str, str] = Field(description="What besides the run decides the bits: engine, torch, device, …")


class StoredTensors(Mapping[str, Tensor]):
    """Tensors in a file, each read, to the CPU, whenever it is asked for: a state is several times its model."""

    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


@dataclass(frozen=True)
class SavedState:
    """A training state as it lies in a file, or is about to.

    Attributes:
        header: Everything but the tensors.
        tensors: By name. Those of a file are read, to the CPU, whenever they are asked for.
        whole_shapes: Shapes of those of which this process has but its rows, by name; none of a file's.
    """

    header: StateHeader
    tensors: Mapping[str, Tensor]
    whole_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def tensors_of_all(self) -> dict[str, Tensor]:
        """Those that every process has whole."""
        return {name: tensor for name, tensor in self.tensors.items() if name not in self.whole_shapes}


def write_state(path: Path, state: SavedState, ranks: Ranks = ALONE) -> None:
    """Write a state atomically, tensor by tensor; the same state gives the same bytes.

    Args:
        path: Where to.
        state: In memory.
        ranks: Those that have its rows; all of them call, and the one that leads writes.
    """
    shapes = state.whole_shapes
    tensors: dict[str, WritableTensor] = {
        name: Rows(tensor, shapes[name], ranks) if name in shapes else tensor for name, tensor in state.tensors.items()
    }
    if ranks.leads:
        # A string in the JSON, not an object: the digest is of these very characters.
        header = json.dumps(state.header.model_dump(mode="json"), sort_keys=True)
        write_atomically(path, lambda temporary: _write(temporary, header, tensors))
    else:
        send_rows(tensors)


def _write(path: Path, header: str, tensors: Mapping[str, WritableTensor]) -> None:
    """Write the tensors first, then the head with the digest over all of them: each is looked at once."""

    def layout(sha256: str) -> FileLayout:
        return file_layout(tensors, {_HEADER_KEY: json.dumps({"header": header, "sha256": sha256}, sort_keys=True)})

    starts = layout("0" * 64).starts
    with path.open("wb") as file:

        def pieces(name: str) -> Iterator[Tensor]:
            file.seek(starts[name])
            for piece in pieces_of(tensors[name]):
                file.write(piece.view(torch.uint8).numpy().data)
                yield piece

        head = layout(_digest(header, tensors, pieces)).head
        file.seek(0)
        file.write(head)


def read_state(path: Path) -> SavedState:
    """Read a state; its tensors are there as long as the file is.

    Raises:
        CorruptCheckpoint: The file is cut short, changed since it was written, or not a training state.
    """
    try:
        file = read_tensor_file(path)
    except CorruptCheckpoint as error:
        raise _damaged(path, str(error.__cause__ or error)) from error
    try:
        content = json.loads(file.metadata[_HEADER_KEY])
        header, sha256 = content["header"], content["sha256"]
        if _digest(header, file.tensors, lambda name: file.tensors[name].pieces()) != sha256:
            raise _damaged(path, "its content does not match its SHA-256")
        return SavedState(StateHeader.model_validate_json(header), StoredTensors(file.tensors))
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError, ValidationError) as error:
        if isinstance(error, CorruptCheckpoint):
            raise
        raise _damaged(path, f"it has no readable {_HEADER_KEY} header") from error


def _damaged(path: Path, reason: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f"{path.name} is not an undamaged training state ({reason}): use an earlier one, or start the trial again",
        param="state",
    )


def _digest(header: str, tensors: Mapping[str, WritableTensor], pieces: Callable[[str], Iterable[Tensor]]) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        for piece in pieces(name):
            digest.update(piece.view(torch.uint8).numpy().data)
    return digest.hexdigest()
