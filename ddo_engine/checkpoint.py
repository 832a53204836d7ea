"""Checkpoints: one safetensors file that holds the weights and, in its header, what they are weights of.

Reading the file runs no code. Its manifest is one JSON string under one metadata key: safetensors writes several keys
in random order, and equal weights shall be equal bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from torch import nn

from ddo_engine.errors import CorruptCheckpoint
from ddo_engine.families import get_family
from ddo_engine.families.diffusion.denoiser import Denoiser
from ddo_engine.families.diffusion.space import LatentScaling, LatentSpace
from ddo_engine.families.protocol import Family
from ddo_engine.files import write_atomically
from ddo_engine.spec import CheckpointInfo, Settings
from ddo_engine.stored_tensor import StoredTensor, WritableTensor
from ddo_engine.tensor_checks import require_finite, require_same_tensors
from ddo_engine.tensor_file import TensorFile, read_tensor_file, write_tensor_file

MANIFEST_KEY = "ddo_manifest"
FORMAT_VERSION = 1


class CheckpointManifest(Settings):
    """What a checkpoint's weights are weights of.

    Attributes:
        format_version: Of this class.
        family: Name in the registry of families.
        network: Constructor arguments, ``class_name`` among them.
        latent_scaling: Of a diffusion model that works on latents: how these follow from the autoencoder's.
        provenance: How the weights came about, for people; the engine does not read it.
    """

    format_version: int = Field(default=FORMAT_VERSION, ge=1)
    family: str
    network: dict[str, Any]
    latent_scaling: LatentScaling | None = None
    provenance: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint in memory: the network in eval mode, and what is known about it."""

    model: nn.Module
    family: Family
    manifest: CheckpointManifest
    info: CheckpointInfo


def read_manifest(path: str | Path) -> CheckpointManifest:
    """Return the manifest of a checkpoint without reading its weights.

    Raises:
        CorruptCheckpoint: The file is missing, damaged, or not a checkpoint of ours.
    """
    path = Path(path)
    return manifest_of(path, read_tensor_file(path))


