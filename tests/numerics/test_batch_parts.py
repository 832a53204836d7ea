"""A batch that is cut into parts sees what the whole one sees: images, labels, noise, augmentation, dropped labels."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from ddo_engine.families import get_family
from ddo_engine.families.diffusion.space import LatentScaling, LatentSpace
from ddo_engine.families.protocol import BatchPart, LabelledImages, LikelihoodRatios
from ddo_engine.spec import TrainingSettings
from tests.latent_inputs import LATENT_NETWORK
from tests.tiny_families import EDM2, VAR, VQVAE, randomised

B = 7
PARTS = (range(1), range(1, 5), range(5, 7))
SETTINGS = TrainingSettings(kimg=1, batch_size=B, learning_rate=0.01, ema_half_life_kimg=1, evaluate_every_kimg=1)
SONG_UNET = {
    "class_name": "EDMPrecond",
    "model_type": "SongUNet",
    "img_resolution": 8,
    "img_channels": 1,
    "label_dim": 3,
    "model_channels": 8,
    "num_blocks": 1,
    "channel_mult": [1],
    "attn_resolutions": [],
    "augment_dim": 9,
}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def batch(resolution: int, *, seed: int, latent_channels: int = 0) -> LabelledImages:
    draw = torch.Generator().manual_seed(seed)
    labels_B = torch.randint(3, (B,), generator=draw)
    if latent_channels:
        return LabelledImages(torch.rand(B, 2 * latent_channels, resolution, resolution, generator=draw), labels_B)
    return LabelledImages(
        torch.randint(256, (B, 1, resolution, resolution), generator=draw, dtype=torch.uint8), labels_B
    )


def part_of(whole: LabelledImages, rows: range) -> LabelledImages:
    assert whole.labels_B is not None
    return LabelledImages(
        whole.images_BCHW[rows.start : rows.stop],
        whole.labels_B[rows.start : rows.stop],
        BatchPart(rows.start, len(rows), B),
    )


def edm_augmented() -> tuple[str, nn.Module, TrainingSettings, LabelledImages, LabelledImages]:
    training = SETTINGS.model_copy(update={"augment_probability": 0.8})
    return "edm", randomised("edm", SONG_UNET, seed=1), training, batch(8, seed=1), batch(8, seed=2)


def edm2_latents() -> tuple[str, nn.Module, TrainingSettings, LabelledImages, LabelledImages]:
    model = randomised("edm2", LATENT_NETWORK, seed=1)
    model.space = LatentSpace(LatentScaling(raw_mean=(0.1,) * 4, raw_std=(0.8,) * 4))
    size, channels = int(LATENT_NETWORK["img_resolution"]), int(LATENT_NETWORK["img_channels"])
    real, fake = (batch(size, seed=seed, latent_channels=channels) for seed in (1, 2))
    return "edm2", model, SETTINGS, real, fake


def edm2_pixels() -> tuple[str, nn.Module, TrainingSettings, LabelledImages, LabelledImages]:
    return "edm2", randomised("edm2", EDM2, seed=1), SETTINGS, batch(4, seed=1), batch(4, seed=2)


def var() -> tuple[str, nn.Module, TrainingSettings, LabelledImages, LabelledImages]:
    model = randomised("var", VAR | {"cond_drop_rate": 0.5}, seed=1)
    get_family("var").attach_autoencoder(model, randomised("var", VQVAE, seed=2))
    return "var", model, SETTINGS, batch(4, seed=1), batch(4, seed=2)


CASES = [edm_augmented, edm2_latents, edm2_pixels, var]


def moved(model: nn.Module) -> nn.Module:
    """Return a copy so far from ``model`` that rounding hides none of its ratios."""
    other, draws = copy.deepcopy(model), torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=draws))
    return other


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_ratios_of_the_parts_are_those_of_the_whole_batch(case: Callable[[], tuple]) -> None:
    name, reference, training, real, fake = case()
    family, target = get_family(name), moved(reference)

    def ratios(one: LabelledImages, other: LabelledImages) -> LikelihoodRatios:
        return family.log_likelihood_ratios(target, reference, one, other, training, generator())

    whole = ratios(real, fake)
    parts = zip(*(ratios(part_of(real, rows), part_of(fake, rows)) for rows in PARTS), strict=True)
    for whole_B, parts_B in zip(whole, map(torch.cat, parts), strict=True):
        scale = float(whole_B.abs().max())
        assert scale > 5e-3 * float(whole.reference_loss_B.max())
        torch.testing.assert_close(parts_B, whole_B, rtol=1e-4, atol=1e-4 * scale)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_pretraining_losses_of_the_parts_are_those_of_the_whole_batch(case: Callable[[], tuple]) -> None:
    name, model, training, real, _ = case()
    family = get_family(name)
    whole_B = family.pretraining_loss(model, real, training, generator())
    parts = [family.pretraining_loss(model, part_of(real, rows), training, generator()) for rows in PARTS]
    torch.testing.assert_close(torch.cat(parts), whole_B, rtol=1e-5, atol=0)


@pytest.mark.parametrize("case", [edm_augmented, edm2_latents])
def test_real_and_fake_of_other_rows_are_refused(case: Callable[[], tuple]) -> None:
    name, model, training, real, fake = case()
    with pytest.raises(ValueError, match="not the same rows"):
        get_family(name).log_likelihood_ratios(
            model, model, part_of(real, range(2)), part_of(fake, range(1, 3)), training, generator()
        )
