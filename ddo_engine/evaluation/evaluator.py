"""Measure models under a protocol: which samples, drawn how, and judged by what."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ddo_engine.companions import NO_COMPANIONS, Companions
from ddo_engine.data import ImageDataset
from ddo_engine.errors import IncompatibleInputs
from ddo_engine.evaluation.drawing import draw
from ddo_engine.evaluation.features import FeatureNetwork
from ddo_engine.evaluation.judge import Judge, fingerprint_of
from ddo_engine.evaluation.parts import Measured, Outputs, Parts
from ddo_engine.evaluation.reference_file import ReferenceFile
from ddo_engine.evaluation.sample_grid import num_shown
from ddo_engine.families.protocol import Family
from ddo_engine.parallel.ranks import ALONE, Ranks
from ddo_engine.sampling import generate_images
from ddo_engine.spec import IMAGES_AS_STORED, DatasetReading, Evaluated, EvaluationSettings, SamplerSettings
from ddo_engine.state_identity import numerics_of


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
        reference_file: ReferenceFile | None = None,
        begin_comparing: Callable[[int], Callable[[int], None]] | None = None,
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
            reference_file: Statistics that FID is taken against instead of the dataset's.
            begin_comparing: As of :class:`Judge`.

        Raises:
            InvalidFeatureNetwork: It does not take images like the dataset's.
            IncompatibleInputs: The dataset has fewer than two images, or the statistics are of other features.
        """
        self.judge = Judge(
            feature_network,
            dataset,
            dataset_sha256,
            dataset_reading,
            cache_folder,
            on_reading,
            companions.sha256s.get("autoencoder_sha256", ""),
            reference_file,
            begin_comparing,
        )
        self.sampler = sampler
        self.grey_levels = grey_levels
        self.companions = companions
        self.ranks = ranks
        self.parts_folder = parts_folder
        self._parts: list[Parts] = []

    def protocol(self, settings: EvaluationSettings, guidance_scale: float | None = None) -> dict[str, Any]:
        """Return all that the numbers depend on besides the model's weights.

        Args:
            settings: What is measured.
            guidance_scale: One of the settings' scales; None: the sampler's own.
        """
        sampler = self._sampler_at(guidance_scale)
        return {
            **self.judge.protocol(settings),
            "seed": settings.seed,
            "sampler": {name: value for name, value in sampler.as_protocol().items() if name != "batch_size"},
            "grey_levels": self.grey_levels,
            "ema": True,
            **self.companions.sha256s,
        }

    def fingerprint(self, settings: EvaluationSettings, guidance_scale: float | None = None) -> str:
        """Return the SHA-256 of the protocol: only numbers of one fingerprint are ranked together."""
        return fingerprint_of(self.protocol(settings, guidance_scale))

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
            What :meth:`Judge.metrics` says, and the first samples, for a picture.

        Raises:
            InvalidSpec: Not more samples than neighbours, or samples that cannot be split evenly.
            InvalidFeatureNetwork: The inception score is asked for, and the feature network is no classifier.
            IncompatibleInputs: Not more dataset images than neighbours, or samples of another shape than theirs.
            NonFiniteLoss: The model draws NaN or infinite pixels.
        """
        self.judge.check(settings)
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
        shown = seeds[: num_shown(self.judge.dataset.info.img_resolution)]

        def begin(batch: range) -> Callable[[], Outputs]:
            images_BCHW = self._draw(model, family, batch, sampler)
            outputs = self.judge.begin_outputs(images_BCHW, settings)
            num_kept = len(range(batch.start, min(batch.stop, shown.stop)))
            images = {"images": images_BCHW[:num_kept].clone()}
            return lambda: outputs() | images

        # A GPU computes the features of a batch while the noise of the next one is drawn on the CPU.
        ahead = 1 if self.judge.feature_network.device.type == "cuda" else 0
        drawn = draw(self.ranks, seeds, self.sampler.batch_size, begin, parts, on_progress, ahead=ahead)
        with self.ranks.in_step():
            if self.ranks.leads:
                measured = Measured(self.judge.metrics(drawn, settings), drawn["images"])
                if parts is not None:
                    parts.replace_by(measured)
        measured = self.ranks.from_leader(measured)
        assert measured is not None
        return measured

    def forget_parts(self) -> None:
        """Remove what evaluations of this evaluator have kept: their numbers are where a later run finds them."""
        while self._parts:
            self._parts.pop().remove()

    def _parts_of(
        self, folder: Path, model: nn.Module, settings: EvaluationSettings, guidance_scale: float | None
    ) -> Parts:
        drawn_by = {
            "protocol": self.protocol(settings, guidance_scale),
            "batch_size": self.sampler.batch_size,
            "numerics": numerics_of(self.judge.feature_network.device) | {"processes": "any"},
        }
        parts = Parts.of(folder, model, drawn_by)
        self._parts.append(parts)
        return parts

    def _sampler_at(self, guidance_scale: float | None) -> SamplerSettings:
        return self.sampler if guidance_scale is None else self.sampler.at_scale(guidance_scale)

    def _draw(self, model: nn.Module, family: Family, seeds: range, sampler: SamplerSettings) -> Tensor:
        """Return the samples of one batch, uint8, shape (B, C, H, W)."""
        info = self.judge.dataset.info
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
