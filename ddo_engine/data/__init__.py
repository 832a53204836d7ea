"""Image datasets in EDM's zip format: read strictly, written to the byte the same way every time."""

from ddo_engine.data.dataset import ImageDataset
from ddo_engine.data.grey_levels import grey_values, has_grey_levels, round_to_grey_levels
from ddo_engine.data.reader import DatasetLimits, load_dataset
from ddo_engine.data.writer import write_dataset

__all__ = [
    "DatasetLimits",
    "ImageDataset",
    "grey_values",
    "has_grey_levels",
    "load_dataset",
    "round_to_grey_levels",
    "write_dataset",
]
