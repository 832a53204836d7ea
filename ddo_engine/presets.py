"""Named starting points for a job: settings that are known to work together. Imports no torch.

One constant per preset. docs/presets.md says of every field where it comes from.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Fields of a job, as JSON, and what they are for.

    Attributes:
        description: One or two sentences for people who choose.
        settings: Fields of ``JobSpec``; those that a job gives itself win.
    """

    description: str
    settings: Mapping[str, Any]


_DIGITS = Preset(
    "Handwritten digits of 8×8 pixels: two rounds of a 2×2 grid, about a minute on two CPU cores.",
    {
        "dataset": {"grey_levels": 17},
        "rounds": 2,
        "grid": {"alpha": [2.0, 4.0], "beta": [0.3, 1.0]},
        "training": {
            "kimg": 51.2,
            "batch_size": 256,
            "learning_rate": 5e-4,
            "warmup_kimg": 12.8,
            "ema_half_life_kimg": 20.0,
            "P_mean": -0.8,
            "P_std": 1.2,
            "evaluate_every_kimg": 25.6,
        },
        "sampler": {"kind": "heun", "num_steps": 18, "labels": "balanced", "batch_size": 1000},
        "reference_set": {"kind": "offline", "num_samples": 5000},
        "evaluation": {"num_samples": 1000, "seed": 0, "neighbours": 5},
        "confirm": {"num_samples": 5000, "finalists": 2},
    },
)

_EDM_CIFAR10: Mapping[str, Any] = {
    "dataset": {"resolution": 32},
    "grid": {"alpha": [0.5, 1.0, 2.0, 4.0, 6.0], "beta": [0.01, 0.02, 0.05, 0.1]},
    "training": {
        "kimg": 1500.0,
        "batch_size": 512,
        "micro_batch_size": 64,
        "learning_rate": 1.5e-4,
        "schedule": {"kind": "edm"},
        "warmup_kimg": 1500.0,
        "adam_betas": [0.9, 0.999],
        "ema_half_life_kimg": 250.0,
        "P_mean": -1.2,
        "P_std": 1.2,
        "augment_probability": 0.12,
        "evaluate_every_kimg": 50.0,
    },
    "stop": {"patience_rounds": 2},
    "sampler": {"kind": "heun", "num_steps": 18, "state_dtype": "float64", "labels": "balanced"},
    "reference_set": {"kind": "offline", "num_samples": 50_000, "shards": 4},
    "evaluation": {"num_samples": 50_000, "seed": 0, "neighbours": 3},
}
_EDM_CIFAR10_UNCOND = Preset(
    "EDM on CIFAR-10, unconditional, as in the paper (FID 1.97 to 1.38): twelve rounds of twenty trials.",
    {**_EDM_CIFAR10, "rounds": 12},
)
_EDM_CIFAR10_COND = Preset(
    "EDM on CIFAR-10, class-conditional, as in the paper (FID 1.85 to 1.30): sixteen rounds of twenty trials.",
    {**_EDM_CIFAR10, "rounds": 16},
)

_EDM2_ROUND: Mapping[str, Any] = {
    "kimg": 6400.0,
    "batch_size": 512,
    "learning_rate": 5e-5,
    "schedule": {"kind": "edm2", "decay_reference_batches": 2000.0},
    "warmup_kimg": 1000.0,
    "adam_betas": [0.9, 0.99],
    "ema_std": 0.05,
    "evaluate_every_kimg": 131.072,  # 2**17 images
}
_EDM2: Mapping[str, Any] = {
    "grid": {"alpha": [0.5, 1.0, 2.0, 4.0, 6.0], "beta": [0.01, 0.02, 0.05, 0.1]},
    "stop": {"patience_rounds": 2},
    "reference_set": {"kind": "offline", "num_samples": 50_000, "shards": 16},
    "evaluation": {"num_samples": 50_000, "seed": 0, "neighbours": 3},
}
_EDM2_SAMPLER: Mapping[str, Any] = {
    "kind": "heun",
    "num_steps": 32,
    "state_dtype": "float32",
    "network_dtype": "float32",
    "labels": "balanced",
}
_EDM2_S_IMG64 = Preset(
    "EDM2-S on ImageNet at 64×64 pixels, as in the paper (FID 1.60 to 0.97): 24 rounds of twenty trials, with wider "
    "noise and a lower learning rate from round 17.",
    {
        **_EDM2,
        "dataset": {"resolution": 64},
        "rounds": 24,
        "training": {**_EDM2_ROUND, "micro_batch_size": 64, "P_mean": -0.8, "P_std": 1.6},
        "round_overrides": [{"from_round": 17, "training": {"P_std": 3.0, "learning_rate": 2e-5}}],
        "sampler": _EDM2_SAMPLER,
    },
)
_EDM2_L_IMG512 = Preset(
    "EDM2-L on latents of ImageNet at 512×512 pixels, after the paper's later versions (FID 1.26, 1.21 with guidance): "
    "28 rounds of twenty trials, with wider noise in two steps. The job names its autoencoder.",
    {
        **_EDM2,
        "dataset": {"grey_levels": 256},
        "rounds": 28,
        "training": {**_EDM2_ROUND, "micro_batch_size": 16, "P_mean": -0.4, "P_std": 1.6},
        "round_overrides": [
            {"from_round": 13, "training": {"P_std": 2.0}},
            {"from_round": 21, "training": {"P_std": 3.0, "learning_rate": 2e-5}},
        ],
        "sampler": {**_EDM2_SAMPLER, "batch_size": 32},
    },
)

