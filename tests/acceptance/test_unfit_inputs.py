"""Jobs whose inputs exist but cannot be used: each fails in validation with a code, the field and what to do."""

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ddo_client.models import Job
from ddo_engine.checkpoint import CheckpointManifest, save_checkpoint
from ddo_engine.data import write_dataset
from tests.acceptance.conftest import StartStack, TinyJob, client_of, wait_for_end
from tests.engine_inputs import NETWORK, EngineInputs, write_checkpoint
from tests.tiny_families import VAR, VQVAE, randomised

# writes bad files into a folder and returns what changes in the job
Spoil = Callable[[EngineInputs, Path], dict[str, Any]]
_DATASET, _CHECKPOINT, _FEATURES = "dataset.uri", "base_checkpoint", "feature_network"
_AUTOREGRESSIVE = {"kind": "autoregressive", "num_scales": 2}


def _cut(path: Path, out: Path) -> str:
    out.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return out.as_uri()


def _changed(path: Path, out: Path, position: float) -> str:
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 0xFF
    out.write_bytes(content)
    return out.as_uri()


def _text(out: Path) -> str:
    out.write_text("this is not what you think it is\n" * 100)
    return out.as_uri()


def _dataset(out: Path, images: torch.Tensor, labels: torch.Tensor | None) -> dict[str, Any]:
    write_dataset(out, images, labels)
    return {"dataset": {"uri": out.as_uri()}}


def _zip_of(out: Path, entries: dict[str, bytes]) -> dict[str, Any]:
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return {"dataset": {"uri": out.as_uri()}}


def _grey(size: int, count: int = 30) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def _checkpoint(out: Path, **changes: Any) -> dict[str, Any]:
    write_checkpoint(out, NETWORK | changes)
    return {"base_checkpoint": out.as_uri()}


def _pickle(out: Path) -> dict[str, Any]:
    out.write_bytes(pickle.dumps({"ema": [1.0, 2.0]}))
    return {"base_checkpoint": out.as_uri()}


def _var(out: Path, **network: Any) -> str:
    """A VAR, or with ``class_name="VQVAE"`` what it works behind, changed."""
    config = (VQVAE if network.get("class_name") == "VQVAE" else VAR) | network
    save_checkpoint(out, randomised("var", config, seed=1), CheckpointManifest(family="var", network=config))
    return out.as_uri()


