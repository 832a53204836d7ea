"""Tiny inputs whose checkpoint is a VAR, its VQVAE beside it."""

from pathlib import Path
from typing import Any

from ddo_engine.checkpoint import CheckpointManifest, save_checkpoint
from tests.engine_inputs import EngineInputs, make_inputs, merged, run_in_process
from tests.tiny_families import VAR, VQVAE, randomised

SAMPLER = {"kind": "autoregressive", "num_scales": 2, "batch_size": 16}
TRAINING = {"learning_rate": 1e-3, "kimg": 0.064, "evaluate_every_kimg": 0.032, "save_state_every_kimg": 0.016}


def make_var_inputs(folder: Path) -> EngineInputs:
    """Write inputs; the fakes are drawn by ``generate``."""
    inputs = make_inputs(folder)
    for name, network, seed in (("base", VAR, 1), ("vqvae", VQVAE, 2)):
        manifest = CheckpointManifest(family="var", network=network)
        save_checkpoint(inputs.folder / f"{name}.safetensors", randomised("var", network, seed=seed), manifest)
    spec = inputs_of(inputs, num_samples=90, first_seed=1000)
    run_in_process("generate", spec, inputs.folder / "drawn")
    (inputs.folder / "drawn" / "reference-set.zip").replace(inputs.reference_set)
    return inputs


def inputs_of(inputs: EngineInputs, **more: Any) -> dict[str, Any]:
    """Return what the specs of all commands have in common."""
    spec = {
        "checkpoint": str(inputs.checkpoint),
        "autoencoder": str(inputs.folder / "vqvae.safetensors"),
        "dataset": str(inputs.dataset),
        "sampler": SAMPLER,
    }
    return merged(spec, more)


def train_spec(inputs: EngineInputs, **overrides: Any) -> dict[str, Any]:
    """Return a DDO trial of 4 steps with evaluations after steps 2 and 4."""
    return merged(inputs.train_spec(**inputs_of(inputs), training=TRAINING), overrides) | {
        "sampler": merged(SAMPLER, overrides.get("sampler", {}))
    }
