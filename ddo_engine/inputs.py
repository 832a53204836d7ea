"""The files that a spec names: found, verified, loaded, and checked against each other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ddo_engine.checkpoint import LoadedCheckpoint, load_checkpoint
from ddo_engine.companions import Companions
from ddo_engine.data import (
    ImageDataset,
    InMemoryDataset,
    OnDemandDataset,
    has_grey_levels,
    load_dataset,
    open_on_demand,
)
from ddo_engine.errors import EngineError, IncompatibleInputs, InvalidDataset, InvalidFeatureNetwork, InvalidSpec
from ddo_engine.evaluation import FeatureNetwork, load_features
from ddo_engine.evaluation.networks.named_networks import path_of
from ddo_engine.evaluation.reference_file import REFERENCE_STATISTICS, ReferenceFile, load_reference_file
from ddo_engine.files import sha256_of_tree
from ddo_engine.spec import (
    IMAGES_AS_STORED,
    CheckpointInfo,
    DatasetInfo,
    DatasetReading,
    EvaluationSettings,
    FileRef,
    LabelDistribution,
    SamplerSettings,
    TrainingSettings,
)

CHECKED_AT_ONCE = 256  # images in memory while a large dataset is looked through
# What a client calls these inputs in the body of POST /jobs: the names that error messages point at.
CHECKPOINT, DATASET, FEATURE_NETWORK, BASELINES = "base_checkpoint", "dataset.uri", "feature_network", "baselines"


def local_path(file: FileRef, param: str) -> Path:
    """Return where a file lies; that of a feature network may be a name.

    Raises:
        InvalidSpec: It has only a URI: fetching is not the engine's business.
        InvalidFeatureNetwork: The name stands for nothing on this machine.
    """
    if file.path is None:
        raise InvalidSpec(f"{param}: {file.uri} is not fetched; the engine reads local files, give a path", param=param)
    return path_of(file.path) if param == FEATURE_NETWORK else Path(file.path)


def verified_sha256(file: FileRef, param: str) -> str:
    """Return the SHA-256 of a file, or of a folder's files.

    Raises:
        InvalidSpec: It is not the file that the spec means.
    """
    sha256 = sha256_of_tree(local_path(file, param))
    if file.sha256 not in (None, sha256):
        raise InvalidSpec(
            f"{param}: the file's SHA-256 is {sha256}, the spec says {file.sha256}: fetch it again", param=param
        )
    return sha256


@contextmanager
def blaming(param: str) -> Iterator[None]:
    """Let errors of the block point at ``param``: what the file is to the client, not what it is to its loader."""
    try:
        yield
    except EngineError as error:
        error.param = param
        raise


def open_checkpoint(file: FileRef, device: torch.device, param: str = CHECKPOINT) -> LoadedCheckpoint:
    """Load a checkpoint in float32, as training wants it; errors point at the client's name of it."""
    with blaming(param):
        return load_checkpoint(local_path(file, param), device, torch.float32)


def open_dataset(file: FileRef, param: str = DATASET, reading: DatasetReading = IMAGES_AS_STORED) -> ImageDataset:
    """Load a dataset; errors point at the client's name of it."""
    with blaming(param):
        return load_dataset(local_path(file, param), reading)


def open_to_be_cut(file: FileRef, reading: DatasetReading, param: str = DATASET) -> OnDemandDataset:
    """Open a dataset whose images a batch may cut at places; errors point at the client's name of it."""
    with blaming(param):
        return open_on_demand(local_path(file, param), reading)


