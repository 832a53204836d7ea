"""Which images a step sees: epochs of permutations, each a pure function of (seed, stream, epoch)."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ddo_engine.data import ChainedDataset, ImageDataset, InMemoryDataset, OnDemandDataset
from ddo_engine.data.transform import Place
from ddo_engine.families.protocol import BatchPart, LabelledImages
from ddo_engine.randomness import generator_for

_CPU = torch.device("cpu")


@dataclass
class DataOrder:
    """Every image once per epoch, in an order that depends on seed, stream and epoch alone.

    Batches run across epoch borders, so that all have the same size.

    Attributes:
        num_images: Size of the dataset.
        seed: The run's seed.
        stream: Name of the data source; real and fake images have streams of their own.
    """

    num_images: int
    seed: int
    stream: str
    _permutations: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    def indices(self, step: int, batch_size: int) -> Tensor:
        """Return the image indices of one step (0-based). Shape (batch_size,), int64, on the CPU."""
        first, last = step * batch_size, (step + 1) * batch_size - 1
        epochs = range(first // self.num_images, last // self.num_images + 1)
        self._permutations = {epoch: self._permutation(epoch) for epoch in epochs}
        offset = first - epochs.start * self.num_images
        return torch.cat(list(self._permutations.values()))[offset : offset + batch_size]

    def _permutation(self, epoch: int) -> Tensor:
        known = self._permutations.get(epoch)
        if known is not None:
            return known
        return torch.randperm(self.num_images, generator=generator_for(_CPU, self.seed, f"order/{self.stream}", epoch))


@dataclass(frozen=True)
class BatchSource:
    """Batches of one dataset, on the device that trains.

    Attributes:
        dataset: Where images come from.
        order: In which order.
        batch_size: Images per step.
        device: Where they go.
    """

    dataset: ImageDataset
    order: DataOrder
    batch_size: int
    device: torch.device

    def batch(self, step: int, rows: range) -> LabelledImages:
        """Return these rows of the batch of one step (0-based)."""
        indices = self.order.indices(step, self.batch_size)[rows.start : rows.stop]
        part = BatchPart(rows.start, len(rows), self.batch_size)
        return replace(self._read(indices, step, part).to(self.device), part=part)

    def _read(self, indices: Tensor, step: int, part: BatchPart) -> LabelledImages:
        return self.dataset.batch(indices)


@dataclass(frozen=True)
class RandomCrops(BatchSource):
    """Batches of images that are cut out at another place each time: a function of (seed, step, row).

    Attributes:
        dataset: Of the transform that cuts at places.
        seed: The run's seed.
    """

    dataset: OnDemandDataset
    seed: int

    def _read(self, indices: Tensor, step: int, part: BatchPart) -> LabelledImages:
        generator = generator_for(_CPU, self.seed, "crop", step)
        places_B2 = torch.rand(part.batch_size, 2, dtype=torch.float64, generator=generator)
        return self.dataset.batch(indices, [Place(*place) for place in part.rows_of(places_B2).tolist()])


def concatenated(datasets: list[ImageDataset]) -> ImageDataset:
    """Return one dataset of the images of several, in order.

    Raises:
        ValueError: They differ in shape, or only some have labels.
    """
    infos = [dataset.info for dataset in datasets]
    if len({(info.kind, info.img_resolution, info.img_channels, not info.class_counts) for info in infos}) != 1:
        raise ValueError("the parts differ in the shape of their images, or in whether these have labels")
    if not all(isinstance(dataset, InMemoryDataset) for dataset in datasets):
        return ChainedDataset(tuple(datasets))
    labels = [dataset.labels_N for dataset in datasets if dataset.labels_N is not None]
    images_NCHW = torch.cat([dataset.images_NCHW for dataset in datasets if isinstance(dataset, InMemoryDataset)])
    return InMemoryDataset(images_NCHW, torch.cat(labels) if labels else None)
