"""Load a dataset: strictly (the first thing that is wrong is named, nothing is skipped) and within bounds."""

import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from ddo_engine.data.dataset import ImageDataset, InMemoryDataset, OnDemandDataset, read_like, shape_in_words
from ddo_engine.data.formats import open_items
from ddo_engine.data.items import Item, Items
from ddo_engine.data.limits import DEFAULT_LIMITS, DEFAULT_MAX_MEMORY_BYTES, DatasetLimits
from ddo_engine.errors import InvalidDataset
from ddo_engine.spec import IMAGES_AS_STORED, DatasetReading


def load_dataset(
    path: str | Path,
    reading: DatasetReading = IMAGES_AS_STORED,
    *,
    limits: DatasetLimits = DEFAULT_LIMITS,
    max_memory_bytes: int = DEFAULT_MAX_MEMORY_BYTES,
) -> ImageDataset:
    """Read a dataset of any format of ``docs/datasets.md``, which is told by its content.

    Args:
        path: A zip, npz or tar file, or a folder. Nothing is extracted, executed or unpickled.
        reading: Crop, size and colours; by default images must be square and all alike.
        limits: What a dataset may ask for before it is refused.
        max_memory_bytes: A set that is larger when decoded is decoded on demand: then each image is judged when a
            batch asks for it, not here.

    Raises:
        InvalidDataset: Something in the dataset is not as documented, damaged, or beyond ``limits``; the message names
            the first offending file and says what to do.
    """
    dataset = open_on_demand(path, reading, limits=limits, max_memory_bytes=max_memory_bytes)
    items, first = dataset.items, dataset.first
    needed = len(items) * first.nbytes
    if needed > limits.max_decoded_bytes:
        raise InvalidDataset(
            f"{len(items):,} images of {shape_in_words(first)} are {needed:,} bytes of memory if decoded; at most "
            f"{limits.max_decoded_bytes:,} are read: use fewer or smaller images"
        )
    if needed > max_memory_bytes:
        return dataset
    images_NCHW = np.empty((len(items), *first.shape), first.dtype)
    for index in range(len(items)):
        images_NCHW[index] = read_like(items, index, first)
    return InMemoryDataset(torch.from_numpy(images_NCHW), items.labels.labels_N)


def open_on_demand(
    path: str | Path,
    reading: DatasetReading = IMAGES_AS_STORED,
    *,
    limits: DatasetLimits = DEFAULT_LIMITS,
    max_memory_bytes: int = DEFAULT_MAX_MEMORY_BYTES,
) -> OnDemandDataset:
    """Index a dataset whose items are decoded when a batch asks for them, however few they are.

    Args:
        path: As for :func:`load_dataset`.
        reading: As there.
        limits: As there.
        max_memory_bytes: Of what has to be inflated at once.

    Raises:
        InvalidDataset: The dataset, or its first item, is not as documented; the others were not looked at.
    """
    items = open_or_refuse(Path(path), reading, limits, max_memory_bytes)
    first = items.read(0)
    _check_first(items, first, reading)
    return OnDemandDataset(items, first)


def open_or_refuse(path: Path, reading: DatasetReading, limits: DatasetLimits, max_memory_bytes: int) -> Items:
    """Index a dataset; whatever keeps it from being read is an error of the dataset.

    Raises:
        InvalidDataset: See :func:`load_dataset`.
    """
    try:
        return open_items(path, reading, limits, max_memory_bytes)
    except FileNotFoundError as error:
        raise InvalidDataset(f"{path.name}: no such file") from error
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise InvalidDataset(f"{path.name} cannot be read ({error}): write or upload it again") from error


def _check_first(items: Items, first: Item, reading: DatasetReading) -> None:
    _, height, width = first.shape
    if height != width:
        raise InvalidDataset(
            f"{items.name(0)!r} is {width}x{height}: images must be square, crop or resize them, or set "
            "dataset.transform and dataset.resolution"
        )
    if first.dtype != np.uint8 and reading != IMAGES_AS_STORED:
        raise InvalidDataset("latents are not cropped, resized or converted: set dataset.transform for images only")
    if reading.resolution not in (None, height):
        raise InvalidDataset(
            f"{items.name(0)!r} is {width}x{height}, dataset.resolution is {reading.resolution}: set dataset.transform "
            "to resize images, or leave the resolution out"
        )
