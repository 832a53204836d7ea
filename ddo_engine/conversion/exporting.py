"""Our checkpoints into files that the official code loads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ddo_engine.checkpoint import assemble, write_checkpoint
from ddo_engine.conversion.official_file import open_official
from ddo_engine.errors import InvalidSpec
from ddo_engine.files import write_atomically

ExportFormat = Literal["safetensors", "pth"]
_DTYPES = {"float16": torch.float16, "float32": torch.float32}


def export(
    source: str | Path,
    destination: str | Path,
    export_format: ExportFormat | None = None,
    dtype: Literal["float16", "float32"] | None = None,
) -> None:
    """Write a checkpoint's state dict, official names in official order.

    Args:
        source: A checkpoint of any supported format.
        destination: Where to, in an existing folder; a file that is there is replaced.
        export_format: ``safetensors`` keeps the manifest beside the weights; ``pth`` is a bare state dict as
            ``torch.save`` writes it. None: by the destination's suffix.
        dtype: What floating-point weights shall be; None for what they are stored in, which is bit for bit.

    Raises:
        CorruptCheckpoint: The source cannot be read.
        InvalidSpec: The destination cannot be written, or a weight is too large for float16.
    """
    source, destination = Path(source), Path(destination)
    official = open_official(source)
    model = assemble(source, official.manifest, official.tensors).model
    weights = {name: _cast(name, tensor, dtype) for name, tensor in model.state_dict().items()}
    as_pth = (export_format or ("pth" if destination.suffix in (".pth", ".pt") else "safetensors")) == "pth"

    def write(temporary: Path) -> None:
        if as_pth:
            _save_pth(weights, temporary)
        else:
            write_checkpoint(temporary, weights, official.manifest)

    try:
        write_atomically(destination, write)
    except OSError as error:
        reason = error.strerror or error
        raise InvalidSpec(f"{destination} cannot be written ({reason})", param="destination") from error


def _save_pth(weights: Mapping[str, Tensor], path: Path) -> None:
    with path.open("wb") as file:  # by its name, torch would put the temporary file's into the archive
        torch.save(dict(weights), file)


def _cast(name: str, tensor: Tensor, dtype: Literal["float16", "float32"] | None) -> Tensor:
    if dtype is None or not tensor.is_floating_point():
        return tensor.detach()
    cast = tensor.detach().to(_DTYPES[dtype])
    if bool((torch.isinf(cast) & torch.isfinite(tensor)).any()):
        raise InvalidSpec(f"--dtype: {name} holds values beyond the range of {dtype}; keep float32", param="dtype")
    return cast
