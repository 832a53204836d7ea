"""Measure models under a protocol: which samples, of what, compared with what, by which code."""

import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ddo_engine.companions import NO_COMPANIONS, Companions
from ddo_engine.data import ImageDataset
from ddo_engine.errors import IncompatibleInputs, InvalidSpec
from ddo_engine.evaluation.drawing import draw
from ddo_engine.evaluation.features import FeatureNetwork
from ddo_engine.evaluation.frechet import frechet_distance
from ddo_engine.evaluation.inception_score import inception_score_of_logits
from ddo_engine.evaluation.moments import Moments
from ddo_engine.evaluation.parts import Measured, Outputs, Parts
from ddo_engine.evaluation.precision_recall import Manifold, precision_recall
from ddo_engine.evaluation.reference import ReferenceStatistics, extract, extract_outputs, reference_statistics
from ddo_engine.evaluation.sample_grid import num_shown
from ddo_engine.families.protocol import Family
from ddo_engine.parallel.ranks import ALONE, Ranks
from ddo_engine.sampling import generate_images
from ddo_engine.spec import IMAGES_AS_STORED, DatasetReading, Evaluated, EvaluationSettings, SamplerSettings
from ddo_engine.state_identity import numerics_of

METRICS_VERSION = 1  # raise it whenever the same samples would give other numbers


