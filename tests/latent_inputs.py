"""Tiny inputs of a model of latents: an EDM2 network, the AutoencoderKL behind it, and one dataset in both forms."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ddo_engine import load_model
from ddo_engine.checkpoint import CheckpointManifest, save_checkpoint
from ddo_engine.conversion import convert
from ddo_engine.data import load_dataset, write_dataset
from ddo_engine.evaluation import FeatureManifest, save_features
from ddo_engine.evaluation.networks.image_classifier import ImageClassifier, ImageClassifierConfig
from ddo_engine.families import get_family
from ddo_engine.families.diffusion.space import LatentScaling
from ddo_engine.latents import encode_to_file
from tests.diffusers_folders import library_autoencoder
from tests.engine_inputs import EngineInputs, merged, run_in_process

LATENT_NETWORK: dict[str, Any] = {
    "class_name": "Precond",
    "img_resolution": 8,
    "img_channels": 4,
    "label_dim": 3,
    "use_fp16": True,
    "logvar_channels": 8,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "channels_per_head": 8,
}
FEATURES = {"img_resolution": 16, "img_channels": 3, "num_classes": 3, "model_channels": 2, "feature_dim": 6}
SAMPLER = {"kind": "heun", "num_steps": 3, "state_dtype": "float32", "batch_size": 16}
NUM_IMAGES = 24


@dataclass(frozen=True)
class LatentInputs:
    """Files that fit together: ``images`` name the dataset as a zip of pixels, ``latents`` as EDM2's zip of moments."""

    images: EngineInputs
    latents: EngineInputs
    autoencoder: Path

    def train_spec(self, form: str = "images", **overrides: Any) -> dict[str, Any]:
        """Return a DDO trial of 4 steps with evaluations after steps 2 and 4."""
        files: EngineInputs = getattr(self, form)
        training = {"kimg": 0.032, "batch_size": 8, "evaluate_every_kimg": 0.016, "save_state_every_kimg": 0.008}
        spec = files.train_spec(
            autoencoder=str(self.autoencoder),
            training={**training, "warmup_kimg": 0.0},
            evaluation={"num_samples": 12},
        )
        return merged({**spec, "sampler": SAMPLER}, overrides)

    def spec_without_objective(self, form: str = "images", **overrides: Any) -> dict[str, Any]:
        """Return what ``validate`` and, with more, ``generate`` and ``evaluate`` are told."""
        files: EngineInputs = getattr(self, form)
        spec = {
            "checkpoint": str(files.checkpoint),
            "autoencoder": str(self.autoencoder),
            "dataset": str(files.dataset),
            "sampler": SAMPLER,
        }
        return merged(spec, overrides)


def make_latent_inputs(folder: Path) -> LatentInputs:
    """Write inputs; the reference set is drawn by ``generate``."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("base.safetensors", "images.zip", "fakes.zip", "features.safetensors")
    images = EngineInputs(folder, *(folder / name for name in names))
    autoencoder = write_autoencoder(folder / "autoencoder.safetensors")
    write_dataset(images.dataset, pixels(), torch.arange(NUM_IMAGES) % 3)
    latents = EngineInputs(
        folder, images.checkpoint, folder / "latents.zip", images.reference_set, images.feature_network
    )
    encode_to_file(load_dataset(images.dataset), load_model(autoencoder), latents.dataset)
    write_latent_checkpoint(images.checkpoint, latents.dataset)
    torch.manual_seed(11)
    manifest = FeatureManifest(architecture="image_classifier", config=FEATURES)
    save_features(images.feature_network, ImageClassifier(ImageClassifierConfig(**FEATURES)).eval(), manifest)
    inputs = LatentInputs(images, latents, autoencoder)
    run_in_process("generate", inputs.spec_without_objective(num_samples=NUM_IMAGES, first_seed=100), folder / "drawn")
    (folder / "drawn" / "reference-set.zip").rename(images.reference_set)
    return inputs


def pixels() -> torch.Tensor:
    """Return uint8 images, smooth and different by class."""
    generator = torch.Generator().manual_seed(7)
    ramp = torch.linspace(0, 150, 256).reshape(1, 1, 16, 16) + 40 * (torch.arange(NUM_IMAGES) % 3)[:, None, None, None]
    return (ramp + 10 * torch.randn(NUM_IMAGES, 3, 16, 16, generator=generator)).clamp(0, 255).to(torch.uint8)


def write_autoencoder(path: Path, **changes: Any) -> Path:
    """Write a randomly initialised AutoencoderKL of the library as a checkpoint of ours."""
    folder = path.with_suffix("")
    library_autoencoder(**changes).save_pretrained(folder)
    convert(folder, path)
    return path


def write_latent_checkpoint(path: Path, latents: Path, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """Write a randomly initialised EDM2 network whose output is not zero, scaled to a dataset of latents."""
    network = LATENT_NETWORK | changes
    torch.manual_seed(13)
    model = get_family("edm2").build(network)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    mean_N4HW = load_dataset(latents).batch(range(NUM_IMAGES)).images_BCHW.chunk(2, dim=1)[0]
    scaling = LatentScaling(
        raw_mean=tuple(mean_N4HW.mean((0, 2, 3)).tolist()), raw_std=tuple(mean_N4HW.std((0, 2, 3)).tolist())
    )
    manifest = CheckpointManifest(family="edm2", network=network, latent_scaling=scaling)
    save_checkpoint(path, model.to(dtype), manifest)
    return path
