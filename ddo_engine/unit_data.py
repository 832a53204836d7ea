"""The datasets that a unit names, as its model trains on them and as its evaluation looks at them.

For a model of pixels or tokens both are the same images. A model of latents trains on moments, which are encoded here
if the dataset holds pixels; and it is judged by pixels, which are decoded here if the dataset holds latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from ddo_engine.batches import concatenated
from ddo_engine.checkpoint import LoadedCheckpoint
from ddo_engine.data import ImageDataset, InMemoryDataset
from ddo_engine.errors import IncompatibleInputs
from ddo_engine.events import ProgressReporter
from ddo_engine.families.diffusion.space import Autoencoder, LatentSpace
from ddo_engine.families.protocol import LabelledImages
from ddo_engine.inputs import check_grey_levels, check_model_fits_dataset, open_dataset, verified_sha256
from ddo_engine.latents import cached_latents, encode_dataset
from ddo_engine.models import UnitModels
from ddo_engine.run_context import RunContext
from ddo_engine.spec import DatasetInfo, DatasetReading, FileRef


@dataclass(frozen=True)
class DecodedDataset:
    """The pixels of a dataset of latents: those of their means, decoded when a batch asks for them.

    Attributes:
        latents: Moments.
        autoencoder: What decodes.
    """

    latents: ImageDataset
    autoencoder: Autoencoder

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def labels_N(self) -> Tensor | None:
        """Class indices."""
        return self.latents.labels_N

    @cached_property
    def info(self) -> DatasetInfo:
        """What the pixels are."""
        info = self.latents.info
        return info.model_copy(
            update={
                "kind": "images",
                "img_channels": self.autoencoder.img_channels,
                "img_resolution": info.img_resolution * self.autoencoder.downsampling,
            }
        )

    def batch(self, indices: Tensor | Sequence[int]) -> LabelledImages:
        """Return uint8 images and labels at ``indices``."""
        stored = self.latents.batch(indices)
        with torch.no_grad():
            images_BCHW = self.autoencoder.decode(stored.images_BCHW.chunk(2, dim=1)[0])
        return LabelledImages(images_BCHW.cpu(), stored.labels_B)


def as_pixels(dataset: ImageDataset, checkpoint: LoadedCheckpoint) -> ImageDataset:
    """Return a dataset that fits the model as images, which is what evaluation compares samples with."""
    if dataset.info.kind == "images":
        return dataset
    autoencoder = latent_autoencoder(checkpoint)
    assert autoencoder is not None
    return DecodedDataset(dataset, autoencoder)


def as_trained_on(
    dataset: ImageDataset, file: FileRef, reading: DatasetReading, models: UnitModels, context: RunContext
) -> ImageDataset:
    """Return a dataset that fits the model as what the model trains on: encoded once, for a model of latents.

    Args:
        dataset: Loaded.
        file: Its file, which names it in the cache.
        reading: What was done to its images.
        models: The unit's networks.
        context: Cache and events.

    Raises:
        NonFiniteLoss: The autoencoder's latents are not finite.
    """
    autoencoder = latent_autoencoder(models.checkpoint)
    if autoencoder is None or dataset.info.kind == "latents":
        return dataset
    progress = ProgressReporter(context.events, "encoding", len(dataset))
    with context.stop.before_network_calls():
        if context.cache is None:
            return encode_dataset(dataset, autoencoder, on_progress=progress.update)
        cached = partial(
            cached_latents,
            dataset,
            autoencoder,
            dataset_name=verified_sha256(file, "dataset") + reading.model_dump_json(),
            autoencoder_sha256=models.companions.sha256s["autoencoder_sha256"],
            cache_folder=context.cache,
            on_progress=progress.update,
        )
        # One process writes what the others then read.
        latents = None
        with context.ranks.in_step():
            latents = cached() if context.ranks.leads else None
        return cached() if latents is None else latents


def open_reference_set(files: Sequence[FileRef], checkpoint: LoadedCheckpoint, grey_levels: int) -> ImageDataset:
    """Load fakes through the same storage and the same loader as the data, so that only the images differ.

    Args:
        files: Shards in order.
        checkpoint: That they were drawn from.
        grey_levels: Values that a pixel takes.

    Raises:
        EngineError: A shard is damaged, or not what the checkpoint draws, or not like the others.
    """
    shards = []
    for index, file in enumerate(files):
        param = f"reference_set.{index}"
        shard = open_dataset(file, param)
        check_model_fits_dataset(checkpoint.info, shard.info, param)
        if (shard.info.kind == "latents") != (checkpoint.info.space == "latents"):
            raise IncompatibleInputs(
                "the reference set was not stored as the dataset is trained on: generate it with this checkpoint",
                param=param,
            )
        check_grey_levels(shard, grey_levels, param)
        shards.append(shard)
    try:
        return concatenated(shards)
    except ValueError as error:
        raise IncompatibleInputs(
            f"the shards of the reference set are not of one set: {error}", param="reference_set"
        ) from error


def latent_autoencoder(checkpoint: LoadedCheckpoint) -> Autoencoder | None:
    """Return what maps a model's latents to pixels and back; None for a model of pixels or tokens."""
    space = getattr(checkpoint.model, "space", None)
    return space.autoencoder if isinstance(space, LatentSpace) else None


def as_stored(samples: LabelledImages, checkpoint: LoadedCheckpoint) -> LabelledImages:
    """Return generated images as the dataset's are stored: encoded again, for a model of latents.

    Source: arXiv:2503.01103, appendix C, for why fakes go the way of the data.
    """
    autoencoder = latent_autoencoder(checkpoint)
    if autoencoder is None:
        return samples
    encoded = encode_dataset(InMemoryDataset(samples.images_BCHW, samples.labels_B), autoencoder)
    return LabelledImages(encoded.images_NCHW, encoded.labels_N)
