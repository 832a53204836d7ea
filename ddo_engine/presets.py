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
        "sampler": {"num_steps": 18, "labels": "balanced", "batch_size": 1000},
        "reference_set": {"num_samples": 5000},
        "evaluation": {"num_samples": 1000, "seed": 0, "neighbours": 5},
        "confirm": {"num_samples": 5000, "finalists": 2},
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
    "label_dropout": 0.5,
    "unconditional_rows": "data_term",
    "normalise_by_alpha": True,
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
    "evaluation": {"num_samples": 50_000, "seed": 0, "neighbours": 3},
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

PRESETS: Mapping[str, Preset] = {"digits": _DIGITS, "var-d16": _VAR_D16, "var-d30": _VAR_D30}


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
    return merge(PRESETS[name].settings, body)
