"""What a checkpoint is, for people and machines."""

from pathlib import Path
from typing import Any

from pydantic import Field

from ddo_engine.checkpoint import check_fit
from ddo_engine.conversion.official_file import open_official
from ddo_engine.conversion.options import ConversionOptions
from ddo_engine.conversion.sniffing import FileFormat
from ddo_engine.families.diffusion.space import LatentScaling
from ddo_engine.files import sha256_of_tree, size_of_tree
from ddo_engine.spec import CheckpointInfo, Settings
from ddo_engine.tensor_file import dtype_code


class CheckpointReport(Settings):
    """Result of inspecting a checkpoint."""

    name: str
    format: FileFormat
    size_bytes: int
    sha256: str
    info: CheckpointInfo
    num_tensors: int = Field(description="Parameters and buffers.")
    dtypes: dict[str, int] = Field(description="Number of tensors by safetensors' name of their dtype.")
    network: dict[str, Any] = Field(description="Arguments of the official constructor.")
    latent_scaling: LatentScaling | None
    provenance: dict[str, Any]


def inspect_checkpoint(path: str | Path, options: ConversionOptions | None = None) -> CheckpointReport:
    """Say what a checkpoint is, in any format that can be converted; its weights are not read.

    Args:
        path: As in :func:`ddo_engine.conversion.open_official`.
        options: As there.

    Raises:
        CorruptCheckpoint: As there, or its tensors are not those of its network.
        InvalidSpec: As there.
    """
    path = Path(path)
    official = open_official(path, options)
    codes = [dtype_code(tensor.dtype) for tensor in official.tensors.values()]
    return CheckpointReport(
        name=path.name,
        format=official.format,
        size_bytes=size_of_tree(path),
        sha256=sha256_of_tree(path),
        info=check_fit(path, official.manifest, official.tensors),
        num_tensors=len(codes),
        dtypes={code: codes.count(code) for code in sorted(set(codes))},
        network=official.manifest.network,
        latent_scaling=official.manifest.latent_scaling,
        provenance=official.manifest.provenance,
    )
