"""The networks of this family by the ``class_name`` in a checkpoint's manifest."""

from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter

from ddo_engine.errors import EngineError
from ddo_engine.families.configuration import refusing_what_cannot_be_built, unbuildable
from ddo_engine.families.diffusers.autoencoder import AutoencoderConfig, KLAutoencoder
from ddo_engine.families.diffusers.unet import UNetDenoiser
from ddo_engine.families.diffusers.unet_config import UNetConfig

NetworkConfig = UNetConfig | AutoencoderConfig
_CONFIG: TypeAdapter[NetworkConfig] = TypeAdapter(Annotated[NetworkConfig, Field(discriminator="class_name")])


def build_network(config: dict[str, Any]) -> UNetDenoiser | KLAutoencoder:
    """Return the network that ``config`` describes, randomly initialised.

    Raises:
        CorruptCheckpoint: It describes none that the library has: ``class_name`` is unknown, an argument is missing,
            foreign or out of range, or arguments do not fit together.
        InvalidSpec: The library is not installed.
    """
    with refusing_what_cannot_be_built(tags=("UNet2DModel", "AutoencoderKL", "discrete", "edm")):
        parsed = _CONFIG.validate_python(config)
    with torch.device("meta"):
        _require_runs(parsed)
    return _construct(parsed)


def _require_runs(config: NetworkConfig) -> None:
    """Run the network once without weights: the library checks few of its arguments before."""
    try:
        network = _construct(config)
        image = torch.zeros(1, network.img_channels, network.img_resolution, network.img_resolution)
        if isinstance(network, KLAutoencoder):
            network.reconstruct(network.moments(image)[:, : network.latent_channels])
        else:
            one_hot = torch.zeros(1, network.label_dim) if network.label_dim else None
            network.network(image, torch.ones(1), one_hot, None)
    except EngineError:
        raise
    except (ArithmeticError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise unbuildable("network", str(error)) from error


def _construct(config: NetworkConfig) -> UNetDenoiser | KLAutoencoder:
    return UNetDenoiser(config) if isinstance(config, UNetConfig) else KLAutoencoder(config)
