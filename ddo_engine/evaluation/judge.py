"""What images are measured with: a feature network, and a dataset that they are compared with."""

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor

from ddo_engine.data import ImageDataset
from ddo_engine.errors import IncompatibleInputs, InvalidSpec
from ddo_engine.evaluation.density_coverage import density_coverage
from ddo_engine.evaluation.features import FeatureNetwork
from ddo_engine.evaluation.frechet import frechet_distance
from ddo_engine.evaluation.inception_score import inception_scores_of_logits
from ddo_engine.evaluation.jackknife import jackknife_std
from ddo_engine.evaluation.kernel_distance import kernel_distance
from ddo_engine.evaluation.measurable import check_measurable
from ddo_engine.evaluation.moments import Moments
from ddo_engine.evaluation.precision_recall import Manifold, precision_recall
from ddo_engine.evaluation.reference import (
    ReferenceStatistics,
    begin_outputs,
    extract_outputs,
    reference_statistics,
)
from ddo_engine.evaluation.reference_file import Gaussian, ReferenceFile
from ddo_engine.spec import IMAGES_AS_STORED, DatasetInfo, DatasetReading, EvaluationSettings

METRICS_VERSION = 1  # raise it whenever the same images would give other numbers


class Judge:
    """Measures images, wherever they come from; what it knows of the dataset is computed when first needed."""

    def __init__(
        self,
        feature_network: FeatureNetwork,
        dataset: ImageDataset,
        dataset_sha256: str | None,
        dataset_reading: DatasetReading = IMAGES_AS_STORED,
        cache_folder: Path | None = None,
        on_reading: Callable[[int], None] | None = None,
        autoencoder_sha256: str = "",
        reference_file: ReferenceFile | None = None,
        begin_comparing: Callable[[int], Callable[[int], None]] | None = None,
    ) -> None:
        """Check that network, images and statistics fit.

        Args:
            feature_network: In whose features everything is measured.
            dataset: What images are compared with.
            dataset_sha256: Of the dataset's file. None: no number is of the dataset, because there is a reference file;
                it only shows what images are like.
            dataset_reading: What was done to the images of the file.
            cache_folder: Where the dataset's statistics are kept between runs; None keeps none.
            on_reading: Called with the number of dataset images that the statistics have seen so far.
            autoencoder_sha256: Of what stands between model and pixels: latents have other pixels behind another.
            reference_file: Statistics that FID and sFID are taken against instead of the dataset's; what compares
                images one by one still takes the dataset's.
            begin_comparing: Told how many comparisons with all images there will be, minutes of them where images are
                many; what it returns is called with the number so far.

        Raises:
            InvalidFeatureNetwork: It does not take images like the dataset's.
            IncompatibleInputs: The dataset has fewer than two images, or the statistics are of other features.
        """
        feature_network.check_takes(dataset.info.img_resolution, dataset.info.img_channels)
        if len(dataset) < 2:
            raise IncompatibleInputs("FID needs a dataset of at least two images", param="dataset")
        self.feature_network = feature_network
        self.dataset = dataset
        self._dataset_sha256 = dataset_sha256
        self._dataset_reading = dataset_reading
        self._cache_folder = cache_folder
        self._on_reading = on_reading
        self._autoencoder_sha256 = autoencoder_sha256
        self._reference_file = reference_file
        self._begin_comparing = begin_comparing
        self._manifolds: dict[int, Manifold] = {}
        if reference_file is not None:
            reference_file.of_features(self._dim_of("features"))

    @cached_property
    def reference(self) -> ReferenceStatistics:
        """Statistics of the dataset, without its spatial features unless these are known already."""
        return self.__dict__.get("spatial_reference") or self._describe(spatial=False)

    @cached_property
    def spatial_reference(self) -> ReferenceStatistics:
        """The same with its spatial features."""
        return self._describe(spatial=True)

    def _describe(self, *, spatial: bool) -> ReferenceStatistics:
        assert self._dataset_sha256 is not None, "without a dataset of its own nothing is described"
        name = self._dataset_sha256
        if self._dataset_reading != IMAGES_AS_STORED:
            name += self._dataset_reading.model_dump_json()
        name += self._autoencoder_sha256
        return reference_statistics(
            self.feature_network,
            self.dataset,
            name,
            METRICS_VERSION,
            self._cache_folder,
            self._on_reading,
            spatial=spatial,
        )

    def protocol(self, settings: EvaluationSettings) -> dict[str, Any]:
        """Return all that the numbers of given images depend on; how they were drawn is not among it."""
        protocol: dict[str, Any] = {
            "metrics_version": METRICS_VERSION,
            "num_samples": settings.num_samples,
            "neighbours": settings.neighbours,
            "feature_network_sha256": self.feature_network.sha256,
        }
        if self._dataset_sha256 is not None:
            protocol["reference_sha256"] = self._dataset_sha256
        # Left out where they say nothing, so that fingerprints of before they existed stay what they are.
        if settings.inception_score_splits is not None:
            protocol["inception_score_splits"] = settings.inception_score_splits
        protocol |= settings.further_metrics()
        if self._reference_file is not None:
            protocol["reference_statistics_sha256"] = self._reference_file.sha256
        if self._dataset_reading != IMAGES_AS_STORED:
            protocol["dataset_reading"] = self._dataset_reading.model_dump(mode="json")
        return protocol

    def check(self, settings: EvaluationSettings) -> None:
        """Refuse to measure what cannot be, before anything is drawn.

        Raises:
            EngineError: As of :func:`check_measurable`, or sFID has no statistics in the reference file.
            InvalidSpec: A number compares with images of a dataset, and there is none.
        """
        one_by_one = (settings.neighbours, settings.density_neighbours, settings.kid_subsets)
        if self._dataset_sha256 is None and any(number is not None for number in one_by_one):
            raise InvalidSpec(
                "precision, recall, density, coverage and KID compare with real images one by one, which statistics "
                "cannot give: give a dataset, or leave them out",
                param="dataset",
            )
        check_measurable(self.feature_network, len(self.dataset), settings)
        if settings.sfid and self._reference_file is not None:
            self._reference_file.of_spatial(self._dim_of("spatial"))

    def outputs(self, images_NCHW: Tensor, settings: EvaluationSettings) -> dict[str, Tensor]:
        """Return what :meth:`metrics` wants of uint8 images, by name: float32 on the CPU, one row each.

        Raises:
            InvalidFeatureNetwork: The network does not compute it, or not as finite numbers.
        """
        return self.begin_outputs(images_NCHW, settings)()

    def begin_outputs(self, images_NCHW: Tensor, settings: EvaluationSettings) -> Callable[[], dict[str, Tensor]]:
        """Queue what :meth:`outputs` does, and return what waits for it, with the same errors."""
        wanted = {"features": True, "logits": settings.inception_score_splits is not None, "spatial": settings.sfid}
        names = [name for name, is_wanted in wanted.items() if is_wanted]
        outputs = begin_outputs(self.feature_network, images_NCHW, names)
        return lambda: dict(zip(names, outputs(), strict=True))

    def metrics(
        self, outputs: Mapping[str, Tensor], settings: EvaluationSettings, *, by_seed: bool = True
    ) -> dict[str, float]:
        """Return the numbers of images whose outputs these are, in order.

        Args:
            outputs: As of :meth:`outputs`.
            settings: What is measured.
            by_seed: Whether any run of the images has the shares of the classes that all have.

        Returns:
            "fid"; and where the settings ask for them "precision" and "recall", "density" and "coverage", "kid" and
            "kid_std", "sfid", "inception_score", "fid_std", "sfid_std" and "inception_score_std".
        """
        features_MD = outputs["features"]
        if settings.sfid and self._reference_file is None:
            _ = self.spatial_reference  # both kinds of features in one pass over the dataset
        deviation = partial(jackknife_std, shuffled=not by_seed) if settings.confidence else None
        metrics = _distance("fid", features_MD, self._gaussian_of_features(features_MD.shape[1]), deviation)
        compared = self._compared(settings, len(features_MD))
        if settings.neighbours is not None:
            manifold = self._manifold(settings.neighbours, compared)
            metrics["precision"], metrics["recall"] = precision_recall(manifold, features_MD, compared)
        if settings.density_neighbours is not None:
            manifold = self._manifold(settings.density_neighbours, compared)
            metrics["density"], metrics["coverage"] = density_coverage(manifold, features_MD, compared)
        if settings.kid_subsets is not None:
            metrics["kid"], metrics["kid_std"] = kernel_distance(
                self.reference.features_MD.to(self.feature_network.device),
                features_MD,
                num_subsets=settings.kid_subsets,
                subset_size=settings.kid_subset_size,
                on_subset=compared,
            )
        if settings.sfid:
            spatial_MD = outputs["spatial"]
            metrics |= _distance("sfid", spatial_MD, self._gaussian_of_spatial(spatial_MD.shape[1]), deviation)
        if settings.inception_score_splits is not None:
            scores = inception_scores_of_logits(outputs["logits"], settings.inception_score_splits)
            metrics["inception_score"] = fmean(scores)
            if settings.confidence:
                metrics["inception_score_std"] = pstdev(scores)
        return metrics

    def measure(
        self, images: ImageDataset, settings: EvaluationSettings, on_progress: Callable[[int], None] | None = None
    ) -> dict[str, float]:
        """Return the metrics of images at hand, of which only one batch is held at a time.

        Args:
            images: The first ``settings.num_samples`` of them are measured.
            settings: What is measured; seed and guidance scales play no part.
            on_progress: Called with the number of images so far.

        Raises:
            IncompatibleInputs: They are of another shape than the dataset's, or fewer than ``num_samples``.
            EngineError: As of :meth:`check` and :meth:`outputs`, or an image is damaged.
        """
        self._check_images(images, settings)
        self.check(settings)
        num_images = self.feature_network.images_per_call(images.info.img_resolution)
        parts: list[dict[str, Tensor]] = []
        for start in range(0, settings.num_samples, num_images):
            stop = min(start + num_images, settings.num_samples)
            parts.append(self.outputs(images.batch(range(start, stop)).images_BCHW, settings))
            if on_progress is not None:
                on_progress(stop)
        outputs = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return self.metrics(outputs, settings, by_seed=False)

    def _gaussian_of_features(self, dim: int) -> Gaussian | Moments:
        return self.reference.moments if self._reference_file is None else self._reference_file.of_features(dim)

    def _gaussian_of_spatial(self, dim: int) -> Gaussian | Moments:
        if self._reference_file is not None:
            return self._reference_file.of_spatial(dim)
        assert self.spatial_reference.spatial_moments is not None
        return self.spatial_reference.spatial_moments

    def _dim_of(self, output: str) -> int:
        """Return what no manifest says of programs: how wide an output is."""
        (found_1D,) = extract_outputs(self.feature_network, self.dataset.batch(range(1)).images_BCHW, (output,))
        return found_1D.shape[1]

    def _compared(self, settings: EvaluationSettings, num_fake: int) -> Callable[[int], None]:
        """Return what is told of comparisons as they are done: rows of distances, and subsets."""
        wanted = {settings.neighbours, settings.density_neighbours} - {None}
        if self._begin_comparing is None or (not wanted and settings.kid_subsets is None):
            return lambda _: None
        num_real = len(self.reference.features_MD) if wanted else 0
        total = num_real * len(wanted - self._manifolds.keys()) + (settings.kid_subsets or 0)
        total += 2 * num_fake + num_real if settings.neighbours is not None else 0
        total += num_fake if settings.density_neighbours is not None else 0
        report, done = self._begin_comparing(total), 0

        def compared(more: int) -> None:
            nonlocal done
            done += more
            report(done)

        return compared

    def _manifold(self, neighbours: int, compared: Callable[[int], None]) -> Manifold:
        if neighbours not in self._manifolds:
            features_MD = self.reference.features_MD.to(self.feature_network.device)
            self._manifolds[neighbours] = Manifold.of(features_MD, neighbours, compared)
        return self._manifolds[neighbours]

    def _check_images(self, images: ImageDataset, settings: EvaluationSettings) -> None:
        found, wanted = (_shape(info) for info in (images.info, self.dataset.info))
        if found != wanted:
            raise IncompatibleInputs(
                f"the images are {found}, those of the dataset {wanted}: give a dataset of their size, or let its "
                "images be made so (transform, resolution, convert); the images themselves are measured as they are",
                param="images",
            )
        if len(images) < settings.num_samples:
            raise IncompatibleInputs(
                f"there are {len(images):,} images, {settings.num_samples:,} shall be measured: give more, or lower "
                "num_samples",
                param="num_samples",
            )


def _distance(
    name: str, features_MD: Tensor, real: Gaussian | Moments, deviation: Callable[..., float] | None
) -> dict[str, float]:
    def distance(fake: Moments) -> float:
        return frechet_distance(fake.mu_D, fake.cov_DD, real.mu_D, real.cov_DD)

    moments = Moments.of(features_MD)
    found = {name: distance(moments)}
    if deviation is not None:
        found[f"{name}_std"] = deviation(features_MD, moments, distance)
    return found


def _shape(info: DatasetInfo) -> str:
    return f"{info.img_resolution}x{info.img_resolution} with {info.img_channels} channel(s)"


def fingerprint_of(protocol: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a protocol: only numbers of one fingerprint are ranked together."""
    canonical = json.dumps(protocol, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
