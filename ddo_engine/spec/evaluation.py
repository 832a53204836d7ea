"""Settings shared by jobs and units: what is measured, and at which guidance scales."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ddo_engine.spec.base import Seed, Settings
from ddo_engine.spec.sampler import SamplerSettings

MOST_SCALES = 16
GuidanceScale = Annotated[float, Field(ge=0, le=1000)]


class EvaluationSettings(Settings):
    """What is measured on a checkpoint's samples. Seeds start at ``seed``: all trials share their latents."""

    num_samples: int = Field(ge=2, le=1_000_000, description="Generated images behind every number.")
    seed: Seed = 0
    neighbours: int | None = Field(
        default=3, ge=1, le=100, description="k of precision and recall (arXiv:1904.06991); None leaves them out."
    )
    inception_score_splits: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="Also report the inception score by the feature network's classes: the mean over so many equal "
        "splits of the samples, usually 10 of 50,000; None leaves it out.",
    )
    sfid: bool = Field(
        default=False,
        description="Also report sFID, the same distance between spatial features (arXiv:2103.03841): of feature "
        "networks that compute them, as Inception does.",
    )
    kid_subsets: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="Also report KID (arXiv:1801.01401), mean and standard deviation over so many subsets, usually "
        "100; None leaves it out.",
    )
    kid_subset_size: int = Field(default=1000, ge=2, le=10_000, description="Samples, and real images, in each.")
    density_neighbours: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="Also report density and coverage (arXiv:2002.09797) with this k, usually 5; None leaves them out.",
    )
    confidence: bool = Field(
        default=False,
        description="Also report how far FID and sFID would move with other samples (`fid_std`, `sfid_std`), and the "
        "inception score over its splits. Takes twenty further Fréchet distances, and forty samples.",
    )
    guidance_scales: tuple[GuidanceScale, ...] = Field(
        default=(),
        max_length=MOST_SCALES,
        description="Values of sampler.guidance_scale to measure at besides the sampler's own, on the same latents and "
        "labels: together the curve over the scale. Each has numbers and a fingerprint of its own.",
    )
    rank_by: Literal["sampler_scale", "best_scale"] = Field(
        default="sampler_scale",
        description="'sampler_scale': the FID at sampler.guidance_scale ranks checkpoints, the others are only shown. "
        "'best_scale': each checkpoint's lowest FID along the curve does.",
    )

    @model_validator(mode="after")
    def _samples_split_evenly(self) -> Self:
        if self.num_samples % (self.inception_score_splits or 1):
            raise ValueError("num_samples must be divisible by inception_score_splits")
        return self

    @model_validator(mode="after")
    def _subsets_are_of_the_samples(self) -> Self:
        if self.kid_subsets is None and self.kid_subset_size != 1000:
            raise ValueError("kid_subset_size is of KID's subsets: give kid_subsets, or leave it out")
        if self.kid_subsets is not None and self.kid_subset_size > self.num_samples:
            raise ValueError(
                f"kid_subset_size: {self.kid_subset_size} of {self.num_samples} samples cannot be drawn: lower it, or "
                "raise num_samples"
            )
        return self

    @field_validator("guidance_scales")
    @classmethod
    def _distinct(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(scales)) != len(scales):
            raise ValueError("values repeat: each would measure the same samples twice")
        return scales

    @model_validator(mode="after")
    def _best_scale_is_one_of_several(self) -> Self:
        if self.rank_by == "best_scale" and not self.guidance_scales:
            raise ValueError("rank_by 'best_scale' has one scale to choose from: give guidance_scales, or leave it out")
        return self

    def scales(self, sampler: SamplerSettings) -> tuple[float, ...]:
        """Return the guidance scales to measure at, the sampler's own first."""
        return (sampler.guidance_scale, *self.guidance_scales)

    def ranking_scales(self, sampler: SamplerSettings) -> tuple[float, ...]:
        """Return those of them whose FIDs rank: a checkpoint counts by the lowest."""
        return self.scales(sampler) if self.rank_by == "best_scale" else (sampler.guidance_scale,)

    def network_evaluations(self, sampler: SamplerSettings) -> int:
        """Return what one evaluation of a checkpoint costs, all scales together."""
        return self.num_samples * sum(sampler.at_scale(scale).nfe for scale in self.scales(sampler))

    def generated_images(self) -> int:
        """Return how many images one evaluation of a checkpoint draws, all scales together."""
        return self.num_samples * (1 + len(self.guidance_scales))

    def at_one_scale(self) -> Self:
        """Return the same evaluation at the sampler's own scale alone."""
        return self.model_copy(update={"guidance_scales": (), "rank_by": "sampler_scale"})

    def as_identity(self) -> dict[str, Any]:
        """Return the settings as states know them: those of before there were several scales stay theirs."""
        unused = {"guidance_scales", "rank_by"} if not self.guidance_scales else set()
        further = {"sfid", "kid_subsets", "kid_subset_size", "density_neighbours", "confidence"}
        return self.model_dump(mode="json", exclude=unused | (further - self.further_metrics().keys()))

    def further_metrics(self) -> dict[str, Any]:
        """Return the settings of sFID, KID, density, coverage and deviations; empty where none is asked for."""
        further: dict[str, Any] = {"sfid": True} if self.sfid else {}
        if self.kid_subsets is not None:
            further |= {"kid_subsets": self.kid_subsets, "kid_subset_size": self.kid_subset_size}
        if self.density_neighbours is not None:
            further["density_neighbours"] = self.density_neighbours
        return further | ({"confidence": True} if self.confidence else {})

    def refuse_scale_of(self, sampler: SamplerSettings, field: str = "evaluation") -> None:
        """Refuse a scale that is measured already.

        Args:
            sampler: Whose own scale is always measured.
            field: What the client calls these settings.

        Raises:
            ValueError: Naming field and remedy.
        """
        for index, scale in enumerate(self.guidance_scales):
            if scale == sampler.guidance_scale:
                raise ValueError(
                    f"{field}.guidance_scales[{index}]: {scale:g} is sampler.guidance_scale, which is measured anyway: "
                    "give the scales without it"
                )


class ConfirmSettings(Settings):
    """A second, larger evaluation that decides between the finalists of a round."""

    num_samples: int = Field(ge=2, le=1_000_000)
    seed: Seed = 1_000_000
    finalists: int = Field(default=1, ge=1, le=16, description="How many of the round's best trials are confirmed.")