class Evaluator:
    """Everything that evaluations of one unit of work share.

    Samples have the seeds ``settings.seed … seed + num_samples − 1``: whatever is evaluated under one
    protocol shares its latents and labels, so that differences between trials are not sampling noise.
    """

    def __init__(
        self,
        feature_network: FeatureNetwork,
        dataset: ImageDataset,
        dataset_sha256: str,
        sampler: SamplerSettings,
        grey_levels: int,
        cache_folder: Path | None,
        dataset_reading: DatasetReading = IMAGES_AS_STORED,
        companions: Companions = NO_COMPANIONS,
        on_reading: Callable[[int], None] | None = None,
        ranks: Ranks = ALONE,
        parts_folder: Path | None = None,
    ) -> None:
        """Check that network and images fit; statistics are computed when first needed.

        Args:
            feature_network: In whose features everything is measured.
            dataset: What generated images are compared with.
            dataset_sha256: Of the dataset's file.
            sampler: How to draw samples; its batch size changes no number beyond rounding.
            grey_levels: Values that a pixel takes; generated images are rounded to them.
            cache_folder: Where the dataset's statistics are kept between units; None keeps none.
            dataset_reading: What was done to the images of the file.
            companions: The networks that samples depend on besides the one that is measured.
            on_reading: Called with the number of dataset images that the statistics have seen so far.
            ranks: The processes that draw; the one that leads measures what all have drawn.
            parts_folder: Where evaluations keep what they have drawn, for those who go on after a kill; None: nowhere.

        Raises:
            InvalidFeatureNetwork: It does not take images like the dataset's.
            IncompatibleInputs: The dataset has fewer than two images.
        """
        feature_network.check_takes(dataset.info.img_resolution, dataset.info.img_channels)
        if len(dataset) < 2:
            raise IncompatibleInputs("FID needs a dataset of at least two images", param="dataset")
        self.feature_network = feature_network
        self.dataset = dataset
        self.dataset_sha256 = dataset_sha256
        self.sampler = sampler
        self.grey_levels = grey_levels
        self.cache_folder = cache_folder
        self.dataset_reading = dataset_reading
        self.companions = companions
        self._on_reading = on_reading
        self.ranks = ranks
        self.parts_folder = parts_folder
        self._parts: list[Parts] = []
        self._manifolds: dict[int, Manifold] = {}

    @cached_property
    def reference(self) -> ReferenceStatistics:
        """Statistics of the dataset."""
        name = self.dataset_sha256
        if self.dataset_reading != IMAGES_AS_STORED:
            name += self.dataset_reading.model_dump_json()
        # A dataset of latents has other pixels behind another autoencoder.
        name += self.companions.sha256s.get("autoencoder_sha256", "")
        return reference_statistics(
            self.feature_network, self.dataset, name, METRICS_VERSION, self.cache_folder, self._on_reading
        )

    def protocol(self, settings: EvaluationSettings, guidance_scale: float | None = None) -> dict[str, Any]:
        """Return all that the numbers depend on besides the model's weights.

        Args:
            settings: What is measured.
            guidance_scale: One of the settings' scales; None: the sampler's own.
        """
        sampler = self._sampler_at(guidance_scale)
        protocol: dict[str, Any] = {
            "metrics_version": METRICS_VERSION,
            "num_samples": settings.num_samples,
            "seed": settings.seed,
            "neighbours": settings.neighbours,
            "sampler": {name: value for name, value in sampler.as_protocol().items() if name != "batch_size"},
            "grey_levels": self.grey_levels,
            "feature_network_sha256": self.feature_network.sha256,
            "reference_sha256": self.dataset_sha256,
            "ema": True,
        }
        # Left out where they say nothing, so that fingerprints of before they existed stay what they are.
        if settings.inception_score_splits is not None:
            protocol["inception_score_splits"] = settings.inception_score_splits
        if self.dataset_reading != IMAGES_AS_STORED:
            protocol["dataset_reading"] = self.dataset_reading.model_dump(mode="json")
        return {**protocol, **self.companions.sha256s}

    def fingerprint(self, settings: EvaluationSettings, guidance_scale: float | None = None) -> str:
        """Return the SHA-256 of the protocol: only numbers of one fingerprint are ranked together."""
        canonical = json.dumps(self.protocol(settings, guidance_scale), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def evaluated(
        self, settings: EvaluationSettings, guidance_scale: float, *, kimg: float, metrics: dict[str, float]
    ) -> Evaluated:
        """Return the event that tells what was measured, and under which protocol."""
        return Evaluated(
            kimg=kimg,
            fingerprint=self.fingerprint(settings, guidance_scale),
            protocol=self.protocol(settings, guidance_scale),
            metrics=metrics,
        )

    def evaluate(
        self,
        model: nn.Module,
        family: Family,
        settings: EvaluationSettings,
        on_progress: Callable[[int], None] | None = None,
        guidance_scale: float | None = None,
    ) -> Measured:
        """Draw samples and measure them: several processes together, with the numbers of one, to the bit.

        All scales share seeds, and with them latents and labels. Where there is a folder for parts, the same call after
        a kill takes from there what was drawn before, and the numbers are the same, to the bit.

        Args:
            model: In eval mode, on the device to sample on; EMA weights.
            family: Of the model.
            settings: Sample count, seed, neighbours, splits.
            on_progress: Called with the number of images drawn so far, at first of those from before a kill.
            guidance_scale: One of the settings' scales; None: the sampler's own.

        Returns:
            "fid"; unless ``neighbours`` is None "precision" and "recall"; unless ``inception_score_splits`` is None
            "inception_score". With them the first samples, for a picture.

        Raises:
            InvalidSpec: Not more samples than neighbours, or samples that cannot be split evenly.
            InvalidFeatureNetwork: The inception score is asked for, and the feature network is no classifier.
            IncompatibleInputs: Not more dataset images than neighbours, or samples of another shape than theirs.
            NonFiniteLoss: The model draws NaN or infinite pixels.
        """
        self._check_neighbours(settings)
        self._check_splits(settings)
        names = ["features"] if settings.inception_score_splits is None else ["features", "logits"]
        sampler = self._sampler_at(guidance_scale)
        parts, measured = None, None
        with self.ranks.in_step():
            if self.ranks.leads and self.parts_folder is not None:
                parts = self._parts_of(self.parts_folder, model, settings, guidance_scale)
                measured = parts.measured()
        measured = self.ranks.from_leader(measured)
        if measured is not None:
            if on_progress is not None:
                on_progress(settings.num_samples)
            return measured
        seeds = range(settings.seed, settings.seed + settings.num_samples)
        shown = seeds[: num_shown(self.dataset.info.img_resolution)]

        def outputs_of(batch: range) -> Outputs:
            images_BCHW = self._draw(model, family, batch, sampler)
            outputs = extract_outputs(self.feature_network, images_BCHW, names)
            num_kept = len(range(batch.start, min(batch.stop, shown.stop)))
            return dict(zip(names, outputs, strict=True)) | {"images": images_BCHW[:num_kept].clone()}

        drawn = draw(self.ranks, seeds, self.sampler.batch_size, outputs_of, parts, on_progress)
        with self.ranks.in_step():
            if self.ranks.leads:
                measured = Measured(self._all_metrics(drawn, settings), drawn["images"])
                if parts is not None:
                    parts.replace_by(measured)
        measured = self.ranks.from_leader(measured)
        assert measured is not None
        return measured

    def forget_parts(self) -> None:
        """Remove what evaluations of this evaluator have kept: their numbers are where a later run finds them."""
        while self._parts:
            self._parts.pop().remove()

    def measure(self, images_NCHW: Tensor, neighbours: int | None) -> dict[str, float]:
        """Return the metrics of images at hand: uint8, as :meth:`evaluate` does of those it draws."""
        return self._metrics(extract(self.feature_network, images_NCHW), neighbours)

    def _parts_of(
        self, folder: Path, model: nn.Module, settings: EvaluationSettings, guidance_scale: float | None
    ) -> Parts:
        drawn_by = {
            "protocol": self.protocol(settings, guidance_scale),
            "batch_size": self.sampler.batch_size,
            "numerics": numerics_of(self.feature_network.device) | {"processes": "any"},
        }
        parts = Parts.of(folder, model, drawn_by)
        self._parts.append(parts)
        return parts

    def _all_metrics(self, drawn: Outputs, settings: EvaluationSettings) -> dict[str, float]:
        metrics = self._metrics(drawn["features"], settings.neighbours)
        if settings.inception_score_splits is not None:
            metrics["inception_score"] = inception_score_of_logits(drawn["logits"], settings.inception_score_splits)
        return metrics

    def _metrics(self, features_MD: Tensor, neighbours: int | None) -> dict[str, float]:
        fake, real = Moments.of(features_MD), self.reference.moments
        metrics = {"fid": frechet_distance(fake.mu_D, fake.cov_DD, real.mu_D, real.cov_DD)}
        if neighbours is not None:
            real_manifold = self._manifold(neighbours)
            metrics["precision"], metrics["recall"] = precision_recall(real_manifold, features_MD, neighbours)
        return metrics

    def _manifold(self, neighbours: int) -> Manifold:
        if neighbours not in self._manifolds:
            features_MD = self.reference.features_MD.to(self.feature_network.device)
            self._manifolds[neighbours] = Manifold.of(features_MD, neighbours)
        return self._manifolds[neighbours]

    def _check_neighbours(self, settings: EvaluationSettings) -> None:
        if settings.neighbours is None:
            return
        if settings.num_samples <= settings.neighbours:
            raise InvalidSpec(
                f"{settings.neighbours} neighbours need more than {settings.num_samples} samples", param="neighbours"
            )
        if len(self.dataset) <= settings.neighbours:
            raise IncompatibleInputs(
                f"{settings.neighbours} neighbours need a dataset of more than {len(self.dataset)} images",
                param="neighbours",
            )

    def _check_splits(self, settings: EvaluationSettings) -> None:
        self.feature_network.check_measures(settings)
        if settings.num_samples % (settings.inception_score_splits or 1):
            raise InvalidSpec(
                f"{settings.num_samples} samples cannot be cut into {settings.inception_score_splits} equal splits: "
                "choose a divisor",
                param="evaluation.inception_score_splits",
            )

    def _sampler_at(self, guidance_scale: float | None) -> SamplerSettings:
        return self.sampler if guidance_scale is None else self.sampler.at_scale(guidance_scale)

    def _draw(self, model: nn.Module, family: Family, seeds: range, sampler: SamplerSettings) -> Tensor:
        """Return the samples of one batch, uint8, shape (B, C, H, W)."""
        info = self.dataset.info
        expected = (info.img_channels, info.img_resolution, info.img_resolution)
        images_BCHW = generate_images(
            model,
            family,
            seeds,
            sampler,
            guide=self.companions.guide,
            discriminator=self.companions.discriminator,
            class_counts=info.class_counts,
            grey_levels=self.grey_levels,
        ).images_BCHW
        if images_BCHW.shape[1:] != expected:
            raise IncompatibleInputs(
                f"the checkpoint draws images of shape {tuple(images_BCHW.shape[1:])}, "
                f"the dataset's are {expected}: choose a dataset or checkpoint that fits",
                param="checkpoint",
            )
        return images_BCHW
