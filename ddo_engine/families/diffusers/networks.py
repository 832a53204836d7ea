"""The networks of this family by the ``class_name`` in a checkpoint's manifest."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError

from ddo_engine.errors import CorruptCheckpoint, EngineError
from ddo_engine.families.diffusers.autoencoder import AutoencoderConfig, KLAutoencoder
from ddo_engine.families.diffusers.unet import UNetDenoiser
from ddo_engine.families.diffusers.unet_config import UNetConfig

NetworkConfig = UNetConfig | AutoencoderConfig
_CONFIG: TypeAdapter[NetworkConfig] = TypeAdapter(Annotated[NetworkConfig, Field(discriminator="class_name")])


def parse_config(config: dict[str, Any]) -> NetworkConfig:
    """Check the configuration in a manifest.

    Raises:
        CorruptCheckpoint: ``class_name`` is unknown, or an argument is missing, foreign or out of range.
    """
    try:
        return _CONFIG.validate_python(config)
    except ValidationError as error:
        first = error.errors()[0]
        # pydantic puts the class name, and the kind of timesteps, where it found an error; the manifest has neither.
        parts = [part for part in first["loc"] if part not in ("UNet2DModel", "AutoencoderKL", "discrete", "edm")]
        where = ".".join(str(part) for part in ("network", *parts))
        raise _unbuildable(where, first["msg"]) from error


def build_network(config: dict[str, Any]) -> UNetDenoiser | KLAutoencoder:
    """Return the network that ``config`` describes, randomly initialised.

    Raises:
        CorruptCheckpoint: It describes none that the library has.
        InvalidSpec: The library is not installed.
    """
    parsed = parse_config(config)
    with torch.device("meta"), _blaming_the_manifest():
        _call_once(_construct(parsed))
    return _construct(parsed)


def _construct(config: NetworkConfig) -> UNetDenoiser | KLAutoencoder:
    return UNetDenoiser(config) if isinstance(config, UNetConfig) else KLAutoencoder(config)


def _call_once(network: UNetDenoiser | KLAutoencoder) -> None:
    """Run a network without weights: the library checks few of its arguments before."""
    image = torch.zeros(1, network.img_channels, network.img_resolution, network.img_resolution)
    if isinstance(network, KLAutoencoder):
        network.reconstruct(network.moments(image)[:, : network.latent_channels])
        return
    one_hot = torch.zeros(1, network.label_dim) if network.label_dim else None
    network.network(image, torch.ones(1), one_hot, None)


@contextmanager
def _blaming_the_manifest() -> Iterator[None]:
    try:
        yield
    except EngineError:
        raise
    except (ArithmeticError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise _unbuildable("network", str(error)) from error


def _unbuildable(where: str, reason: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f"the checkpoint's manifest describes a network that cannot be built: {where}: {reason}; "
        "correct the manifest's 'network' and save the checkpoint again",
        param=where,
    )
