"""``python -m ddo_engine encode``: a dataset of images into one of latents, once, before a model of latents trains."""

from collections.abc import Callable
from pathlib import Path

import torch

from ddo_engine.data import load_dataset
from ddo_engine.device import make_deterministic
from ddo_engine.errors import IncompatibleInputs, InvalidSpec
from ddo_engine.families.diffusion.space import Autoencoder
from ddo_engine.latents import encode_to_file
from ddo_engine.loading import load_model
from ddo_engine.log import log
from ddo_engine.spec import DatasetInfo, DatasetReading

_LOG_EVERY = 10_000


def encode(
    source: str | Path, destination: str | Path, autoencoder: str | Path, reading: DatasetReading, device: torch.device
) -> DatasetInfo:
    """Write the latents of a dataset as EDM2's zip.

    Args:
        source: A dataset of images, of any format.
        destination: Where to, in an existing folder; a file that is there is replaced.
        autoencoder: File or folder of an ``AutoencoderKL``.
        reading: What is done to every image before it is encoded.
        device: To encode on.

    Returns:
        What was written.

    Raises:
        InvalidDataset: The dataset cannot be read.
        CorruptCheckpoint: The autoencoder cannot be read.
        IncompatibleInputs: It is none, or does not take the dataset's images.
        InvalidSpec: The destination cannot be written.
        NonFiniteLoss: The autoencoder gives NaN or infinite values.
    """
    make_deterministic()
    model = load_model(autoencoder, device, torch.float32)
    if not isinstance(model, Autoencoder):
        raise IncompatibleInputs(
            f"{Path(autoencoder).name} holds a {type(model).__name__}, not an AutoencoderKL: give the autoencoder that "
            "the model of latents was trained with",
            param="autoencoder",
        )
    dataset = load_dataset(source, reading)
    try:
        encode_to_file(dataset, model, destination, on_progress=_logging(len(dataset)))
    except OSError as error:
        reason = error.strerror or error
        raise InvalidSpec(f"{destination} cannot be written ({reason})", param="destination") from error
    return load_dataset(destination).info


def _logging(num_images: int) -> Callable[[int], None]:
    """Return what logs the progress every ten thousand images."""
    logged = 0

    def on_progress(done: int) -> None:
        nonlocal logged
        if done // _LOG_EVERY > logged:
            logged = done // _LOG_EVERY
            log.info("encoded %d of %d images", done, num_images)

    return on_progress
