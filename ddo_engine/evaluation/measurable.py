"""Numbers that cannot be had of so many images by such a network, refused before anything is drawn."""

from ddo_engine.errors import IncompatibleInputs, InvalidSpec
from ddo_engine.evaluation.features import FeatureNetwork
from ddo_engine.evaluation.jackknife import NUM_GROUPS
from ddo_engine.evaluation.reference import MANIFOLD_IMAGES
from ddo_engine.spec import EvaluationSettings


def check_measurable(network: FeatureNetwork, num_real_images: int, settings: EvaluationSettings) -> None:
    """Refuse to measure what cannot be.

    Args:
        network: Of the features.
        num_real_images: Of the dataset.
        settings: What shall be measured.

    Raises:
        InvalidSpec: Not more samples than neighbours, samples that cannot be split evenly, or fewer than in a subset
            or than the groups of a deviation need.
        InvalidFeatureNetwork: The network does not compute what a number is of.
        IncompatibleInputs: Not more dataset images than neighbours, or fewer than in a subset.
    """
    for name in ("neighbours", "density_neighbours"):
        _check_neighbours(name, getattr(settings, name), num_real_images, settings)
    network.check_measures(settings)
    if settings.num_samples % (settings.inception_score_splits or 1):
        raise InvalidSpec(
            f"{settings.num_samples} samples cannot be cut into {settings.inception_score_splits} equal splits: "
            "choose a divisor",
            param="evaluation.inception_score_splits",
        )
    if settings.confidence and settings.num_samples < 2 * NUM_GROUPS:
        raise InvalidSpec(
            f"{NUM_GROUPS} groups of two samples cannot be drawn of {settings.num_samples}: raise num_samples, or set "
            "confidence to false",
            param="evaluation.confidence",
        )
    if settings.kid_subsets is not None:
        _check_subset(settings.kid_subset_size, settings.num_samples, min(num_real_images, MANIFOLD_IMAGES))


def _check_neighbours(name: str, neighbours: int | None, num_real_images: int, settings: EvaluationSettings) -> None:
    if neighbours is None:
        return
    if settings.num_samples <= neighbours:
        raise InvalidSpec(f"{neighbours} neighbours need more than {settings.num_samples} samples", param=name)
    if num_real_images <= neighbours:
        raise IncompatibleInputs(
            f"{neighbours} neighbours need a dataset of more than {num_real_images} images", param=name
        )


def _check_subset(size: int, num_samples: int, num_real_images: int) -> None:
    error = InvalidSpec if num_samples < size else IncompatibleInputs if num_real_images < size else None
    if error is not None:
        raise error(
            f"subsets of {size:,} cannot be drawn of {num_samples:,} samples and {num_real_images:,} dataset images: "
            "lower kid_subset_size, or set kid_subsets to null",
            param="evaluation.kid_subset_size",
        )
