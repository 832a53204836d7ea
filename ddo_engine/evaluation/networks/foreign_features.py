"""Feature networks as their authors publish them: what a file is, by its content; nothing in it is run.

| file | becomes |
|---|---|
| safetensors with our manifest | what that says |
| state dict of the PyTorch port of Inception-v3: ``.pth`` of either format, or safetensors | ``inception`` |
| TorchScript of the same network, by NVIDIA: its tensors alone | ``inception`` |
| folder of a DINOv2 model, or a zip of one | ``dinov2`` |

A program of another network (TorchScript, ``torch.export``) is none of these: see ``program.py``.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from ddo_engine.conversion.sniffing import FileFormat, sniff
from ddo_engine.conversion.torch_file import read_legacy_state_dict, read_script_tensors, read_zip_state_dict
from ddo_engine.conversion.unpacking import unpacked
from ddo_engine.errors import CorruptCheckpoint, InvalidFeatureNetwork
from ddo_engine.evaluation.networks.dinov2_folder import read_dinov2_folder
from ddo_engine.evaluation.networks.feature_file import MANIFEST_KEY, FeatureFile, FeatureManifest, parse_manifest
from ddo_engine.evaluation.networks.inception_names import is_graph, ported
from ddo_engine.evaluation.networks.program_format import program_format
from ddo_engine.files import sha256_of_tree
from ddo_engine.stored_tensor import StoredTensor
from ddo_engine.tensor_file import read_tensor_file

COUNTERS = ".num_batches_tracked"  # which only training reads


@contextmanager
def open_features(path: Path, workspace: Path | None = None) -> Iterator[FeatureFile | None]:
    """Yield a feature network's manifest and tensors; None for a program of a network that we do not know.

    Args:
        path: File or folder.
        workspace: Where archives of folders are unpacked; None takes the system's folder for temporary files.

    Raises:
        InvalidFeatureNetwork: The file is damaged or of another format.
    """
    try:
        if program_format(path) is not None:
            yield _of_program(path)
            return
        with unpacked(path, workspace) as found:
            yield _foreign(path, "dinov2", *read_dinov2_folder(found)) if found.is_dir() else _of_file(found)
    except CorruptCheckpoint as error:
        raise InvalidFeatureNetwork(error.message) from error


def _of_program(path: Path) -> FeatureFile | None:
    try:
        tensors = read_script_tensors(path)
    except CorruptCheckpoint:  # of another network, or truncated: whoever runs it will find out
        return None
    return _foreign(path, "inception", {}, ported(tensors)) if is_graph(set(tensors)) else None


def _of_file(path: Path) -> FeatureFile:
    found = sniff(path)
    tensors: Mapping[str, StoredTensor]
    if found is FileFormat.TORCH_ZIP:
        tensors = read_zip_state_dict(path)
    elif found is FileFormat.TORCH_LEGACY:
        tensors = read_legacy_state_dict(path)
    else:
        file = read_tensor_file(path)
        if MANIFEST_KEY in file.metadata:
            return FeatureFile(parse_manifest(path.name, file.metadata[MANIFEST_KEY]), file.tensors)
        tensors = file.tensors
    if not {"Conv2d_1a_3x3.conv.weight", "fc.weight"} <= tensors.keys():
        first = ", ".join(name[:80] for name in list(tensors)[:3])
        raise InvalidFeatureNetwork(
            f"{path.name} has no {MANIFEST_KEY!r} and is no state dict of the published port of Inception-v3 (its "
            f"first tensors: {first}): it is not a feature network of this service"
        )
    weights = {name: tensor for name, tensor in tensors.items() if not name.endswith(COUNTERS)}
    return _foreign(path, "inception", {}, weights)


def _foreign(
    path: Path, architecture: str, config: dict[str, Any], tensors: Mapping[str, StoredTensor | Tensor]
) -> FeatureFile:
    """Return a conversion. Its provenance names no file: the same weights shall give the same bytes."""
    provenance = {"converted_from_sha256": sha256_of_tree(path)}
    return FeatureFile(FeatureManifest(architecture=architecture, config=config, provenance=provenance), tensors)
