"""Does every preset start at full size? Two DDO steps of each, by the engine's own command, on one device.

    python -m bench.presets [--preset NAME …] [--batch 1] [--folder DIR]

Weights and images are random; the settings are the preset's for its first trial, the batch is as small as told, and
the trial ends after two steps. Peak memory is what the engine's event ``performance`` says after the last of them,
before files are written; beside it stands the floor: target, reference and average, gradients and Adam's two moments,
four bytes a weight. Where the floor alone exceeds the memory that is free, or nearly, the preset is not started, and
the table says so.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.full_size import (
    EDM2_L_IMG512,
    EDM2_S_IMG64,
    EDM_CIFAR10,
    VAR_D16,
    VAR_D30,
    VQVAE,
    built,
    built_var,
    processor,
)
from ddo_engine.checkpoint import CheckpointManifest, read_manifest, save_checkpoint
from ddo_engine.conversion import convert
from ddo_engine.data import round_to_grey_levels, write_dataset
from ddo_engine.data.writer import write_latents
from ddo_engine.families import get_family
from ddo_engine.families.diffusion.space import LatentScaling
from ddo_engine.presets import PRESETS
from ddo_engine.spec import FileRef, JobSpec, OnlineReferenceSet, TrainingSettings, TrainSpec
from deploy.local.processes import signals_as_exceptions

_REPOSITORY = Path(__file__).parents[1]
_GB = 1e9
_STEPS, _COPIES, _BYTES = 2, 6, 4
# A trial of one row took 1.30 (EDM2-S), 1.25 (VAR-d16) and 1.19 (EDM2-L) times its floor: less beside larger weights.
_ROOM = 1.2
_NUM_IMAGES = 8


@dataclass(frozen=True)
class Architecture:
    """What a preset trains: a family and the network's constructor arguments; None: the digits' own checkpoint."""

    family: str
    network: dict[str, Any]
    latent_scaling: LatentScaling | None = None

    @property
    def num_parameters(self) -> int:
        """Counted without memory for them."""
        with torch.device("meta"):
            return sum(weight.numel() for weight in get_family(self.family).build(self.network).parameters())


# Of EDM2's latent models.
_LATENTS = LatentScaling(raw_mean=(5.81, 3.25, 0.12, -2.15), raw_std=(4.17, 4.62, 3.71, 3.28))
# Constructor arguments of Stable Diffusion's.
_AUTOENCODER: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 256,
}
_DIGITS = _REPOSITORY / "examples/digits/assets/base.safetensors"


def architecture_of(preset: str) -> Architecture:
    """Return what a preset is for."""
    if preset == "digits":
        manifest = read_manifest(_DIGITS)
        return Architecture(manifest.family, manifest.network)
    return {
        "edm-cifar10-uncond": Architecture("edm", EDM_CIFAR10 | {"label_dim": 0}),
        "edm-cifar10-cond": Architecture("edm", EDM_CIFAR10),
        "edm2-s-img64": Architecture("edm2", EDM2_S_IMG64),
        "edm2-l-img512": Architecture("edm2", EDM2_L_IMG512, _LATENTS),
        "var-d16": Architecture("var", VAR_D16),
        "var-d30": Architecture("var", VAR_D30),
    }[preset]


def make_inputs(preset: str, batch_size: int, folder: Path) -> None:
    """Write a checkpoint, images, fakes and the spec of the trial into ``folder``."""
    architecture, spec = architecture_of(preset), _job(preset)
    torch.manual_seed(0)
    family, network = architecture.family, architecture.network
    model = built_var(network) if family == "var" else built(family, network)
    manifest = CheckpointManifest(family=family, network=network, latent_scaling=architecture.latent_scaling)
    save_checkpoint(folder / "base.safetensors", model, manifest)
    files: dict[str, Any] = {"checkpoint": FileRef(path=str(folder / "base.safetensors"))}
    if family == "var":
        tokenizer = CheckpointManifest(family="var", network=VQVAE)
        save_checkpoint(folder / "tokenizer.safetensors", built("var", VQVAE), tokenizer)
        files["autoencoder"] = FileRef(path=str(folder / "tokenizer.safetensors"))
    if architecture.latent_scaling is not None:
        files["autoencoder"] = _latent_autoencoder(folder)
    for name in ("data.zip", "fakes.zip"):
        _write_images(folder / name, spec, architecture)
    files["dataset"] = FileRef(path=str(folder / "data.zip"))
    if isinstance(spec.reference_set, OnlineReferenceSet):
        files["online_reference_set"] = spec.reference_set
    else:
        files["reference_set"] = (FileRef(path=str(folder / "fakes.zip")),)
    trial = TrainSpec(
        objective=spec.grid.cells[0],
        training=_two_steps(spec.training, batch_size),
        sampler=spec.sampler,
        dataset_reading=spec.dataset.reading,
        grey_levels=spec.dataset.grey_levels,
        **files,
    )
    (folder / "trial.json").write_text(trial.model_dump_json(), encoding="utf-8")


def _latent_autoencoder(folder: Path) -> FileRef:
    """Write an AutoencoderKL of the size that EDM2's latents come from, through the conversion that users take."""
    from diffusers import AutoencoderKL  # noqa: PLC0415  (an extra, and seconds to import)

    AutoencoderKL(**_AUTOENCODER).save_pretrained(folder / "autoencoder")
    convert(folder / "autoencoder", folder / "autoencoder.safetensors")
    return FileRef(path=str(folder / "autoencoder.safetensors"))


