"""Validation looks at baselines before anything is spent: what would fail is refused, by field and with a remedy."""

from typing import Any

import pytest

from ddo_engine.checkpoint import CheckpointManifest, save_checkpoint
from ddo_engine.errors import CorruptCheckpoint, EngineError, IncompatibleInputs, InvalidSpec
from tests.engine_inputs import NETWORK, EngineInputs, make_inputs, run_in_process, write_checkpoint
from tests.tiny_families import EDM2, VAR, VQVAE, randomised

DISCRIMINATOR = {"kimg": 0.1, "batch_size": 10, "learning_rate": 1e-3}
GUIDANCE = {"kind": "guidance", "scales": [1.5, 2.0]}
AUTOGUIDANCE = {"kind": "autoguidance", "scales": [2.0]}
CORRECTED = {"kind": "discriminator_guidance", "training": DISCRIMINATOR}


def write(path, family: str, network: dict[str, Any]) -> str:
    save_checkpoint(path, randomised(family, network, seed=5), CheckpointManifest(family=family, network=network))
    return str(path)


def validate(inputs: EngineInputs, tmp_path, baselines: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    spec = {
        "kind": "validate",
        "checkpoint": str(inputs.checkpoint),
        "dataset": str(inputs.dataset),
        "feature_network": str(inputs.feature_network),
        "sampler": {"num_steps": 3},
        "baselines": baselines,
    }
    return run_in_process("validate", spec | changes, tmp_path / "run")[-1]


def refusal(inputs: EngineInputs, tmp_path, baselines: list[dict[str, Any]], **changes: Any) -> EngineError:
    with pytest.raises(EngineError) as caught:
        validate(inputs, tmp_path, baselines, **changes)
    return caught.value


def var_files(tmp_path, **changes: Any) -> dict[str, Any]:
    return {
        "checkpoint": write(tmp_path / "var.safetensors", "var", VAR | changes),
        "autoencoder": write(tmp_path / "vqvae.safetensors", "var", VQVAE),
        "sampler": {"kind": "autoregressive", "num_scales": 2},
    }


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> EngineInputs:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def test_validate_takes_every_baseline_of_a_conditional_diffusion_model(inputs, tmp_path) -> None:
    guide = tmp_path / "guide.safetensors"
    write_checkpoint(guide, NETWORK | {"width": 8})
    baselines = [{"kind": "mle"}, GUIDANCE, AUTOGUIDANCE, CORRECTED]
    for own in ({"baseline_guide": str(guide)}, {"guide": str(guide)}):
        assert validate(inputs, tmp_path, baselines, **own)["type"] == "report"


def test_validate_takes_every_baseline_of_a_conditional_var(inputs, tmp_path) -> None:
    baselines = [{"kind": "mle"}, {"kind": "cca", "alpha": 1.0, "beta": 0.02}, GUIDANCE]
    assert validate(inputs, tmp_path, baselines, **var_files(tmp_path))["type"] == "report"


def test_validate_refuses_guidance_of_an_unconditional_model(inputs, tmp_path) -> None:
    base = tmp_path / "base.safetensors"
    write_checkpoint(base, NETWORK | {"label_dim": 0})
    error = refusal(inputs, tmp_path, [{"kind": "mle"}, GUIDANCE], checkpoint=str(base))
    assert (type(error), error.param) == (InvalidSpec, "baselines[1].kind")
    assert "'autoguidance'" in error.message


def test_validate_refuses_what_contrasts_labels_of_an_unconditional_var(inputs, tmp_path) -> None:
    cca = [{"kind": "cca", "alpha": 1.0, "beta": 0.02}]
    error = refusal(inputs, tmp_path, cca, **var_files(tmp_path, num_classes=0))
    assert (type(error), error.param) == (InvalidSpec, "baselines[0].kind")
    assert error.message.startswith("baselines[0].kind: ")


def test_validate_refuses_a_guide_of_another_family(inputs, tmp_path) -> None:
    guide = write(tmp_path / "guide.safetensors", "edm2", EDM2)
    error = refusal(inputs, tmp_path, [AUTOGUIDANCE], baseline_guide=guide)
    assert (type(error), error.param) == (IncompatibleInputs, "baselines[0].guide")


def test_validate_refuses_a_guide_that_cannot_be_read(inputs, tmp_path) -> None:
    guide = tmp_path / "guide.safetensors"
    guide.write_bytes(b"never written")
    error = refusal(inputs, tmp_path, [AUTOGUIDANCE], baseline_guide=str(guide))
    assert (type(error), error.param) == (CorruptCheckpoint, "baselines")


def test_validate_refuses_a_discriminator_of_too_many_levels(inputs, tmp_path) -> None:
    deep = CORRECTED | {"network": {"channel_mult": [1, 1, 1, 1]}}
    error = refusal(inputs, tmp_path, [deep])
    assert (type(error), error.param) == (InvalidSpec, "baselines[0].network")
