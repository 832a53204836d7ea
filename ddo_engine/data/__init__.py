"""Datasets: image files, arrays and latents in the formats of docs/datasets.md, read strictly and within bounds."""

from ddo_engine.data.dataset import ChainedDataset, ImageDataset, InMemoryDataset, OnDemandDataset
from ddo_engine.data.grey_levels import grey_values, has_grey_levels, round_to_grey_levels
from ddo_engine.data.limits import DatasetLimits
from ddo_engine.data.reader import load_dataset, open_on_demand
from ddo_engine.data.report import DatasetReport, inspect_dataset
from ddo_engine.data.writer import write_dataset, write_latents

__all__ = [
    "ChainedDataset",
    "DatasetLimits",
    "DatasetReport",
    "ImageDataset",
    "InMemoryDataset",
    "OnDemandDataset",
    "grey_values",
    "has_grey_levels",
    "inspect_dataset",
    "load_dataset",
    "open_on_demand",
    "round_to_grey_levels",
    "write_dataset",
    "write_latents",
]
