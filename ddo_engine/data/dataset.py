"""A dataset in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ddo_engine.families.protocol import LabelledImages
from ddo_engine.spec import DatasetInfo


@dataclass(frozen=True)
class ImageDataset:
    """All images of a dataset as uint8 in main memory: N·C·H·W bytes (CIFAR-10 154 MB, ImageNet-64 16 GB).

    Attributes:
        images_NCHW: uint8, in the order of the sorted file names.
        labels_N: int64 class indices, or None for an unlabelled dataset.
    """

    images_NCHW: Tensor
    labels_N: Tensor | None

    def __len__(self) -> int:
        return self.images_NCHW.shape[0]

    @cached_property
    def info(self) -> DatasetInfo:
        """Size, shape and class frequencies; a class that has no image but lies below the highest counts 0."""
        num_images, channels, height, _ = self.images_NCHW.shape
        counts = () if self.labels_N is None else tuple(torch.bincount(self.labels_N).tolist())
        return DatasetInfo(num_images=num_images, img_resolution=height, img_channels=channels, class_counts=counts)

    def batch(self, indices: Tensor | Sequence[int]) -> LabelledImages:
        """Return the images and labels at ``indices``, in that order, repeats included."""
        index_B = torch.as_tensor(indices, dtype=torch.int64)
        labels_B = None if self.labels_N is None else self.labels_N[index_B]
        return LabelledImages(self.images_NCHW[index_B], labels_B)