def load_checkpoint(
    path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> LoadedCheckpoint:
    """Read a checkpoint.

    Args:
        path: A file written by :func:`save_checkpoint` or :func:`ddo_engine.conversion.convert`.
        device: Where the network shall be.
        dtype: What its weights shall be: float32 to train; None for what they are stored in, as official sampling
            has them.

    Raises:
        CorruptCheckpoint: The file is missing, truncated or not a checkpoint of ours; its manifest describes a network
            that we cannot build; its tensors are not those of that network; or a weight is NaN or infinite.
    """
    path = Path(path)
    file = read_tensor_file(path)
    return assemble(path, manifest_of(path, file), file.tensors, device, dtype)


def assemble(
    path: Path,
    manifest: CheckpointManifest,
    tensors: Mapping[str, StoredTensor],
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> LoadedCheckpoint:
    """Build the network of a manifest around tensors that lie in a file.

    The manifest is checked against the tensors on the meta device first, so that no more memory is taken than the
    tensors take.

    Args:
        path: The file, for messages.
        manifest: What the tensors are weights of.
        tensors: By official name.
        device: As in :func:`load_checkpoint`.
        dtype: As there.

    Raises:
        CorruptCheckpoint: As there.
    """
    family, model = _skeleton(path, manifest, tensors)
    parameters = dict(model.named_parameters())
    weights = {}
    for name in model.state_dict():
        weight = tensors[name].read()
        require_finite(path, name, weight, is_parameter=name in parameters)
        weights[name] = weight.to(device=device, dtype=dtype if weight.is_floating_point() else None)
    model.load_state_dict(weights, assign=True)
    return LoadedCheckpoint(model, family, manifest, info_of(manifest, model))


def check_checkpoint(path: str | Path) -> CheckpointManifest:
    """Check a checkpoint as :func:`load_checkpoint` does, with a few megabytes of it in memory at a time.

    Returns:
        Its manifest.

    Raises:
        CorruptCheckpoint: As there.
    """
    path = Path(path)
    file = read_tensor_file(path)
    manifest = manifest_of(path, file)
    check_tensors(path, manifest, file.tensors)
    return manifest


def check_tensors(path: Path, manifest: CheckpointManifest, tensors: Mapping[str, StoredTensor]) -> None:
    """Check, a few megabytes at a time, that tensors are those of a manifest's network, and finite.

    Raises:
        CorruptCheckpoint: They are not.
    """
    model = _skeleton(path, manifest, tensors)[1]
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        for piece in tensor.pieces():
            require_finite(path, name, piece, is_parameter=name in parameters)
    # A network may refuse buffers that contradict its arguments. They are small, unlike its parameters.
    expected = model.state_dict()
    buffers = {name: tensors[name].read() for name in expected if name not in parameters}
    model.load_state_dict({name: buffers.get(name, weight) for name, weight in expected.items()}, assign=True)


def check_fit(path: Path, manifest: CheckpointManifest, tensors: Mapping[str, StoredTensor]) -> CheckpointInfo:
    """Check names, shapes and dtypes alone: nothing of the weights is read.

    Returns:
        What the network is.

    Raises:
        CorruptCheckpoint: The tensors are not those of the manifest's network.
    """
    return info_of(manifest, _skeleton(path, manifest, tensors)[1])


def save_checkpoint(path: str | Path, model: nn.Module, manifest: CheckpointManifest) -> None:
    """Write a checkpoint, whole or not at all. Equal weights and manifests give equal bytes.

    Args:
        path: Where to. The folder must exist.
        model: Its state dict is written as it is, whatever its device.
        manifest: Must describe ``model``, or the checkpoint cannot be loaded again.
    """
    write_atomically(path, lambda temporary: write_checkpoint(temporary, model.state_dict(), manifest))


def write_checkpoint(path: Path, tensors: Mapping[str, WritableTensor], manifest: CheckpointManifest) -> None:
    """Write tensors, in memory or in other files, and their manifest; the caller sees to it that it is atomic."""
    text = json.dumps(manifest.model_dump(mode="json"), sort_keys=True, allow_nan=False)
    write_tensor_file(path, tensors, {MANIFEST_KEY: text})


def manifest_of(path: Path, file: TensorFile) -> CheckpointManifest:
    """Return the manifest in an open file.

    Raises:
        CorruptCheckpoint: There is none, it is not valid, or the file is of a newer format.
    """
    text = file.metadata.get(MANIFEST_KEY)
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


def _skeleton(
    path: Path, manifest: CheckpointManifest, tensors: Mapping[str, StoredTensor]
) -> tuple[Family, nn.Module]:
    """Return the manifest's network without weights, once it is known that the tensors fit it."""
    family = get_family(manifest.family)
    with torch.device("meta"):
        model = family.build(manifest.network)
    require_same_tensors(path, tensors, model.state_dict())
    if manifest.latent_scaling is not None:
        _work_on_latents(path, model, manifest.latent_scaling)
    return family, model


def _work_on_latents(path: Path, model: nn.Module, scaling: LatentScaling) -> None:
    channels = len(scaling.raw_mean)
    if not isinstance(model, Denoiser) or not channels == len(scaling.raw_std) == model.img_channels:
        raise CorruptCheckpoint(
            f"the manifest of {path.name} scales {channels} channels of latents, which its network does not have: "
            "correct latent_scaling and save the checkpoint again",
            param="latent_scaling",
        )
    model.space = LatentSpace(scaling)


def info_of(manifest: CheckpointManifest, model: nn.Module) -> CheckpointInfo:
    """Return what a network is."""
    decoded = _decoded_shape(model)
    return CheckpointInfo(
        family=manifest.family,
        network=manifest.network["class_name"],
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        img_resolution=model.img_resolution,
        img_channels=model.img_channels,
        label_dim=model.label_dim,
        space=model.works_on,
        decoded_resolution=decoded[0],
        decoded_channels=decoded[1],
    )


def _decoded_shape(model: nn.Module) -> tuple[int, int] | tuple[None, None]:
    """Return resolution and channels of the pixels behind latents, where an autoencoder says so."""
    space = getattr(model, "space", None)
    if not isinstance(space, LatentSpace) or space.autoencoder is None:
        return None, None
    resolution = int(model.img_resolution)  # type: ignore[arg-type]  # ImageModel
    return resolution * space.autoencoder.downsampling, space.autoencoder.img_channels
