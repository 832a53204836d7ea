"""Named starting points for a job: settings that are known to work together. Imports no torch."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Measured in docs/experiments.md: a 2x2 grid on 8x8 digits, two rounds, about a minute on two CPU cores.
    "digits": {
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
}


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``below`` overlaid with ``above``, mapping by mapping; everything else is replaced whole."""
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
    return merge(PRESETS[name], body)
