"""Datasets of pixels into datasets of latent moments, which models of latents train on.

Every image is encoded once, to the mean and the standard deviation of its latent, and kept in EDM2's format; training
draws a new latent of it every time. Generated images are encoded by the same function from the uint8 pixels that they
were decoded to, or a discriminator would learn the difference between the two ways.

Shapes: B batch, N images, C image channels, c latent channels, h and w latent height and width.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ddo_engine.data import ImageDataset, InMemoryDataset, load_dataset
from ddo_engine.data.writer import write_latents_in_batches
from ddo_engine.errors import IncompatibleInputs, InvalidDataset, NonFiniteLoss
from ddo_engine.families.diffusion.space import Autoencoder
from ddo_engine.spec import DatasetInfo

ENCODING_VERSION = 1  # of the code in this file, in the names of cached files
BATCH_SIZE = 64  # images read at a time; results do not depend on it

OnProgress = Callable[[int], None]


def encode_dataset(
    dataset: ImageDataset,
    autoencoder: Autoencoder,
    *,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> InMemoryDataset:
    """Return the moments of a dataset's latents, with its labels, in main memory.

    Args:
        dataset: Of uint8 images.
        autoencoder: From :func:`ddo_engine.load_model`, on the device to compute on.
        batch_size: Images read at a time; results do not depend on it.
        on_progress: Called with the number of encoded images after every batch.

    Returns:
        Moments, float32 of shape (N, 2c, h, w), and labels.

    Raises:
        IncompatibleInputs: The dataset holds latents, or images that the autoencoder does not take.
        NonFiniteLoss: A moment is NaN or infinite.
    """
    batches = list(_encoded(dataset, autoencoder, batch_size, on_progress))
    return InMemoryDataset(torch.cat(batches), dataset.labels_N)


def encode_to_file(
    dataset: ImageDataset,
    autoencoder: Autoencoder,
    path: str | Path,
    *,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> None:
    """Write the moments of a dataset's latents as EDM2's zip, with one batch of them in memory at a time.

    Args:
        dataset: Of uint8 images.
        autoencoder: As for :func:`encode_dataset`.
        path: Replaced atomically.
        batch_size: As there.
        on_progress: As there.

    Raises:
        IncompatibleInputs: As there.
        NonFiniteLoss: As there.
    """
    batches = _encoded(dataset, autoencoder, batch_size, on_progress)
    write_latents_in_batches(path, batches, len(dataset), dataset.labels_N)


def cached_latents(
    dataset: ImageDataset,
    autoencoder: Autoencoder,
    *,
    dataset_name: str,
    autoencoder_sha256: str,
    cache_folder: Path,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> ImageDataset:
    """Return the moments of a dataset's latents from a file in a cache, which is written where it is not there.

    Args:
        dataset: Of uint8 images.
        autoencoder: As for :func:`encode_dataset`.
        dataset_name: Names the images: their file's SHA-256, and what was done to them.
        autoencoder_sha256: Of its file.
        cache_folder: Made if missing.
        batch_size: As there.
        on_progress: As there; not called where the file is there.

    Raises:
        IncompatibleInputs: As there.
        NonFiniteLoss: As there.
    """
    device_type = next(cast("nn.Module", autoencoder).parameters()).device.type
    key = f"{ENCODING_VERSION}:{dataset_name}:{autoencoder_sha256}:{device_type}"
    path = cache_folder / "latents" / f"{hashlib.sha256(key.encode()).hexdigest()}.zip"
    cached = _read(path, dataset.info)
    if cached is not None:
        return cached
    path.parent.mkdir(parents=True, exist_ok=True)
    encode_to_file(dataset, autoencoder, path, batch_size=batch_size, on_progress=on_progress)
    return load_dataset(path)


def check_can_be_encoded(dataset: DatasetInfo, autoencoder: Autoencoder) -> None:
    """Refuse images that an autoencoder does not take.

    Raises:
        IncompatibleInputs: They are latents, of another number of channels, or of a size that it cannot halve so often.
    """
    if dataset.kind != "images":
        raise IncompatibleInputs("the dataset holds latents: encode a dataset of images", param="dataset")
    if dataset.img_channels != autoencoder.img_channels:
        raise IncompatibleInputs(
            f"the dataset has images of {dataset.img_channels} channels, the autoencoder takes "
            f"{autoencoder.img_channels}: set dataset.convert, or give another autoencoder",
            param="autoencoder",
        )
    if dataset.img_resolution % autoencoder.downsampling:
        raise IncompatibleInputs(
            f"the dataset's images are {dataset.img_resolution} pixels a side, which the autoencoder cannot divide by "
            f"{autoencoder.downsampling}: resize them",
            param="dataset",
        )


def _encoded(
    dataset: ImageDataset, autoencoder: Autoencoder, batch_size: int, on_progress: OnProgress | None
) -> Iterator[Tensor]:
    check_can_be_encoded(dataset.info, autoencoder)
    for start in range(0, len(dataset), batch_size):
        stop = min(start + batch_size, len(dataset))
        moments = autoencoder.encode_moments(dataset.batch(range(start, stop)).images_BCHW).cpu()
        # Laid out as a file of them is read: another layout in memory makes another order of sums in the network.
        moments = moments.contiguous()
        if not bool(torch.isfinite(moments).all()):
            raise NonFiniteLoss(
                f"the autoencoder's latents of images {start} … {stop - 1} hold NaN or infinite values: its weights "
                "are not those of a working autoencoder",
                param="autoencoder",
            )
        yield moments
        if on_progress is not None:
            on_progress(stop)


def _read(path: Path, images: DatasetInfo) -> ImageDataset | None:
    """Return None where the file is missing or damaged: it is a cache, and is computed and written again."""
    try:
        cached = load_dataset(path)
    except InvalidDataset:
        return None
    return cached if cached.info.kind == "latents" and len(cached) == images.num_images else None
