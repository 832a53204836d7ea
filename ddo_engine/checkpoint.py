"""Checkpoints: one safetensors file that holds the weights and, in its header, what they are weights of.

Reading the file runs no code. Its manifest is one JSON string under one metadata key: safetensors writes several keys
in random order, and equal weights shall be equal bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ddo_engine.errors import CorruptCheckpoint
from ddo_engine.families import get_family
from ddo_engine.families.protocol import Family
from ddo_engine.files import write_atomically
from ddo_engine.spec import CheckpointInfo, Settings

MANIFEST_KEY = "ddo_manifest"
FORMAT_VERSION = 1

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class CheckpointManifest(Settings):
    """What a checkpoint's weights are weights of.

    Attributes:
        format_version: Of this class.
        family: Name in the registry of families.
        network: Constructor arguments, ``class_name`` among them.
        provenance: How the weights came about, for people; the engine does not read it.
    """

    format_version: int = Field(default=FORMAT_VERSION, ge=1)
    family: str
    network: dict[str, Any]
    provenance: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint in memory: the network in eval mode, and what is known about it."""

    model: nn.Module
    family: Family
    manifest: CheckpointManifest
    info: CheckpointInfo


class _OpenFile(Protocol):
    """The part of safetensors' (untyped) reader that we use."""

    def keys(self) -> list[str]: ...
    def metadata(self) -> dict[str, str] | None: ...
    def get_slice(self, name: str) -> Any: ...
    def get_tensor(self, name: str) -> Tensor: ...


def read_manifest(path: str | Path) -> CheckpointManifest:
    """Return the manifest of a checkpoint without reading its weights.

    Raises:
        CorruptCheckpoint: The file is missing, damaged, or not a checkpoint of ours.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            return _manifest_of(path, file)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> LoadedCheckpoint:
    """Read a checkpoint.

    The manifest is checked against the file's tensors on the meta device first, so that no more memory is taken than
    the file is large.

    Args:
        path: A file written by :func:`save_checkpoint`.
        device: Where the network shall be.

    Raises:
        CorruptCheckpoint: The file is missing, truncated or not a checkpoint of ours; its manifest describes a network
            that we cannot build; its tensors are not those of that network; or a weight is NaN or infinite.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            manifest = _manifest_of(path, file)
            family = get_family(manifest.family)
            with torch.device("meta"):
                model = family.build(manifest.network)
            _require_same_tensors(path, file, model.state_dict())
            model.to_empty(device=device)
            with torch.no_grad():
                for name, weight in model.state_dict().items():
                    weight.copy_(_finite(path, name, file.get_tensor(name)))
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    return LoadedCheckpoint(model, family, manifest, _info(manifest, model))


def load_model(path: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """Return a checkpoint's network in eval mode. Raises: see :func:`load_checkpoint`."""
    return load_checkpoint(path, device).model


def save_checkpoint(path: str | Path, model: nn.Module, manifest: CheckpointManifest) -> None:
    """Write a checkpoint, whole or not at all. Equal weights and manifests give equal bytes.

    Args:
        path: Where to. The folder must exist.
        model: Its state dict is written as it is, whatever its device.
        manifest: Must describe ``model``, or the checkpoint cannot be loaded again.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    text = json.dumps(manifest.model_dump(mode="json"), sort_keys=True, allow_nan=False)
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata={MANIFEST_KEY: text}))


def _manifest_of(path: Path, file: _OpenFile) -> CheckpointManifest:
    text = (file.metadata() or {}).get(MANIFEST_KEY)
    if text is None:
        raise CorruptCheckpoint(
            f"{path.name} is a safetensors file without the metadata entry {MANIFEST_KEY!r}, so nothing says what "
            "network its weights belong to; write it with ddo_engine.checkpoint.save_checkpoint"
        )
    try:
        manifest = CheckpointManifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise CorruptCheckpoint(
            f"the manifest of {path.name} is not valid: {where}: {first['msg']}; save the checkpoint again", param=where
        ) from error
    if manifest.format_version > FORMAT_VERSION:
        raise CorruptCheckpoint(
            f"{path.name} has format version {manifest.format_version}, this engine reads up to {FORMAT_VERSION}; "
            "update the engine",
            param="format_version",
        )
    return manifest


def _require_same_tensors(path: Path, file: _OpenFile, expected: Mapping[str, Tensor]) -> None:
    found = set(file.keys())
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} does not belong to the network" for name in sorted(found - expected.keys())]
    for name in sorted(expected.keys() & found):
        view = file.get_slice(name)
        if tuple(view.get_shape()) != tuple(expected[name].shape):
            problems.append(f"{name} has shape {list(view.get_shape())}, not {list(expected[name].shape)}")
        elif view.get_dtype() != _DTYPES[expected[name].dtype]:
            problems.append(f"{name} is stored as {view.get_dtype()}, not {_DTYPES[expected[name].dtype]}")
    if problems:
        more = f" (and {len(problems) - 3} more like these)" if len(problems) > 3 else ""
        raise CorruptCheckpoint(
            f"the tensors of {path.name} are not those of the network in its manifest: "
            f"{'; '.join(problems[:3])}{more}; export the checkpoint again, with the configuration it was "
            "trained with"
        )


def _finite(path: Path, name: str, tensor: Tensor) -> Tensor:
    if not bool(torch.isfinite(tensor).all()):
        raise CorruptCheckpoint(
            f"{name} in {path.name} holds NaN or infinite values: the training that wrote it diverged; "
            "use an earlier checkpoint"
        )
    return tensor


def _unreadable(path: Path, error: Exception) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f"{path.name} cannot be read as a safetensors file ({error}): it is missing, truncated or of another format; "
        "upload it again, or convert it to safetensors first"
    )


def _info(manifest: CheckpointManifest, model: nn.Module) -> CheckpointInfo:
    return CheckpointInfo(
        family=manifest.family,
        network=manifest.network["class_name"],
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        img_resolution=model.img_resolution,
        img_channels=model.img_channels,
        label_dim=model.label_dim,
    )
