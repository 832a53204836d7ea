"""The networks that a unit names: the checkpoint, the autoencoder behind it, and what guides and corrects it."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from ddo_engine.checkpoint import LoadedCheckpoint, info_of
from ddo_engine.companions import Companions
from ddo_engine.errors import IncompatibleInputs, InvalidSpec
from ddo_engine.families.discriminator.network import Discriminator
from ddo_engine.inputs import open_checkpoint, verified_sha256
from ddo_engine.spec import DiscriminatorSpec, FileRef, UnitSpec


@dataclass(frozen=True)
class UnitModels:
    """Networks in eval mode, on the unit's device, in float32.

    Attributes:
        checkpoint: What is sampled or trained, its autoencoder attached.
        companions: What else its samples depend on.
    """

    checkpoint: LoadedCheckpoint
    companions: Companions


def open_models(spec: UnitSpec, device: torch.device) -> UnitModels:
    """Load a unit's networks and put them together.

    Raises:
        CorruptCheckpoint: One of them cannot be read.
        IncompatibleInputs: They do not belong together, or the checkpoint is none of a model that draws images.
        InvalidSpec: A file is not the one that the spec means.
    """
    verified_sha256(spec.checkpoint, "checkpoint")
    checkpoint = open_checkpoint(spec.checkpoint, device)
    _require_generative(checkpoint)
    files: dict[str, FileRef | None] = {"autoencoder": spec.autoencoder}
    if not isinstance(spec, DiscriminatorSpec):
        files |= {"guide": spec.guide, "discriminator": spec.discriminator}
    loaded = {name: _open_companion(file, name, device) for name, file in files.items() if file is not None}
    if "autoencoder" in loaded:
        checkpoint.family.attach_autoencoder(checkpoint.model, loaded["autoencoder"].model)
        checkpoint = replace(checkpoint, info=info_of(checkpoint.manifest, checkpoint.model))
    elif checkpoint.info.space != "pixels":
        raise IncompatibleInputs(
            f"the checkpoint works on {checkpoint.info.space}: name the autoencoder that maps them to pixels",
            param="autoencoder",
        )
    if "guide" in loaded:
        _require_same_family(checkpoint, loaded["guide"])
    sha256s = {f"{name}_sha256": verified_sha256(file, name) for name, file in files.items() if file is not None}
    networks: dict[str, nn.Module] = {name: each.model for name, each in loaded.items()}
    return UnitModels(checkpoint, Companions(networks.get("guide"), networks.get("discriminator"), sha256s))


def open_guide(file: FileRef, checkpoint: LoadedCheckpoint, device: torch.device) -> nn.Module:
    """Load a network that guides a checkpoint which is there already.

    Raises:
        CorruptCheckpoint: It cannot be read.
        IncompatibleInputs: It is of another family.
        InvalidSpec: It draws no images, or is not the file that the spec means.
    """
    verified_sha256(file, "guide")
    guide = _open_companion(file, "guide", device)
    _require_same_family(checkpoint, guide)
    return guide.model


def _require_same_family(checkpoint: LoadedCheckpoint, guide: LoadedCheckpoint) -> None:
    if guide.family is not checkpoint.family:
        raise IncompatibleInputs(
            f"the guide is of the family {guide.manifest.family!r}, the checkpoint of "
            f"{checkpoint.manifest.family!r}: choose a guide of the checkpoint's family",
            param="guide",
        )


def _use_of(checkpoint: LoadedCheckpoint) -> Literal["autoencoder", "discriminator", "model"]:
    if getattr(checkpoint.model, "is_autoencoder", False):
        return "autoencoder"
    return "discriminator" if isinstance(checkpoint.model, Discriminator) else "model"


def _require_generative(checkpoint: LoadedCheckpoint) -> None:
    use = _use_of(checkpoint)
    if use != "model":
        what = {
            "autoencoder": ("an autoencoder", "works behind it"),
            "discriminator": ("a discriminator", "it was trained for"),
        }
        is_a, whose = what[use]
        raise IncompatibleInputs(
            f"the checkpoint is {is_a} ({checkpoint.info.network}), which draws no images: name it as '{use}', and the "
            f"model that {whose} as the checkpoint",
            param="base_checkpoint",
        )


def _open_companion(file: FileRef, param: str, device: torch.device) -> LoadedCheckpoint:
    loaded = open_checkpoint(file, device, param)
    use = _use_of(loaded)
    if param == "autoencoder" and use != "autoencoder":
        raise InvalidSpec(
            f"autoencoder: a {loaded.info.network} is not an autoencoder: give a VQVAE or an AutoencoderKL", param=param
        )
    if param == "guide" and use == "autoencoder":
        raise InvalidSpec(
            f"guide: a {loaded.info.network} is an autoencoder, which cannot guide: give a model of the checkpoint's "
            "family, or leave the guide out",
            param=param,
        )
    if param == "discriminator" and use != "discriminator":
        raise InvalidSpec(
            f"discriminator: a {loaded.info.network} is none: give what a unit 'discriminator' has written", param=param
        )
    return loaded
