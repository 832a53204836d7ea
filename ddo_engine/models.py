"""The networks that a unit names: the checkpoint, the autoencoder behind it, and the network that guides it."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from ddo_engine.checkpoint import LoadedCheckpoint, info_of
from ddo_engine.companions import Companions
from ddo_engine.errors import IncompatibleInputs, InvalidSpec
from ddo_engine.inputs import open_checkpoint, verified_sha256
from ddo_engine.spec import EvaluateSpec, FileRef, GenerateSpec, TrainSpec, ValidateSpec


@dataclass(frozen=True)
class UnitModels:
    """Networks in eval mode, on the unit's device, in float32.

    Attributes:
        checkpoint: What is sampled or trained, its autoencoder attached.
        companions: What else its samples depend on.
    """

    checkpoint: LoadedCheckpoint
    companions: Companions

    @property
    def guide(self) -> nn.Module | None:
        """What guides samples; None without."""
        return self.companions.guide


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
    files = {"autoencoder": spec.autoencoder, "guide": spec.guide}
    sha256s = {f"{name}_sha256": verified_sha256(file, name) for name, file in files.items() if file is not None}
    return UnitModels(checkpoint, Companions(None if guide is None else guide.model, sha256s))


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
    loaded = open_checkpoint(file, device, param)
    is_autoencoder = getattr(loaded.model, "is_autoencoder", False)
    if param == "autoencoder" and not is_autoencoder:
        raise InvalidSpec(
            f"autoencoder: a {loaded.info.network} is not an autoencoder: give a VQVAE or an AutoencoderKL", param=param
        )
    if param == "guide" and is_autoencoder:
        raise InvalidSpec(
            f"guide: a {loaded.info.network} is an autoencoder, which cannot guide: give a model of the checkpoint's "
            "family, or leave the guide out",
            param=param,
        )
    return loaded
