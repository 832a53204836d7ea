"""``python -m ddo_engine validate``: read the inputs of a job once, before anything is spent on it."""

from ddo_engine.evaluation.reference import FEATURE_BATCH, extract
from ddo_engine.inputs import (
    check_every_image,
    check_features_fit_dataset,
    check_features_vary,
    check_grey_levels,
    check_model_fits_dataset,
    open_checkpoint,
    open_dataset,
    open_feature_network,
    verified_sha256,
)
from ddo_engine.run_context import RunContext
from ddo_engine.spec import Report, ValidateSpec


def run(spec: ValidateSpec, context: RunContext) -> None:
    """Load checkpoint, dataset and feature network, check that they fit together, and report what they are.

    Raises:
        CorruptCheckpoint: The checkpoint cannot be read.
        InvalidDataset: The dataset cannot be read, or its pixels are not on the grey levels.
        InvalidFeatureNetwork: The feature network cannot be read, or its features are not finite or tell nothing apart.
        IncompatibleInputs: Each is fine, together they are not.
    """
    context.announce("validate")
    for param in ("checkpoint", "dataset", "feature_network"):
        verified_sha256(getattr(spec, param), param)
    checkpoint = open_checkpoint(spec.checkpoint, context.device)
    dataset = open_dataset(spec.dataset, reading=spec.dataset_reading)
    features = open_feature_network(spec.feature_network, context.device)
    check_model_fits_dataset(checkpoint.info, dataset.info)
    check_features_fit_dataset(features, dataset.info)
    check_every_image(dataset)
    check_grey_levels(dataset, spec.grey_levels)
    check_features_vary(extract(features, dataset.batch(range(min(FEATURE_BATCH, len(dataset)))).images_BCHW))
    context.events.emit(Report(checkpoint=checkpoint.info, dataset=dataset.info))
