"""Baselines of a job, looked at before anything is spent: each must be possible with the checkpoint."""

import torch

from ddo_engine.companions import NO_COMPANIONS, Companions
from ddo_engine.discriminator import denoiser_of, network_for
from ddo_engine.errors import InvalidSpec
from ddo_engine.inputs import BASELINES, blaming, check_labels_can_be_contrasted, check_sampler
from ddo_engine.models import UnitModels, open_guide
from ddo_engine.spec import (
    AutoguidanceBaseline,
    CCABaseline,
    DiscriminatorGuidanceBaseline,
    GuidanceBaseline,
    ValidateSpec,
)


def check_baselines(spec: ValidateSpec, models: UnitModels, device: torch.device) -> None:
    """Refuse baselines that would fail whatever the rounds do.

    Raises:
        EngineError: A guide cannot be read, or a baseline is none for the checkpoint; ``param`` names it.
    """
    for index, baseline in enumerate(spec.baselines):
        field = f"{BASELINES}[{index}]"
        match baseline:
            case CCABaseline():
                check_labels_can_be_contrasted(models.checkpoint.info, f"{field}.kind")
            case GuidanceBaseline():
                with blaming(f"{field}.kind"):
                    _check_guidance(spec, baseline, models)
            case AutoguidanceBaseline():
                with blaming(f"{field}.guide"):
                    _check_autoguidance(spec, baseline, models, device)
            case DiscriminatorGuidanceBaseline():
                with blaming(f"{field}.network"):
                    network_for(denoiser_of(models.checkpoint.model), baseline.network, seed=0)


def _check_guidance(spec: ValidateSpec, baseline: GuidanceBaseline, models: UnitModels) -> None:
    checkpoint = models.checkpoint
    if checkpoint.info.label_dim == 0:
        raise InvalidSpec(
            "guidance: the checkpoint is unconditional, so there is no class to guide towards: leave it out, or give a "
            "guide to 'autoguidance'"
        )
    for sampler in baseline.samplers(spec.sampler):
        check_sampler(checkpoint, NO_COMPANIONS, sampler)


def _check_autoguidance(
    spec: ValidateSpec, baseline: AutoguidanceBaseline, models: UnitModels, device: torch.device
) -> None:
    guide = models.companions.guide
    if spec.baseline_guide is not None:
        guide = open_guide(spec.baseline_guide, models.checkpoint, device)
    for sampler in baseline.samplers(spec.sampler):
        check_sampler(models.checkpoint, Companions(guide), sampler)
