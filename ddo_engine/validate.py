"""``python -m ddo_engine validate``: read the inputs of a job once, before anything is spent on it."""

from collections.abc import Sequence

from torch import Tensor

from ddo_engine.accelerated import check_kernels
from ddo_engine.baseline_checks import check_baselines
from ddo_engine.checkpoint import LoadedCheckpoint
from ddo_engine.converted_inputs import convert_inputs
from ddo_engine.errors import InvalidSpec
from ddo_engine.evaluation import FeatureNetwork
from ddo_engine.evaluation.reference import extract, extract_outputs
from ddo_engine.inputs import (
    check_every_image,
    check_features_fit_dataset,
    check_features_vary,
    check_grey_levels,
    check_guidance_scales,
    check_labels_can_be_drawn,
    check_model_fits_dataset,
    check_random_crop,
    check_sampler,
    open_dataset,
    open_feature_network,
    open_reference_statistics,
    verified_sha256,
)
from ddo_engine.models import open_models
from ddo_engine.run_context import RunContext
from ddo_engine.spec import Report, TrainingSettings, ValidateSpec
from ddo_engine.unit_data import as_pixels


def run(spec: ValidateSpec, context: RunContext) -> None:
    """Load all inputs, check that they fit together and to the settings, and report what they are.

    Networks in their authors' formats are converted first; the report says where the result lies.

    Raises:
        CorruptCheckpoint: The checkpoint cannot be read.
        InvalidDataset: The dataset cannot be read, or its pixels are not on the grey levels.
        InvalidFeatureNetwork: The feature network cannot be read, or its features are not finite or tell nothing apart.
        IncompatibleInputs: Each is fine, together they are not.
    """
    context.announce("validate")
    verified_sha256(spec.dataset, "dataset")
    converted = convert_inputs(spec, context)
    spec = spec.model_copy(update={str(name): file for name, file in converted.items()})
    models = open_models(spec, context.device)
    checkpoint = models.checkpoint
    check_sampler(models.checkpoint, models.companions, spec.sampler)
    if spec.evaluation is not None:
        check_guidance_scales(checkpoint, models.companions, spec.sampler, spec.evaluation)
    if spec.training is not None:
        _check_training(checkpoint, spec.training)
    if spec.online_reference_set is not None:
        checkpoint.family.check_online_reference_set(checkpoint.model)
    _check_later_training(checkpoint, spec.later_training)
    check_baselines(spec, models, context.device)
    dataset = open_dataset(spec.dataset, reading=spec.dataset_reading)
    features = open_feature_network(spec.feature_network, context.device)
    check_model_fits_dataset(checkpoint.info, dataset.info)
    check_labels_can_be_drawn(checkpoint.info, spec.sampler, dataset.info)
    pixels = as_pixels(dataset, checkpoint)
    check_features_fit_dataset(features, pixels.info)
    if spec.evaluation is not None:
        features.check_measures(spec.evaluation)
    check_every_image(dataset, on_progress=context.progress("reading", len(dataset)))
    check_grey_levels(dataset, spec.grey_levels)
    num_images = features.images_per_call(pixels.info.img_resolution)
    first_images = pixels.batch(range(min(num_images, len(pixels)))).images_BCHW
    check_features_vary(extract(features, first_images))
    _check_reference_statistics(spec, features, first_images)
    context.events.emit(Report(checkpoint=checkpoint.info, dataset=dataset.info, converted=converted))


def _check_reference_statistics(spec: ValidateSpec, features: FeatureNetwork, images_BCHW: Tensor) -> None:
    reference = open_reference_statistics(spec.reference_statistics)
    if reference is None:
        return
    reference.of_features(extract(features, images_BCHW[:1]).shape[1])
    if spec.evaluation is not None and spec.evaluation.sfid:
        reference.of_spatial(extract_outputs(features, images_BCHW[:1], ("spatial",))[0].shape[1])


def _check_training(checkpoint: LoadedCheckpoint, training: TrainingSettings) -> None:
    checkpoint.family.check_training(checkpoint.model, training)
    check_random_crop(checkpoint.info, training)
    check_kernels(checkpoint.family, checkpoint.model, training)


def _check_later_training(checkpoint: LoadedCheckpoint, later: Sequence[TrainingSettings]) -> None:
    for training in later:
        try:
            _check_training(checkpoint, training)
        except InvalidSpec as error:
            raise InvalidSpec(f"in a later round, {error.message}", param="round_overrides") from error
