"""The jobs of the model families on digits: what each asks of the service, its control, and how it is judged."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddo_engine import load_model
from ddo_engine.families import get_family
from ddo_engine.sampling import generate_images
from ddo_engine.spec import JobSpec
from examples.digits.self_play import SelfPlay
from examples.digits.verdict import FIRST_SEED, SEED_STRIDE, Bench, Spread, measure

ASSETS = Path(__file__).parent / "assets"
TOKENIZER = ASSETS / "tokenizer.safetensors"


@dataclass(frozen=True)
class Example:
    """A job.

    Attributes:
        title: For people.
        family: Of the model, in the registry of the engine.
        settings: What the job says beyond its files and its seed.
        autoencoder: Of a model that works on tokens.
    """

    title: str
    family: str
    settings: Mapping[str, Any]
    autoencoder: Path | None = None

    @property
    def base(self) -> Path:
        """The checkpoint to finetune."""
        return ASSETS / f"{self.family}.safetensors"


def u_net_job(**training: Any) -> Mapping[str, Any]:
    """Return what the jobs of both U-Nets say, with the training settings of one."""
    return {
        "rounds": 3,
        "grid": {"alpha": [1.0], "beta": [0.5, 1.0]},
        "training": {
            "kimg": 7.68,
            "batch_size": 128,
            "warmup_kimg": 1.28,
            "ema_half_life_kimg": 1.5,
            "P_mean": -0.8,
            "P_std": 1.2,
            "evaluate_every_kimg": 2.56,
            **training,
        },
        "sampler": {"kind": "heun", "num_steps": 12, "labels": "balanced", "state_dtype": "float32"},
        "reference_set": {"num_samples": 2000},
        "evaluation": {"num_samples": 1000, "neighbours": 5},
        "confirm": {"num_samples": 2000},
    }


VAR_JOB: Mapping[str, Any] = {
    "rounds": 2,
    "grid": {"alpha": [1.0, 2.0], "beta": [0.1]},
    "training": {
        "kimg": 6.4,
        "batch_size": 128,
        "learning_rate": 2e-4,
        "warmup_kimg": 1.28,
        "adam_betas": [0.9, 0.95],
        "ema_half_life_kimg": 1.5,
        "evaluate_every_kimg": 3.2,
    },
    "sampler": {"kind": "autoregressive", "num_scales": 4, "labels": "balanced"},
    "reference_set": {"num_samples": 2000},
    "evaluation": {"num_samples": 1000, "neighbours": 5},
    "confirm": {"num_samples": 2000},
}
EXAMPLES: Mapping[str, Example] = {
    "edm": Example(
        title="EDM: DDPM++ U-Net, 12 Heun steps",
        family="edm",
        settings=u_net_job(learning_rate=3e-4),
    ),
    "edm2": Example(
        title="EDM2: magnitude-preserving U-Net, 12 Heun steps",
        family="edm2",
        settings=u_net_job(learning_rate=1e-3, adam_betas=[0.9, 0.99]),
    ),
    "var": Example(
        title="VAR: next-scale transformer on 30 tokens of four scales, behind its VQVAE",
        family="var",
        autoencoder=TOKENIZER,
        settings=VAR_JOB,
    ),
    "var-guided": Example(
        title="VAR, all samples but the fakes drawn with classifier-free guidance",
        family="var",
        autoencoder=TOKENIZER,
        settings={**VAR_JOB, "sampler": {**VAR_JOB["sampler"], "guidance_scale": 0.25}},
    ),
}


def job_body(name: str, dataset: Path, *, seed: int) -> dict[str, Any]:
    """Return the body of ``POST /jobs``."""
    example = EXAMPLES[name]
    files = {} if example.autoencoder is None else {"autoencoder": example.autoencoder.as_uri()}
    return {
        "name": f"handwritten digits, {name}",
        "base_checkpoint": example.base.as_uri(),
        **files,
        "dataset": {"uri": dataset.as_uri(), "grey_levels": 17},
        "feature_network": (ASSETS / "features.safetensors").as_uri(),
        **example.settings,
        "seed": seed,
    }


def continued_pretraining(name: str, dataset: Path, folder: Path, *, seed: int) -> Path:
    """Return the control: the best point of maximum likelihood continued from the base with the job's settings."""
    job = JobSpec.model_validate(job_body(name, dataset, seed=seed))
    run = SelfPlay(job, dataset, ASSETS / "features.safetensors", folder, autoencoder=EXAMPLES[name].autoencoder)
    return run.continue_pretraining(EXAMPLES[name].base).path


def judged(
    path: Path, name: str, bench: Bench, *, num_samples: int, num_sets: int = 1, **sampler: Any
) -> dict[str, Spread]:
    """Measure a checkpoint on sets of samples that no selection saw, drawn as the job draws its own.

    Args:
        path: The checkpoint.
        name: Of the example.
        bench: What it is measured with.
        num_samples: Images in a set.
        num_sets: Sets, each of other seeds.
        sampler: Settings of the sampler in the place of the job's.
    """
    settings = JobSpec.model_validate(job_body(name, path, seed=0)).sampler.model_copy(update=sampler)
    model = load_model(path, autoencoder=EXAMPLES[name].autoencoder)
    family = get_family(EXAMPLES[name].family)
    rows = []
    for first in range(FIRST_SEED, FIRST_SEED + num_sets * SEED_STRIDE, SEED_STRIDE):
        samples = generate_images(
            model, family, range(first, first + num_samples), settings, grey_levels=bench.grey_levels
        )
        rows.append(measure(samples, bench))
    return {metric: Spread.of([row[metric] for row in rows]) for metric in rows[0]}
