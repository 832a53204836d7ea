"""How images are drawn from a model: one settings class per kind of sampler."""

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from ddo_engine.spec.base import PositiveFloat, Settings


class LabelDistribution(StrEnum):
    """How class labels of generated images follow from their seeds."""

    RANDOM = "random"
    BALANCED = "balanced"
    DATASET = "dataset"


class _AnySampler(Settings):
    labels: LabelDistribution = Field(
        default=LabelDistribution.DATASET,
        description="Class labels of a conditional model's samples: 'dataset' follows the dataset's class "
        "frequencies, 'balanced' takes seed mod number of classes, 'random' draws from the sample's own generator.",
    )
    batch_size: int = Field(default=256, ge=1, le=65536, description="Images per network call while sampling.")

    def at_scale(self, guidance_scale: float) -> Self:
        """Return the settings with another guidance scale."""
        return self.model_copy(update={"guidance_scale": guidance_scale})

    def as_protocol(self) -> dict[str, Any]:
        """Return the settings as fingerprints and states know them: those of before a setting existed stay theirs."""
        return self.model_dump(mode="json")


class _DiffusionSampler(_AnySampler):
    UNGUIDED_SCALE: ClassVar[float] = 1.0

    sigma_min: float = Field(default=0.002, ge=1e-6)
    sigma_max: float = Field(default=80.0, le=1e6)
    rho: float = Field(default=7.0, ge=0.5, le=1000)
    guidance_scale: float = Field(
        default=1.0,
        ge=0,
        le=1000,
        description="w in D_guide + w (D - D_guide); 1 asks for no guidance, and the guide is not evaluated.",
    )
    guide_sees_labels: bool = Field(
        default=True,
        description="True: autoguidance (arXiv:2406.02507). False: the guide gets the null label, which is "
        "classifier-free guidance; with no guide given, the model itself is the guide.",
    )
    discriminator_weight: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="w of discriminator guidance (arXiv:2211.17091): w times the gradient of the discriminator's logit "
        "is added to the score. 1 is the exact correction of an optimal discriminator; 0 asks for none, and the "
        "discriminator is not evaluated.",
    )
    network_dtype: Literal["float32", "float16"] = Field(
        default="float32",
        description="float16 computes as the official EDM2 and ADM samplers do on a GPU; training never does.",
    )

    @model_validator(mode="after")
    def _sigmas_are_ordered(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError("sigma_min must be below sigma_max")
        return self

    @property
    def is_guided(self) -> bool:
        """Whether a call of the guide accompanies each call of the model."""
        return self.guidance_scale != self.UNGUIDED_SCALE

    @property
    def is_corrected(self) -> bool:
        """Whether a call of the discriminator, and its gradient, accompany each call of the model."""
        return self.discriminator_weight != 0

    @property
    def networks_per_call(self) -> int:
        """How many networks are evaluated wherever the model is: itself, its guide, its discriminator."""
        return 1 + self.is_guided + self.is_corrected

    def for_reference_set(self) -> Self:
        """Return the settings that draw from the model itself: the fakes of DDO are samples of p_ref."""
        return self.model_copy(update={"guidance_scale": self.UNGUIDED_SCALE, "discriminator_weight": 0.0})

    def as_protocol(self) -> dict[str, Any]:
        """See :meth:`_AnySampler.as_protocol`; without a discriminator's weight where there is none."""
        return self.model_dump(mode="json", exclude=None if self.is_corrected else {"discriminator_weight"})


class HeunSettings(_DiffusionSampler):
    """Heun's method on EDM's probability-flow ODE, optionally with churn (arXiv:2206.00364, algorithm 2).

    ``S_max = None`` means no upper bound. Defaults are EDM's for CIFAR-10 (35 network evaluations); EDM2 takes
    ``num_steps=32`` and ``state_dtype="float32"`` (63).
    """

    kind: Literal["heun"] = "heun"
    num_steps: int = Field(default=18, ge=2, le=1000)
    S_churn: float = Field(default=0.0, ge=0)
    S_min: float = Field(default=0.0, ge=0)
    S_max: PositiveFloat | None = None
    S_noise: float = Field(default=1.0, gt=0, le=1000)
    state_dtype: Literal["float64", "float32"] = Field(
        default="float64", description="Precision of the image between network calls: EDM's and EDM2's differ."
    )

    @property
    def nfe(self) -> int:
        """Network evaluations per image; those of a guide and of a discriminator count too."""
        return (2 * self.num_steps - 1) * self.networks_per_call


class DPMSolverSettings(_DiffusionSampler):
    """DPM-Solver-v3 without training (l = 1, s = b = 0): a multistep predictor-corrector in log-SNR.

    Source: arXiv:2310.13268; the settings are those of the DDO authors' sampling script.
    """

    kind: Literal["dpm_solver_v3"] = "dpm_solver_v3"
    num_steps: int = Field(default=25, ge=2, le=249)

    @property
    def nfe(self) -> int:
        """Network evaluations per image; those of a guide and of a discriminator count too."""
        return self.num_steps * self.networks_per_call


class AutoregressiveSettings(_AnySampler):
    """Next-scale sampling of a VAR model (arXiv:2404.02905), guidance-free and without tricks by default."""

    UNGUIDED_SCALE: ClassVar[float] = 0.0

    kind: Literal["autoregressive"] = "autoregressive"
    guidance_scale: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="s: at scale k of K the logits are (1 + t) cond - t uncond with t = s k / (K - 1); 0 = none.",
    )
    top_k: int = Field(default=0, ge=0, description="Keep the k likeliest tokens; 0 keeps all.")
    top_p: float = Field(default=0.0, ge=0, lt=1, description="Keep the likeliest tokens of this mass; 0 keeps all.")
    num_scales: int = Field(
        default=10, ge=1, le=64, description="Scales of the model, for cost estimates; the model decides."
    )

    @property
    def is_guided(self) -> bool:
        """Whether every network call is made with and without labels."""
        return self.guidance_scale != self.UNGUIDED_SCALE

    def for_reference_set(self) -> Self:
        """Return the settings that draw from the model itself: no guidance, no top-k, no top-p (arXiv:2503.01103)."""
        return self.model_copy(update={"guidance_scale": self.UNGUIDED_SCALE, "top_k": 0, "top_p": 0.0})

    @property
    def nfe(self) -> int:
        """Network evaluations per image: one a scale, two with guidance."""
        return self.num_scales * (2 if self.is_guided else 1)


def _kind_of(value: Any) -> str:
    return str(value.get("kind", "heun") if isinstance(value, dict) else getattr(value, "kind", "heun"))


SAMPLER_KINDS = ("heun", "dpm_solver_v3", "autoregressive")
SamplerSettings = Annotated[
    Annotated[HeunSettings, Tag("heun")]
    | Annotated[DPMSolverSettings, Tag("dpm_solver_v3")]
    | Annotated[AutoregressiveSettings, Tag("autoregressive")],
    Discriminator(
        _kind_of,
        custom_error_type="sampler_kind",
        custom_error_message="kind must be one of " + ", ".join(SAMPLER_KINDS),
    ),
]