def _job(preset: str) -> JobSpec:
    inputs = {"base_checkpoint": "file:///base", "dataset": {"uri": "file:///data"}, "feature_network": "file:///f"}
    return JobSpec.model_validate({"preset": preset} | inputs)


def _two_steps(training: TrainingSettings, batch_size: int) -> TrainingSettings:
    kimg = _STEPS * batch_size / 1000
    changes = {
        "kimg": kimg,
        "batch_size": batch_size,
        "micro_batch_size": None,
        "warmup_kimg": min(training.warmup_kimg, kimg),
        "evaluate_every_kimg": kimg,
    }
    return TrainingSettings.model_validate(dict(training) | changes)


def _write_images(path: Path, spec: JobSpec, architecture: Architecture) -> None:
    network = architecture.network
    side = spec.dataset.resolution or network["img_resolution"]
    channels = network.get("img_channels", 3)
    label_dim = network.get("label_dim", network.get("num_classes", 0))
    labels_N = torch.arange(_NUM_IMAGES) % label_dim if label_dim else None
    if architecture.latent_scaling is not None:
        moments = torch.randn(_NUM_IMAGES, 2 * channels, side, side)
        write_latents(path, torch.cat([moments[:, :channels] * 4, moments[:, channels:].abs()], dim=1), labels_N)
        return
    images_NCHW = torch.randint(256, (_NUM_IMAGES, channels, side, side), dtype=torch.uint8)
    write_dataset(path, round_to_grey_levels(images_NCHW, spec.dataset.grey_levels), labels_N)


@dataclass(frozen=True)
class Outcome:
    """What became of a preset: seconds and peak of the engine's process, or why there are none.

    ``processor_seconds`` counts all its threads: on a busy machine the better measure.
    """

    preset: str
    num_parameters: int
    seconds: float = 0.0
    processor_seconds: float = 0.0
    peak_bytes: int = 0
    note: str = ""

    @property
    def floor_bytes(self) -> int:
        """What weights, gradients and Adam take."""
        return _COPIES * _BYTES * self.num_parameters

    def row(self) -> str:
        """Return a line of the table."""
        measured = "– | – | –"
        if self.peak_bytes:
            measured = f"{self.seconds:.1f} | {self.processor_seconds:.1f} | {self.peak_bytes / _GB:.2f}"
        size = f"{self.num_parameters / 1e6:.1f} M | {self.floor_bytes / _GB:.2f}"
        return f"| `{self.preset}` | {size} | {measured} | {self.note} |"


def try_preset(preset: str, batch_size: int, folder: Path) -> Outcome:
    """Take two steps of a preset, unless its weights alone are more than the memory that is free."""
    outcome = Outcome(preset, architecture_of(preset).num_parameters)
    free = _free_bytes()
    if _ROOM * outcome.floor_bytes > free:
        note = f"not started: of {_ROOM} times the floor only {free / _GB:.1f} GB are free"
        return Outcome(preset, outcome.num_parameters, note=note)
    with tempfile.TemporaryDirectory(prefix=f"{preset}-", dir=folder) as name:
        here = Path(name)
        make = [sys.executable, "-m", "bench.presets", "--make", preset, "--batch", str(batch_size)]
        subprocess.run([*make, "--folder", name], check=True, cwd=_REPOSITORY)
        command = [sys.executable, "-m", "ddo_engine", "train", "trial.json", "--workdir", "out"]
        with (here / "events").open("wb") as events, (here / "log").open("wb") as log:
            started, processors_before = time.monotonic(), _processor_seconds_of_children()
            environment = os.environ | {"PYTHONPATH": str(_REPOSITORY)}
            done = subprocess.run(command, check=False, cwd=here, stdout=events, stderr=log, env=environment)
        seconds, processors = time.monotonic() - started, _processor_seconds_of_children() - processors_before
        told = [json.loads(line) for line in (here / "events").read_text(encoding="utf-8").splitlines()]
    peak = max((event["peak_memory_bytes"] for event in told if event["type"] == "performance"), default=0)
    return Outcome(preset, outcome.num_parameters, seconds, processors, peak, _verdict(told, done.returncode))


def _processor_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _verdict(events: list[dict[str, Any]], returncode: int) -> str:
    failed = next((event["message"] for event in events if event["type"] == "error"), None)
    if returncode != 0 or failed:
        return f"failed: {failed or f'exit status {returncode}'}"
    metrics = [event for event in events if event["type"] == "metric"]
    losses = ", ".join(f"{event['values']['loss']:.4f}" for event in metrics)
    return f"{metrics[-1]['step']} steps, loss {losses}"


def _free_bytes() -> int:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    available = next(line for line in lines if line.startswith("MemAvailable:"))
    return int(available.split()[1]) * 1024


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", choices=sorted(PRESETS), default=list(PRESETS), help="default: all")
    parser.add_argument("--batch", type=int, default=1, help="real images per step (default: %(default)s)")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="where files may lie meanwhile"
    )
    parser.add_argument("--make", choices=sorted(PRESETS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        make_inputs(arguments.make, arguments.batch, arguments.folder)
        return
    print(f"{processor()}, {os.cpu_count()} cores, torch {torch.__version__}, batch {arguments.batch}\n")
    print("| preset | parameters | floor, GB | seconds | of processors | peak, GB | |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with signals_as_exceptions():
        for preset in arguments.preset:
            print(try_preset(preset, arguments.batch, arguments.folder).row(), flush=True)


if __name__ == "__main__":
    main()