_VAR_ROUND = {
    "kimg": 81.92,  # 80 steps
    "batch_size": 1024,
    "learning_rate": 4e-6,
    "schedule": {"kind": "var", "decay": "lin0", "initial_factor": 0.005},
    "warmup_kimg": 1.6384,
    "adam_betas": [0.9, 0.95],
    "weight_decay": 0.05,
    "max_gradient_norm": 2.0,
    "precision": "float16",
    "random_crop": True,
    "ema_half_life_kimg": 0.0,
    "evaluate_every_kimg": 4.096,
}
_VAR = {
    "dataset": {"resolution": 256, "transform": "var", "convert": "rgb", "grey_levels": 256},
    "rounds": 2,
    "grid": {"alpha": [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0], "beta": [0.02]},
    "sampler": {
        "kind": "autoregressive",
        "labels": "balanced",
        "batch_size": 64,
        "guidance_scale": 0.0,
        "top_k": 0,
        "top_p": 0.0,
        "num_scales": 10,
    },
    "reference_set": {"kind": "online", "decode": True, "batch_size": 64},
    # without guidance, which ranks, and at one moderate scale
    "evaluation": {"num_samples": 50_000, "seed": 0, "neighbours": 3, "guidance_scales": [1.5]},
}
_VAR_D16 = Preset(
    "VAR-d16 on ImageNet at 256×256 pixels, as in the paper: two rounds of 80 steps, ten alphas, fakes drawn online.",
    _VAR | {"training": _VAR_ROUND | {"micro_batch_size": 32, "final_learning_rate_factor": 0.1}},
)
_VAR_D30 = Preset(
    "VAR-d30 on ImageNet at 256×256 pixels, as in the paper: like var-d16, with VAR-d30's weight decay.",
    _VAR
    | {
        "training": _VAR_ROUND
        | {"micro_batch_size": 4, "final_learning_rate_factor": 0.01, "final_weight_decay": 0.08},
        "reference_set": {"kind": "online", "decode": True, "batch_size": 16},
    },
)

PRESETS: Mapping[str, Preset] = {
    "digits": _DIGITS,
    "edm-cifar10-uncond": _EDM_CIFAR10_UNCOND,
    "edm-cifar10-cond": _EDM_CIFAR10_COND,
    "edm2-s-img64": _EDM2_S_IMG64,
    "edm2-l-img512": _EDM2_L_IMG512,
    "var-d16": _VAR_D16,
    "var-d30": _VAR_D30,
}


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``below`` overlaid with ``above``, mapping by mapping; everything else is replaced whole.

    A mapping of another ``kind`` is replaced whole too: the settings of one schedule are not those of another.
    """
    if "kind" in below and "kind" in above and below["kind"] != above["kind"]:
        return dict(deepcopy(above))
    merged = dict(deepcopy(below))
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = merge(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return merged


def overlaid(below: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the job body ``below`` overlaid with another, whose fields win in every round.

    Where ``body`` says nothing of later rounds, the overrides of ``below`` lose what it names: fields of training, and
    the grid. One that then changes nothing is left out.
    """
    merged = merge(below, body)
    if "round_overrides" in body or not below.get("round_overrides"):
        return merged
    training = body.get("training")
    named = training.keys() if isinstance(training, Mapping) else ()
    overrides = []
    for override in deepcopy(below["round_overrides"]):
        kept = {name: value for name, value in override.get("training", {}).items() if name not in named}
        grid = None if "grid" in body else override.get("grid")
        if kept or grid is not None:
            overrides.append({"from_round": override["from_round"], "training": kept, "grid": grid})
    merged["round_overrides"] = overrides
    return merged


def with_preset(body: Mapping[str, Any]) -> dict[str, Any]:
    """Fill a job body from the preset that it names.

    Raises:
        ValueError: The preset does not exist.
    """
    name = body.get("preset")
    if name is None:
        return dict(body)
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"preset: there is no preset {name!r}; known: {', '.join(sorted(PRESETS))}")
    return overlaid(PRESETS[name].settings, body)
