"""A job of each model family over HTTP, its base in the format that the family's authors publish."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddo_client import Client
from ddo_client.models import Job
from ddo_engine import load_model, sample
from ddo_engine.checkpoint import read_manifest
from ddo_engine.conversion import export
from ddo_engine.families import get_family
from ddo_engine.spec import AutoregressiveSettings
from deploy.local.stack import LocalStack
from tests.acceptance.conftest import StartStack, TinyJob, client_of, wait_for_end
from tests.official_pickles import edm2_file, write
from tests.tiny_families import EDM2, VAR, VQVAE, randomised

GUIDANCE_SCALE = 1.5
ONE_TRIAL: dict[str, Any] = {"grid": {"alpha": [2.0], "beta": [0.5]}, "evaluation": {"num_samples": 32}}


def _finished(stack: LocalStack, client: Client, body: dict[str, Any]) -> Job:
    job = wait_for_end(stack, client, client.submit(body).id, 150)
    assert (job.status, job.error) == ("succeeded", None)
    base, first = client.rounds(job.id)
    assert base.best_fid is not None
    assert first.best_fid is not None
    assert job.best_fid == min(base.best_fid, first.best_fid)
    return job


def _base_and_trained(client: Client, job: Job, folder: Path) -> tuple[Path, Path]:
    trained = next(each for each in client.checkpoints(job.id) if each.trial_index == 0)
    folder.mkdir()
    base = client.download(trained.lineage[0], folder / "base.safetensors")
    return base, client.download(trained.id, folder / "trained.safetensors")


def _weights(path: Path) -> dict[str, Tensor]:
    return load_model(path).state_dict()


def _differ(one: Path, other: Path) -> bool:
    weights = _weights(other)
    return any(not torch.equal(tensor.float(), weights[name].float()) for name, tensor in _weights(one).items())


@pytest.mark.slow
@pytest.mark.timeout(360)
def test_edm2_job_from_official_pickles_is_guided_and_offers_the_converted_base(
    start_stack: StartStack, tiny_job: TinyJob, tmp_path: Path
) -> None:
    inputs = tiny_job.inputs.folder
    weights = randomised("edm2", EDM2, seed=1).state_dict()
    guide_weights = randomised("edm2", EDM2, seed=2).state_dict()
    arguments = {name: value for name, value in EDM2.items() if name != "class_name"}
    base_file = write(inputs / "edm2.pkl", edm2_file(arguments, weights))
    guide_file = write(inputs / "edm2-guide.pkl", edm2_file(arguments, guide_weights, generation=1))
    body = tiny_job.body(base_checkpoint=base_file.as_uri(), **ONE_TRIAL)
    guided = {
        "guide": guide_file.as_uri(),
        "sampler": {"num_steps": 3, "state_dtype": "float32", "guidance_scale": GUIDANCE_SCALE},
    }
    with start_stack() as stack, client_of(stack) as client:
        job = _finished(stack, client, body | guided)
        base, trained = _base_and_trained(client, job, tmp_path / "guided")
        manifest = read_manifest(base)
        assert manifest.family == "edm2"
        assert manifest.network["class_name"] == "Precond"
        offered = _weights(base)
        assert list(offered) == list(weights)
        assert all(torch.equal(offered[name], weight.half()) for name, weight in weights.items())
        assert _differ(base, trained)

        # guidance reached the evaluation: without it the same base has another FID
        plain = _finished(stack, client, body)
        assert plain.base_fid != job.base_fid
        again, _ = _base_and_trained(client, plain, tmp_path / "plain")
        assert again.read_bytes() == base.read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(360)
def test_var_job_from_official_state_dicts_ends_in_one_that_loads_strictly(
    start_stack: StartStack, tiny_job: TinyJob, tmp_path: Path
) -> None:
    inputs = tiny_job.inputs.folder
    model, tokenizer = randomised("var", VAR, seed=1), randomised("var", VQVAE, seed=2)
    torch.save(model.state_dict(), inputs / "var.pth")
    torch.save(tokenizer.state_dict(), inputs / "vqvae.pth")
    body = tiny_job.body(
        base_checkpoint=(inputs / "var.pth").as_uri(),
        autoencoder=(inputs / "vqvae.pth").as_uri(),
        sampler={"kind": "autoregressive", "num_scales": 2},
        **ONE_TRIAL,
    )
    with start_stack() as stack, client_of(stack) as client:
        job = _finished(stack, client, body)
        base, trained = _base_and_trained(client, job, tmp_path / "files")
    offered = _weights(base)
    assert all(torch.equal(offered[name], weight) for name, weight in model.state_dict().items())
    assert _differ(base, trained)

    export(trained, tmp_path / "trained.pth")
    fresh = get_family("var").build(VAR)
    fresh.load_state_dict(torch.load(tmp_path / "trained.pth", weights_only=True), strict=True)
    assert torch.equal(_drawn(fresh, tokenizer), _drawn(load_model(trained), tokenizer))
    assert not torch.equal(_drawn(fresh, tokenizer), _drawn(model, tokenizer))


def _drawn(model: nn.Module, tokenizer: nn.Module) -> Tensor:
    get_family("var").attach_autoencoder(model, tokenizer)
    return sample(model, range(32), sampler=AutoregressiveSettings(labels="balanced"))