def check_every_image(
    dataset: ImageDataset, param: str = DATASET, on_progress: Callable[[int], None] | None = None
) -> None:
    """Decode once what is otherwise decoded when a batch asks for it, so that no trial stumbles over it later.

    Args:
        dataset: Loaded.
        param: What errors call it.
        on_progress: Called with the number of images looked at: millions of them take longer than a supervisor waits
            for a word.

    Raises:
        InvalidDataset: An image is damaged, or not like the first.
    """
    if isinstance(dataset, InMemoryDataset):
        return
    for start in range(0, len(dataset), CHECKED_AT_ONCE):
        stop = min(start + CHECKED_AT_ONCE, len(dataset))
        with blaming(param):
            dataset.batch(range(start, stop))
        if on_progress is not None:
            on_progress(stop)


def open_feature_network(file: FileRef, device: torch.device) -> FeatureNetwork:
    """Load a feature network; errors point at the client's name of it."""
    with blaming(FEATURE_NETWORK):
        return load_features(local_path(file, "feature_network"), device)


def open_reference_statistics(file: FileRef | None) -> ReferenceFile | None:
    """Read the file that FID is taken against, where a spec names one.

    Raises:
        InvalidSpec: It is not the file that the spec means.
        InvalidDataset: It cannot be read.
    """
    if file is None:
        return None
    verified_sha256(file, REFERENCE_STATISTICS)
    return load_reference_file(local_path(file, REFERENCE_STATISTICS))


def check_model_fits_dataset(
    model: CheckpointInfo, dataset: DatasetInfo, param: str = DATASET, *, with_labels: bool = True
) -> None:
    """Refuse images that the model was not made for.

    Args:
        model: Of the checkpoint.
        dataset: Of the images.
        param: What errors call them.
        with_labels: Whether a conditional model is to see their labels; where its samples are only compared with them,
            they need none.

    Raises:
        IncompatibleInputs: Kind, resolution, channels or classes differ.
    """
    if dataset.kind == "latents" and model.space != "latents":
        raise IncompatibleInputs(
            f"the dataset holds latents, the checkpoint works on {model.space}: give the dataset's images",
            param=param,
        )
    expected = (model.img_resolution, model.img_channels)
    if model.space == "latents" and dataset.kind == "images":
        expected = (model.decoded_resolution or 0, model.decoded_channels or 0)
    if expected != (dataset.img_resolution, dataset.img_channels):
        raise IncompatibleInputs(
            f"the checkpoint draws {dataset.kind} of {_shape(*expected)}, the dataset has "
            f"{_shape(dataset.img_resolution, dataset.img_channels)}: "
            "resize or convert the dataset, or choose a checkpoint of its size",
            param=param,
        )
    if model.label_dim == 0 or not with_labels:
        return
    if not dataset.class_counts:
        raise IncompatibleInputs(
            f"the checkpoint is conditional on {model.label_dim} classes, the dataset has no labels: "
            "add labels to its dataset.json, or choose an unconditional checkpoint",
            param=param,
        )
    if len(dataset.class_counts) > model.label_dim:
        raise IncompatibleInputs(
            f"the checkpoint knows {model.label_dim} classes (0 … {model.label_dim - 1}), the dataset has labels up "
            f"to {len(dataset.class_counts) - 1}: relabel or remove these images, or choose a checkpoint with more "
            "classes",
            param=param,
        )


def check_grey_levels(dataset: ImageDataset, grey_levels: int, param: str = DATASET) -> None:
    """Refuse images with other pixel values than generated ones will be rounded to. Latents have none.

    Raises:
        InvalidDataset: A pixel lies between the levels.
    """
    if grey_levels == 256 or dataset.info.kind == "latents":
        return
    chunks = (
        range(start, min(start + CHECKED_AT_ONCE, len(dataset))) for start in range(0, len(dataset), CHECKED_AT_ONCE)
    )
    if not all(has_grey_levels(dataset.batch(chunk).images_BCHW, grey_levels) for chunk in chunks):
        raise InvalidDataset(
            f"the dataset has pixel values that are not among {grey_levels} equally spaced grey levels: generated "
            "images would be told apart by their rounding alone; set dataset.grey_levels to what the data have (256 "
            "for ordinary photographs), or round the data",
            param=param,
        )


