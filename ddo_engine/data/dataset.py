"""Datasets as the rest of the engine sees them: labelled images that are read in batches.

Small sets lie in memory; of larger ones an index does, and items are decoded when a batch asks for them. Both give the
same batches. N images, B of them in a batch, C channels, H height, W width; latents have 2C channels: C means, then C
standard deviations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ddo_engine.data.items import Item, Items
from ddo_engine.data.transform import Place
from ddo_engine.errors import InvalidDataset
from ddo_engine.families.protocol import LabelledImages
from ddo_engine.spec import DatasetInfo


class ImageDataset(Protocol):
    """Labelled images, or moments of their latents, in a fixed order."""

    def __len__(self) -> int:
        """Return the number of images."""

    @property
    def info(self) -> DatasetInfo:
        """Kind, size, shape and class frequencies; a class without an image below the highest counts 0."""

    @property
    def labels_N(self) -> Tensor | None:
        """Class indices, int64, shape (N,); None for an unlabelled dataset."""

    def batch(self, indices: Tensor | Sequence[int]) -> LabelledImages:
        """Return images and labels at ``indices``, in that order, repeats included.

        Args:
            indices: 0 … N − 1.

        Returns:
            Images uint8 of shape (B, C, H, W), or moments of latents float32 of shape (B, 2C, H, W).
        """


@dataclass(frozen=True)
class InMemoryDataset:
    """All items in main memory: N·C·H·W bytes (CIFAR-10 154 MB, ImageNet-64 16 GB), 8 times as many for latents.

    Attributes:
        images_NCHW: uint8 pixels, or float32 moments with 2C channels.
        labels_N: int64 class indices, or None for an unlabelled dataset.
    """

    images_NCHW: Tensor
    labels_N: Tensor | None

    def __len__(self) -> int:
        return self.images_NCHW.shape[0]

    @cached_property
    def info(self) -> DatasetInfo:
        """What the dataset is."""
        return _info(tuple(self.images_NCHW.shape), self.images_NCHW.dtype == torch.uint8, self.labels_N)

    def batch(self, indices: Tensor | Sequence[int]) -> LabelledImages:
        """Return the images and labels at ``indices``."""
        index_B = torch.as_tensor(indices, dtype=torch.int64)
        return LabelledImages(self.images_NCHW[index_B], _at(self.labels_N, index_B))


@dataclass(frozen=True)
class OnDemandDataset:
    """Items that stay where they are until a batch asks for them.

    Attributes:
        items: All of one shape, which is only known of those that were read.
        first: The first of them: what the others must be like.
    """

    items: Items
    first: Item

    def __len__(self) -> int:
        return len(self.items)

    @property
    def labels_N(self) -> Tensor | None:
        """Class indices."""
        return self.items.labels.labels_N

    @cached_property
    def info(self) -> DatasetInfo:
        """What the dataset is."""
        return _info((len(self), *self.first.shape), self.first.dtype == np.uint8, self.labels_N)

    def batch(self, indices: Tensor | Sequence[int], places_B: Sequence[Place | None] | None = None) -> LabelledImages:
        """Decode the images at ``indices``.

        Args:
            indices: 0 … N − 1.
            places_B: Where to cut each of them, as in :func:`ddo_engine.data.transform.transformed`.

        Raises:
            InvalidDataset: One of them is damaged, or not like the first.
        """
        index_B = torch.as_tensor(indices, dtype=torch.int64)
        images_BCHW = np.empty((len(index_B), *self.first.shape), self.first.dtype)
        for row, (index, place) in enumerate(zip(index_B.tolist(), places_B or [None] * len(index_B), strict=True)):
            images_BCHW[row] = read_like(self.items, index, self.first, place)
        return LabelledImages(torch.from_numpy(images_BCHW), _at(self.labels_N, index_B))


@dataclass(frozen=True)
class ChainedDataset:
    """Several datasets one after the other.

    Attributes:
        parts: All of one kind and shape, all or none with labels.
    """

    parts: tuple[ImageDataset, ...]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @cached_property
    def labels_N(self) -> Tensor | None:
        """Class indices."""
        labels = [part.labels_N for part in self.parts if part.labels_N is not None]
        return torch.cat(labels) if labels else None

    @cached_property
    def info(self) -> DatasetInfo:
        """What the whole is."""
        info = self.parts[0].info
        return info.model_copy(update={"num_images": len(self), "class_counts": _counts(self.labels_N)})

    def batch(self, indices: Tensor | Sequence[int]) -> LabelledImages:
        """Gather the images at ``indices`` from the parts."""
        index_B = torch.as_tensor(indices, dtype=torch.int64)
        ends_P = torch.tensor([len(part) for part in self.parts]).cumsum(0)
        part_B = torch.bucketize(index_B, ends_P, right=True)
        rows: list[Tensor] = []
        for index, part in zip(index_B.tolist(), part_B.tolist(), strict=True):
            start = int(ends_P[part - 1]) if part else 0
            rows.append(self.parts[part].batch([index - start]).images_BCHW)
        return LabelledImages(torch.cat(rows), _at(self.labels_N, index_B))


def read_like(items: Items, index: int, first: Item, place: Place | None = None) -> Item:
    """Read an item that must have the shape of the first.

    Raises:
        InvalidDataset: It has another, or is damaged.
    """
    item = items.read(index, place)
    if item.shape != first.shape:
        raise InvalidDataset(
            f"{items.name(index)!r} is {shape_in_words(item)} but {items.name(0)!r} is {shape_in_words(first)}: make "
            "all images alike, or set dataset.transform and dataset.resolution (dataset.convert for colours)"
        )
    return item


def shape_in_words(item: Item) -> str:
    """Return the size of an item as a person writes it."""
    channels, height, width = item.shape
    return f"{width}x{height} with {channels} channel{'s' if channels > 1 else ''}"


def _info(shape: tuple[int, ...], is_pixels: bool, labels_N: Tensor | None) -> DatasetInfo:
    num_images, channels, height, _ = shape
    return DatasetInfo(
        kind="images" if is_pixels else "latents",
        num_images=num_images,
        img_resolution=height,
        img_channels=channels if is_pixels else channels // 2,
        class_counts=_counts(labels_N),
    )


def _counts(labels_N: Tensor | None) -> tuple[int, ...]:
    return () if labels_N is None else tuple(torch.bincount(labels_N).tolist())


def _at(labels_N: Tensor | None, index_B: Tensor) -> Tensor | None:
    return None if labels_N is None else labels_N[index_B]
