"""What a dataset is, for people and programs who look at one before they use it."""

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from ddo_engine.data.grey_levels import has_grey_levels
from ddo_engine.data.items import DatasetFormat, Items
from ddo_engine.data.limits import DEFAULT_LIMITS, DEFAULT_MAX_MEMORY_BYTES, DatasetLimits
from ddo_engine.data.reader import open_or_refuse
from ddo_engine.files import sha256_of_tree, size_of_tree
from ddo_engine.spec import IMAGES_AS_STORED, DatasetReading, Settings, Sha256

MAX_INSPECTED = 10_000


class DatasetReport(Settings):
    """Result of inspecting a dataset."""

    path: str
    format: DatasetFormat
    kind: Literal["images", "latents"]
    num_images: int
    smallest: str = Field(description="Width x height of the smallest image that was looked at.")
    largest: str
    img_channels: tuple[int, ...] = Field(description="Every number of channels that occurs; of latents, their means.")
    num_inspected: int = Field(description="Items that were decoded, evenly spread; all of a small dataset.")
    grey_levels: int | None = Field(
        description="Fewest equally spaced levels that hold all pixel values: what dataset.grey_levels may be set to."
    )
    num_pixel_values: int | None = Field(description="Different pixel values, at most 256.")
    num_classes: int = Field(description="Highest class plus one; 0 without labels.")
    class_counts: dict[str, int] = Field(
        description="Images per class in order of the index, under the name of its folder or else the index."
    )
    size_bytes: int
    sha256: Sha256 | None = None


def inspect_dataset(
    path: str | Path,
    reading: DatasetReading = IMAGES_AS_STORED,
    *,
    limits: DatasetLimits = DEFAULT_LIMITS,
    with_sha256: bool = False,
) -> DatasetReport:
    """Describe a dataset: all of its index, and the pixels of up to ``MAX_INSPECTED`` images.

    Unlike :func:`ddo_engine.data.load_dataset` it takes images of differing sizes, and says which.

    Args:
        path: A file or folder of any format.
        reading: What to do to images before they are described.
        limits: Bounds.
        with_sha256: Read the whole file once more to hash it.

    Raises:
        InvalidDataset: It is of no known format, or damaged.
    """
    path = Path(path)
    items = open_or_refuse(path, reading, limits, DEFAULT_MAX_MEMORY_BYTES)
    indices = np.unique(np.linspace(0, len(items) - 1, min(len(items), MAX_INSPECTED)).round().astype(int)).tolist()
    shapes: set[tuple[int, ...]] = set()
    histogram_V = np.zeros(256, np.int64)
    kind: Literal["images", "latents"] = "images"
    for index in indices:
        item = items.read(index)
        shapes.add(item.shape)
        if item.dtype == np.uint8:
            histogram_V += np.bincount(item.reshape(-1), minlength=256)
        else:
            kind = "latents"
    sizes = sorted({(width, height) for _, height, width in shapes}, key=lambda size: (size[0] * size[1], size))
    class_counts = _class_counts(items)
    return DatasetReport(
        path=str(path),
        format=items.format,
        kind=kind,
        num_images=len(items),
        smallest="{}x{}".format(*sizes[0]),
        largest="{}x{}".format(*sizes[-1]),
        img_channels=tuple(sorted({channels // (1 if kind == "images" else 2) for channels, _, _ in shapes})),
        num_inspected=len(indices),
        grey_levels=_fewest_grey_levels(histogram_V) if kind == "images" else None,
        num_pixel_values=int((histogram_V > 0).sum()) if kind == "images" else None,
        num_classes=len(class_counts),
        class_counts=class_counts,
        size_bytes=size_of_tree(path),
        sha256=sha256_of_tree(path) if with_sha256 else None,
    )


def _class_counts(items: Items) -> dict[str, int]:
    labels_N, names = items.labels.labels_N, items.labels.class_names
    counts = [] if labels_N is None else torch.bincount(labels_N).tolist()
    return {names[index] if names else str(index): count for index, count in enumerate(counts)}


def _fewest_grey_levels(histogram_V: npt.NDArray[np.int64]) -> int:
    values = torch.from_numpy(np.flatnonzero(histogram_V).astype(np.uint8))
    return next(levels for levels in range(2, 257) if has_grey_levels(values, levels))
