"""The networks that a unit names: the checkpoint, the autoencoder behind it, and the network that guides it."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from ddo_engine.checkpoint import LoadedCheckpoint, info_of
from ddo_engine.errors import EngineError, IncompatibleInputs, InvalidSpec
from ddo_engine.inputs import open_checkpoint, verified_sha256
from ddo_engine.spec import EvaluateSpec, FileRef, GenerateSpec, TrainSpec, ValidateSpec


@dataclass(frozen=True)
class UnitModels:
    """Networks in eval mode, on the unit's device, in float32.

    Attributes:
        checkpoint: What is sampled or trained, its autoencoder attached.
        autoencoder: What maps pixels to its latents or tokens and back; None for a model of pixels.
        guide: What guides samples; None without.
        autoencoder_sha256: Of its file.
        guide_sha256: Of its file.
    """

    checkpoint: LoadedCheckpoint
    autoencoder: nn.Module | None
    guide: nn.Module | None
    autoencoder_sha256: str | None
    guide_sha256: str | None


def open_models(spec: ValidateSpec | GenerateSpec | TrainSpec | EvaluateSpec, device: torch.device) -> UnitModels:
    """Load a unit's networks and put them together.

    Raises:
        CorruptCheckpoint: One of them cannot be read.
        IncompatibleInputs: They do not belong together, or the checkpoint is itself an autoencoder.
        InvalidSpec: A file is not the one that the spec means.
    """
    verified_sha256(spec.checkpoint, "checkpoint")
    checkpoint = open_checkpoint(spec.checkpoint, device)
    _require_generative(checkpoint)
    autoencoder = _open_companion(spec.autoencoder, "autoencoder", device)
    guide = _open_companion(spec.guide, "guide", device)
    if autoencoder is not None:
        checkpoint.family.attach_autoencoder(checkpoint.model, autoencoder.model)
        checkpoint = replace(checkpoint, info=info_of(checkpoint.manifest, checkpoint.model))
    elif checkpoint.info.space != "pixels":
        raise IncompatibleInputs(
            f"the checkpoint works on {checkpoint.info.space}: name the autoencoder that maps them to pixels",
            param="autoencoder",
        )
    if guide is not None and guide.family is not checkpoint.family:
        raise IncompatibleInputs(
            f"the guide is of the family {guide.manifest.family!r}, the checkpoint of {checkpoint.manifest.family!r}: "
            "choose a guide of the checkpoint's family",
            param="guide",
        )
    return UnitModels(
        checkpoint=checkpoint,
        autoencoder=None if autoencoder is None else autoencoder.model,
        guide=None if guide is None else guide.model,
        autoencoder_sha256=None if spec.autoencoder is None else verified_sha256(spec.autoencoder, "autoencoder"),
        guide_sha256=None if spec.guide is None else verified_sha256(spec.guide, "guide"),
    )


def _require_generative(checkpoint: LoadedCheckpoint) -> None:
    if getattr(checkpoint.model, "is_autoencoder", False):
        raise IncompatibleInputs(
            f"the checkpoint is an autoencoder ({checkpoint.info.network}), which draws no images: name it as "
            "'autoencoder', and the model that works behind it as the checkpoint",
            param="base_checkpoint",
        )


def _open_companion(file: FileRef | None, param: str, device: torch.device) -> LoadedCheckpoint | None:
    if file is None:
        return None
    try:
        loaded = open_checkpoint(file, device)
    except EngineError as error:
        error.param = param
        raise
    if (param == "autoencoder") != getattr(loaded.model, "is_autoencoder", False):
        raise InvalidSpec(
            f"{param}: a {loaded.info.network} is not "
            + (
                "an autoencoder: give a VQVAE or an AutoencoderKL"
                if param == "autoencoder"
                else "a model that can guide"
            ),
            param=param,
        )
    return loaded