def check_features_fit_dataset(features: FeatureNetwork, dataset: DatasetInfo) -> None:
    """Refuse images that the feature network does not take.

    Raises:
        IncompatibleInputs: Resolution or channels differ.
    """
    try:
        features.check_takes(dataset.img_resolution, dataset.img_channels)
    except EngineError as error:
        raise IncompatibleInputs(error.message, param=FEATURE_NETWORK) from error


def check_features_vary(features_ND: Tensor) -> None:
    """Refuse a feature network in whose eyes all images are one: every FID would be 0, and the first trial would win.

    Args:
        features_ND: Features of dataset images, shape (N, D).

    Raises:
        InvalidFeatureNetwork: All rows are equal, though there are several.
    """
    if len(features_ND) > 1 and bool((features_ND == features_ND[0]).all()):
        raise InvalidFeatureNetwork(
            f"the feature network gives the first {len(features_ND)} images of the dataset the same features: FID "
            "would be 0 for every model; choose a trained feature network, or a dataset of different images",
            param=FEATURE_NETWORK,
        )


def check_sampler(checkpoint: LoadedCheckpoint, companions: Companions, sampler: SamplerSettings) -> None:
    """Refuse settings that the checkpoint's family cannot sample with, before anything is spent.

    Raises:
        InvalidSpec: Naming the setting.
    """
    checkpoint.family.check_sampler(checkpoint.model, companions.guide, sampler, companions.discriminator)


def check_guidance_scales(
    checkpoint: LoadedCheckpoint,
    companions: Companions,
    sampler: SamplerSettings,
    evaluation: EvaluationSettings,
    field: str = "evaluation",
) -> None:
    """Refuse guidance scales that the checkpoint cannot be sampled at.

    Raises:
        InvalidSpec: Naming the scale.
    """
    for index, scale in enumerate(evaluation.guidance_scales):
        param = f"{field}.guidance_scales[{index}]"
        try:
            check_sampler(checkpoint, companions, sampler.at_scale(scale))
        except InvalidSpec as error:
            reason = error.message.removeprefix("sampler.guidance_scale: ")
            raise InvalidSpec(f"{param}: at a scale of {scale:g}, {reason}", param=param) from error


def check_random_crop(model: CheckpointInfo, training: TrainingSettings) -> None:
    """Refuse random crops for a model of latents, which are encoded once and not in every epoch.

    Raises:
        InvalidSpec: Naming the setting.
    """
    if training.random_crop and model.space == "latents":
        raise InvalidSpec(
            "training.random_crop: the checkpoint works on latents, of which every image has one, encoded before "
            "training: leave it out",
            param="training.random_crop",
        )


def check_labels_can_be_contrasted(model: CheckpointInfo, param: str = "objective.kind") -> None:
    """Refuse CCA for a model that it is not of.

    Raises:
        InvalidSpec: The model draws no tokens, or knows no labels.
    """
    if model.space != "tokens" or model.label_dim == 0:
        raise InvalidSpec(
            f"{param}: 'cca' contrasts the labels of a class-conditional VAR: choose 'ddo' or 'mle'", param=param
        )


def check_labels_can_be_drawn(model: CheckpointInfo, sampler: SamplerSettings, dataset: DatasetInfo | None) -> None:
    """Refuse to draw labels with the frequencies of a dataset that is not given.

    Raises:
        InvalidSpec: Naming what to give or to change.
    """
    if model.label_dim and sampler.labels is LabelDistribution.DATASET and dataset is None:
        raise InvalidSpec(
            "dataset: sampler.labels = 'dataset' needs the dataset whose class frequencies it follows; "
            "give it, or choose 'balanced' or 'random'",
            param="dataset",
        )


def _shape(resolution: int, channels: int) -> str:
    return f"{resolution}x{resolution} with {channels} channel{'' if channels == 1 else 's'}"
