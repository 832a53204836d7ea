"""A finetuning job: the body of ``POST /jobs``."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from ddo_engine.presets import with_preset
from ddo_engine.spec.base import Seed, Settings, Uri
from ddo_engine.spec.reference_set import ReferenceSetSettings
from ddo_engine.spec.sampler import HeunSettings, SamplerSettings
from ddo_engine.spec.settings import (
    ConfirmSettings,
    DatasetSettings,
    EvaluationSettings,
    Grid,
    TrainingSettings,
)


class JobSpec(Settings):
    """A finetuning job: the body of ``POST /jobs``. ``preset`` fills what the body leaves out."""

    name: str | None = Field(default=None, min_length=1, max_length=120)
    preset: str | None = Field(default=None, description="Settings to start from; fields given in the body win.")
    base_checkpoint: Uri = Field(description="The model to finetune: first reference and first weights.")
    autoencoder: Uri | None = Field(
        default=None,
        description="What maps pixels to the model's tokens or latents and back: the VQVAE of a VAR model, the "
        "AutoencoderKL of an EDM2 model of latents.",
    )
    guide: Uri | None = Field(
        default=None, description="The network that guides sampling, for sampler.guidance_scale (autoguidance)."
    )
    dataset: DatasetSettings
    feature_network: Uri = Field(description="The network in whose features FID is measured.")
    rounds: int = Field(ge=1, le=100)
    grid: Grid
    training: TrainingSettings
    sampler: SamplerSettings = HeunSettings()
    reference_set: ReferenceSetSettings
    evaluation: EvaluationSettings
    confirm: ConfirmSettings | None = None
    seed: Seed = 0
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] = Field(
        default_factory=dict, max_length=16
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, value: object) -> object:
        return with_preset(value) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _fakes_can_be_drawn(self) -> Self:
        if self.reference_set.kind == "online" and self.sampler.kind != "autoregressive":
            raise ValueError(
                f"reference_set.kind: 'online' draws fakes beside every batch, which a diffusion model (sampler "
                f"{self.sampler.kind!r}) is too slow for: choose 'offline', and give num_samples"
            )
        return self

    @model_validator(mode="after")
    def _samples_suffice(self) -> Self:
        neighbours = self.evaluation.neighbours or 0
        if self.evaluation.num_samples <= neighbours:
            raise ValueError(f"evaluation.num_samples: give more samples than neighbours ({neighbours})")
        if self.confirm is not None and self.confirm.num_samples <= neighbours:
            raise ValueError(f"confirm.num_samples: give more samples than evaluation.neighbours ({neighbours})")
        splits = self.evaluation.inception_score_splits or 1
        if self.confirm is not None and self.confirm.num_samples % splits:
            raise ValueError(f"confirm.num_samples: must be divisible by evaluation.inception_score_splits ({splits})")
        return self
