"""A reference set drawn by three workers is that of one, to the bit, whatever their number of threads."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from ddo_engine.checkpoint import CheckpointManifest, save_checkpoint
from ddo_engine.data import load_dataset
from tests.engine_inputs import REPOSITORY
from tests.numerics.golden import description, golden_model
from tests.numerics.var_models import tiny_var, var_config, vqvae_config

pytestmark = pytest.mark.slow
FIRST_SEED, NUM_SAMPLES = 1000, 50
THIRDS = [(1000, 17), (1017, 17), (1034, 16)]
HEUN = {"kind": "heun", "num_steps": 3, "labels": "balanced"}


def edm(folder):
    save(folder / "base.safetensors", "edm", golden_model("02_edm_ddpmpp_cond"), "02_edm_ddpmpp_cond")
    return {"checkpoint": folder / "base.safetensors"}, HEUN


def edm2(folder):
    save(folder / "base.safetensors", "edm2", golden_model("08_edm2_cond", "edm2"), "08_edm2_cond")
    save(folder / "guide.safetensors", "edm2", golden_model("09_edm2_guide", "edm2"), "09_edm2_guide")
    return (
        {"checkpoint": folder / "base.safetensors", "guide": folder / "guide.safetensors"},
        HEUN | {"state_dtype": "float32", "guidance_scale": 1.7},
    )


def var(folder):
    model = tiny_var()
    save(folder / "base.safetensors", "var", model, var_config())
    save(folder / "vqvae.safetensors", "var", model.tokenizer, vqvae_config())
    return (
        {"checkpoint": folder / "base.safetensors", "autoencoder": folder / "vqvae.safetensors"},
        {"kind": "autoregressive", "labels": "random", "guidance_scale": 1.5},
    )


def save(path, family, model, network: str | dict[str, Any]):
    config = description(network)["constructor"] if isinstance(network, str) else network
    save_checkpoint(path, model, CheckpointManifest(family=family, network=config))


def start_worker(folder, files, sampler, first_seed, num_samples, threads):
    folder.mkdir()
    spec = {
        "kind": "reference",
        "sampler": sampler | {"batch_size": 20},
        "first_seed": first_seed,
        "num_samples": num_samples,
        **{name: str(path) for name, path in files.items()},
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    options = ["--workdir", str(folder), "--device", "cpu", "--threads", str(threads)]
    return subprocess.Popen(
        [sys.executable, "-m", "ddo_engine", "generate", str(folder / "spec.json"), *options],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.DEVNULL,
    )


def drawn(folder):
    dataset = load_dataset(folder / "reference-set.zip")
    return dataset.images_NCHW, dataset.labels_N


@pytest.mark.parametrize("family", [edm, edm2, var])
def test_three_workers_draw_what_one_draws(family, tmp_path):
    files, sampler = family(tmp_path)
    whole = start_worker(tmp_path / "whole", files, sampler, FIRST_SEED, NUM_SAMPLES, threads=2)
    assert whole.wait(timeout=100) == 0
    workers = [
        start_worker(tmp_path / f"third{index}", files, sampler, *third, threads=1)
        for index, third in enumerate(THIRDS)
    ]
    assert [worker.wait(timeout=100) for worker in workers] == [0, 0, 0]
    images, labels = drawn(tmp_path / "whole")
    thirds = [drawn(tmp_path / f"third{index}") for index in range(3)]
    assert len(images.unique(dim=0)) == NUM_SAMPLES
    assert torch.equal(torch.cat([part[0] for part in thirds]), images)
    assert torch.equal(torch.cat([part[1] for part in thirds]), labels)