def _path(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def _behind(folder: Path, autoencoder: str, **changes: Any) -> dict[str, Any]:
    return {
        "base_checkpoint": _var(folder / "var.safetensors"),
        "autoencoder": autoencoder,
        "sampler": _AUTOREGRESSIVE,
        **changes,
    }


SPOILED: dict[str, tuple[Spoil, str, str]] = {
    "dataset cut short": (lambda i, f: {"dataset": {"uri": _cut(i.dataset, f / "a")}}, "invalid_dataset", _DATASET),
    "dataset is text": (lambda i, f: {"dataset": {"uri": _text(f / "b")}}, "invalid_dataset", _DATASET),
    "a flipped byte in an image": (
        lambda i, f: {"dataset": {"uri": _changed(i.dataset, f / "c", 0.4)}},
        "invalid_dataset",
        _DATASET,
    ),
    "empty zip": (lambda i, f: _zip_of(f / "d", {}), "invalid_dataset", _DATASET),
    "no image in the zip": (
        lambda i, f: _zip_of(f / "e", {"dataset.json": json.dumps({"labels": None}).encode(), "x.txt": b"x"}),
        "invalid_dataset",
        _DATASET,
    ),
    "an image that is none": (
        lambda i, f: _zip_of(f / "g", {"00000/img00000000.png": b"\x89PNG\r\n\x1a\n not really"}),
        "invalid_dataset",
        _DATASET,
    ),
    "other grey levels": (
        lambda i, f: {"dataset": {"uri": i.dataset.as_uri(), "grey_levels": 17}},
        "invalid_dataset",
        "dataset",
    ),
    "images of another size": (
        lambda i, f: _dataset(f / "h", _grey(8), torch.arange(30) % 3),
        "incompatible_inputs",
        "dataset",
    ),
    "images in colour": (
        lambda i, f: _dataset(f / "j", _grey(4).repeat(1, 3, 1, 1), torch.arange(30) % 3),
        "incompatible_inputs",
        "dataset",
    ),
    "no labels for a conditional model": (
        lambda i, f: _dataset(f / "k", _grey(4), None),
        "incompatible_inputs",
        "dataset",
    ),
    "more classes than the model has": (
        lambda i, f: _dataset(f / "l", _grey(4), torch.arange(30) % 5),
        "incompatible_inputs",
        "dataset",
    ),
    "checkpoint cut short": (
        lambda i, f: {"base_checkpoint": _cut(i.checkpoint, f / "m")},
        "invalid_checkpoint",
        _CHECKPOINT,
    ),
    "checkpoint is text": (lambda i, f: {"base_checkpoint": _text(f / "n")}, "invalid_checkpoint", _CHECKPOINT),
    "checkpoint is a pickle": (lambda i, f: _pickle(f / "o"), "invalid_checkpoint", _CHECKPOINT),
    "checkpoint is the dataset": (
        lambda i, f: {"base_checkpoint": i.dataset.as_uri()},
        "invalid_checkpoint",
        _CHECKPOINT,
    ),
    "checkpoint for larger images": (
        lambda i, f: _checkpoint(f / "p", img_resolution=8),
        "incompatible_inputs",
        "",
    ),
    "feature network cut short": (
        lambda i, f: {"feature_network": _cut(i.feature_network, f / "q")},
        "invalid_feature_network",
        _FEATURES,
    ),
    "feature network is a checkpoint": (
        lambda i, f: {"feature_network": i.checkpoint.as_uri()},
        "invalid_feature_network",
        _FEATURES,
    ),
    "base is an autoencoder": (
        lambda i, f: {"base_checkpoint": _var(f / "r", class_name="VQVAE"), "sampler": _AUTOREGRESSIVE},
        "incompatible_inputs",
        _CHECKPOINT,
    ),
    "no autoencoder for a model of tokens": (
        lambda i, f: {"base_checkpoint": _var(f / "s"), "sampler": _AUTOREGRESSIVE},
        "incompatible_inputs",
        "autoencoder",
    ),
    "an autoencoder for a model of pixels": (
        lambda i, f: {"autoencoder": _var(f / "t", class_name="VQVAE")},
        "incompatible_inputs",
        "autoencoder",
    ),
    "autoencoder of other tokens": (
        lambda i, f: _behind(f, _var(f / "u", class_name="VQVAE", vocab_size=8)),
        "incompatible_inputs",
        "autoencoder",
    ),
    "autoencoder is a model that draws": (
        lambda i, f: _behind(f, i.checkpoint.as_uri()),
        "invalid_spec",
        "autoencoder",
    ),
    "autoencoder cut short": (
        lambda i, f: _behind(f, _cut(_path(_var(f / "v", class_name="VQVAE")), f / "w")),
        "invalid_checkpoint",
        "autoencoder",
    ),
    "sampler of diffusion models for a VAR": (
        lambda i, f: _behind(f, _var(f / "x", class_name="VQVAE"), sampler={"num_steps": 3}),
        "invalid_spec",
        "sampler.kind",
    ),
    "sampler of VAR for a diffusion model": (
        lambda i, f: {"sampler": _AUTOREGRESSIVE},
        "invalid_spec",
        "sampler.kind",
    ),
    "guidance with no guide": (
        lambda i, f: {"sampler": {"num_steps": 3, "guidance_scale": 2.0}},
        "invalid_spec",
        "sampler.guidance_scale",
    ),
    "guide of another family": (
        lambda i, f: {"guide": _var(f / "y"), "sampler": {"num_steps": 3, "guidance_scale": 2.0}},
        "incompatible_inputs",
        "guide",
    ),
}


def _check(name: str, job: Job) -> None:
    _, code, param = SPOILED[name]
    assert (job.status, job.termination_reason) == ("failed", code), name
    assert job.error is not None, name
    assert job.error.code == code, name
    assert (job.error.param or "").startswith(param), (name, job.error)
    assert len(job.error.message.split()) >= 8, (name, job.error)
    assert "Traceback" not in job.error.message, name


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_unfit_inputs_fail_the_job_in_validation_with_field_and_remedy(
    start_stack: StartStack, tiny_job: TinyJob
) -> None:
    folder = tiny_job.inputs.folder / "spoiled"
    folder.mkdir()
    with start_stack(num_workers=2) as stack, client_of(stack) as client:
        jobs = {
            name: client.submit(tiny_job.body(name=name, **spoil(tiny_job.inputs, folder)))
            for name, (spoil, _, _) in SPOILED.items()
        }
        for name, job in jobs.items():
            _check(name, wait_for_end(stack, client, job.id, 300))
        # nothing was spent on them
        for job in jobs.values():
            assert client.rounds(job.id) == ()
