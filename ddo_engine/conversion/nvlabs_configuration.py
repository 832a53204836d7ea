"""What network an NVlabs pickle holds: the family, the constructor's arguments, and how its latents are scaled."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ddo_engine.conversion.nvlabs_pickle import NVlabsPickle, PersistentObject
from ddo_engine.conversion.refusal import damaged
from ddo_engine.errors import CorruptCheckpoint
from ddo_engine.families.diffusion.space import LatentScaling

_FAMILIES = {"EDMPrecond": "edm", "Precond": "edm2"}
_POSITIONS = {
    "EDMPrecond": (
        *("img_resolution", "img_channels", "label_dim", "use_fp16", "sigma_min", "sigma_max", "sigma_data"),
        "model_type",
    ),
    "Precond": ("img_resolution", "img_channels", "label_dim", "use_fp16", "sigma_data", "logvar_channels"),
}
_REPEATED = ("img_resolution", "img_channels", "label_dim", "use_fp16", "sigma_data")
_OTHER_PRECONDITIONING = ("VPPrecond", "VEPrecond", "iDDPMPrecond")
_SIGMA_RANGE = {"sigma_min": 0, "sigma_max": "inf"}
_STABILITY_SCALING = LatentScaling(
    raw_mean=(5.81, 3.25, 0.12, -2.15), raw_std=(4.17, 4.62, 3.71, 3.28), final_mean=0.0, final_std=0.5
)


def network_of(pickle: NVlabsPickle, path: Path) -> tuple[str, dict[str, Any]]:
    """Return the family's name and the network's configuration, official names throughout.

    Raises:
        CorruptCheckpoint: The network is of a class that no family has, or the file contradicts itself.
    """
    class_name = pickle.network.class_name
    if class_name in _OTHER_PRECONDITIONING:
        raise CorruptCheckpoint(
            f"{path.name} holds a {class_name}: the loss and the samplers here are those of EDM's preconditioning, "
            "under which this network was not trained; use a checkpoint of the class EDMPrecond, such as "
            "edm-cifar10-32x32-uncond-vp.pkl (whose 'vp' is its architecture)"
        )
    if class_name not in _FAMILIES:
        raise CorruptCheckpoint(
            f"{path.name} holds a network of the class {class_name[:80]!r}; known are {' and '.join(_FAMILIES)}"
        )
    arguments = _arguments(pickle.network, path)
    if class_name == "EDMPrecond":
        # The default was never written to a file, but the network that it led to was.
        arguments.setdefault("model_type", pickle.inner_class_names.get("model"))
        if arguments["model_type"] != pickle.inner_class_names.get("model"):
            raise damaged(path.name, "its model_type is not the class of its network")
    _drop_sigma_range(arguments, path)
    for name in _REPEATED:
        attribute = pickle.network.attributes.get(name)
        if attribute is not None and arguments.setdefault(name, attribute) != attribute:
            raise damaged(path.name, f"its network was constructed with another {name} than it has")
    return _FAMILIES[class_name], {"class_name": class_name, **arguments}


def latent_scaling_of(pickle: NVlabsPickle, path: Path) -> LatentScaling | None:
    """Return how the network's latents follow from the autoencoder's; None for a network of pixels.

    Raises:
        CorruptCheckpoint: The encoder is of an unknown class, or does not say its scaling.
    """
    encoder = pickle.encoder
    if encoder is None or encoder.class_name == "StandardRGBEncoder":
        return None
    if encoder.class_name != "StabilityVAEEncoder":
        raise CorruptCheckpoint(
            f"{path.name} works behind an encoder of the class {encoder.class_name[:80]!r}; "
            "known are StandardRGBEncoder (pixels) and StabilityVAEEncoder (latents)"
        )
    given = {name: value for name, value in encoder.keyword_arguments.items() if name in LatentScaling.model_fields}
    try:
        named = LatentScaling.model_validate({**_STABILITY_SCALING.model_dump(), **given})
        scale, bias = encoder.attributes.get("scale"), encoder.attributes.get("bias")
        if scale is None or bias is None or _agrees(named, scale, bias):
            return named
        # scale = final_std / raw_std and bias = final_mean - raw_mean scale leave two of the four open.
        return LatentScaling(
            raw_mean=tuple(-shift / factor for shift, factor in zip(bias, scale, strict=True)),
            raw_std=tuple(named.final_std / factor for factor in scale),
            final_mean=0.0,
            final_std=named.final_std,
        )
    except (TypeError, ValueError, ArithmeticError) as error:
        raise damaged(path.name, f"its encoder does not say how latents are scaled ({error})") from error


def _arguments(network: PersistentObject, path: Path) -> dict[str, Any]:
    names = _POSITIONS[network.class_name]
    if len(network.positional_arguments) > len(names):
        raise damaged(path.name, "its network was constructed with more positional arguments than its class takes")
    positional = dict(zip(names, network.positional_arguments, strict=False))
    if twice := positional.keys() & network.keyword_arguments.keys():
        raise damaged(path.name, f"its network was given {', '.join(sorted(twice))} twice")
    return {**positional, **network.keyword_arguments}


def _drop_sigma_range(arguments: dict[str, Any], path: Path) -> None:
    for name, default in _SIGMA_RANGE.items():
        if arguments.pop(name, default) != default:
            raise CorruptCheckpoint(
                f"{path.name} limits {name}, which only samplers of other preconditionings look at; no published EDM "
                "checkpoint does"
            )


def _agrees(scaling: LatentScaling, scale: Any, bias: Any) -> bool:
    """Say whether the encoder's arrays are those that its nominal constants lead to, in float32."""
    raw_mean, raw_std = torch.tensor(scaling.raw_mean), torch.tensor(scaling.raw_std)
    expected_scale = scaling.final_std / raw_std
    expected_bias = scaling.final_mean - raw_mean * expected_scale
    stored_scale, stored_bias = torch.tensor(scale), torch.tensor(bias)
    return (
        stored_scale.shape == stored_bias.shape == expected_scale.shape
        and torch.allclose(stored_scale, expected_scale, rtol=1e-6, atol=0)
        and torch.allclose(stored_bias, expected_bias, rtol=1e-6, atol=1e-7)
    )


def origin_of(pickle: NVlabsPickle) -> Mapping[str, Any]:
    """Return what the pickle says about how the network came about, for the manifest's provenance."""
    origin: dict[str, Any] = {"dataset_kwargs": pickle.dataset_kwargs}
    if pickle.encoder is not None:
        encoder = pickle.encoder
        origin["encoder"] = {
            "class_name": encoder.class_name,
            **encoder.keyword_arguments,
            **encoder.attributes,
        }
    return origin
