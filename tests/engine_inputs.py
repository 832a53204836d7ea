"""Tiny inputs for tests of the engine: a model, images, fakes and a feature network, all made on the spot."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ddo_engine.checkpoint import CheckpointManifest, save_checkpoint
from ddo_engine.command_line import COMMANDS
from ddo_engine.data import round_to_grey_levels, write_dataset
from ddo_engine.evaluation import FeatureManifest, save_features
from ddo_engine.evaluation.networks.image_classifier import ImageClassifier, ImageClassifierConfig
from ddo_engine.events import EventWriter
from ddo_engine.families import get_family
from ddo_engine.interruption import StopRequest
from ddo_engine.run_context import RunContext
from ddo_engine.spec import EngineEvent

REPOSITORY = Path(__file__).parents[1]
NETWORK = {
    "class_name": "MLPPrecond",
    "img_resolution": 4,
    "img_channels": 1,
    "label_dim": 3,
    "width": 16,
    "num_blocks": 1,
    "embedding_channels": 8,
}
CLASSIFIER = {"img_resolution": 4, "img_channels": 1, "num_classes": 3, "model_channels": 2, "feature_dim": 6}


@dataclass(frozen=True)
class EngineInputs:
    """Files that fit together."""

    folder: Path
    checkpoint: Path
    dataset: Path
    reference_set: Path
    feature_network: Path

    def train_spec(self, **overrides: Any) -> dict[str, Any]:
        """Return a DDO trial of 8 steps with evaluations after steps 4 and 8."""
        spec: dict[str, Any] = {
            "kind": "trial",
            "checkpoint": str(self.checkpoint),
            "dataset": str(self.dataset),
            "reference_set": [str(self.reference_set)],
            "feature_network": str(self.feature_network),
            "objective": {"kind": "ddo", "alpha": 2.0, "beta": 0.5},
            "training": {
                "kimg": 0.128,
                "batch_size": 16,
                "learning_rate": 1e-2,
                "ema_half_life_kimg": 0.032,
                "warmup_kimg": 0.032,
                "evaluate_every_kimg": 0.064,
                "save_state_every_kimg": 0.032,
            },
            "sampler": {"num_steps": 3, "batch_size": 32},
            "evaluation": {"num_samples": 48, "seed": 5, "neighbours": 3},
            "seed": 3,
        }
        return merged(spec, overrides)


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Overlay nested settings; a value of ``...`` removes the key."""
    result = dict(below)
    for key, value in above.items():
        if value is ...:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict) and "kind" not in value:
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def make_inputs(folder: Path, *, num_images: int = 90, grey_levels: int = 256) -> EngineInputs:
    """Write inputs: real images are smooth and differ by class, fakes are noisier."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(num_images) % 3

    def images(noise: float) -> torch.Tensor:
        ramp = torch.linspace(0, 150, 16).reshape(1, 1, 4, 4) + 40 * labels[:, None, None, None]
        noisy = ramp + noise * torch.randn(num_images, 1, 4, 4, generator=generator)
        return round_to_grey_levels(noisy.clamp(0, 255).to(torch.uint8), grey_levels)

    inputs = EngineInputs(
        folder, *(folder / name for name in ("base.safetensors", "data.zip", "fakes.zip", "features.safetensors"))
    )
    write_dataset(inputs.dataset, images(10.0), labels)
    write_dataset(inputs.reference_set, images(40.0), labels)
    write_checkpoint(inputs.checkpoint)
    make_features(inputs.feature_network)
    return inputs


def make_features(path: Path, **changes: int) -> None:
    """Write a randomly initialised classifier, by default of the tiny images."""
    config = CLASSIFIER | changes
    torch.manual_seed(11)
    manifest = FeatureManifest(architecture="image_classifier", config=config)
    save_features(path, ImageClassifier(ImageClassifierConfig.model_validate(config)).eval(), manifest)


def write_checkpoint(path: Path, network: dict[str, Any] | None = None, **provenance: Any) -> None:
    """Write a randomly initialised network whose output is not zero."""
    network = network or NETWORK
    torch.manual_seed(13)
    model = get_family("edm").build(network)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_checkpoint(path, model, CheckpointManifest(family="edm", network=network, provenance=provenance))


@dataclass(frozen=True)
class EngineRun:
    """How a process of the engine ended, and what it said."""

    exit_status: int
    events: list[dict[str, Any]]
    stderr: str

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of one type."""
        return [event for event in self.events if event["type"] == kind]

    def files(self, role: str) -> list[dict[str, Any]]:
        """Return the files of one role that were announced."""
        return [event for event in self.of_type("file") if event["role"] == role]


def start_engine(command: str, spec: dict[str, Any], workdir: Path, *, device: str = "cpu") -> subprocess.Popen[str]:
    """Start ``python -m ddo_engine`` on a spec, in the repository, on one thread."""
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "spec.json"
    path.write_text(json.dumps(spec))
    options = ["--workdir", str(workdir), "--device", device]
    return subprocess.Popen(
        [sys.executable, "-m", "ddo_engine", command, str(path), *options],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 60) -> EngineRun:
    """Wait for a process and read its events; a line cut short by a kill is not an event."""
    stdout, stderr = process.communicate(timeout=timeout)
    events = [json.loads(line) for line in stdout.splitlines(keepends=True) if line.endswith("\n")]
    return EngineRun(process.returncode, events, stderr)


def run_engine(command: str, spec: dict[str, Any], workdir: Path, *, device: str = "cpu") -> EngineRun:
    """Run ``python -m ddo_engine`` to its end."""
    return finish(start_engine(command, spec, workdir, device=device), timeout=300)


class Killed(BaseException):
    """Stands for a kill -9 right after an event: nothing in the engine catches it."""


def run_in_process(
    command: str,
    spec: dict[str, Any],
    workdir: Path,
    on_event: Callable[[dict[str, Any], StopRequest], None] | None = None,
    *,
    cache: Path | None = None,
    shard_weights: bool = False,
) -> list[dict[str, Any]]:
    """Run a command inside this process; errors of the engine are raised.

    Args:
        command: ``train``, ``generate``, …
        spec: Of the unit.
        workdir: Made if missing.
        on_event: Sees each event; may request a stop or raise.
        cache: Folder that runs share.
        shard_weights: What only several processes can do.

    Returns:
        The events, also those before an error if ``on_event`` kept them.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    stop = StopRequest()
    events: list[dict[str, Any]] = []

    def listen(event: EngineEvent) -> None:
        content = json.loads(event.model_dump_json())
        events.append(content)
        if on_event is not None:
            on_event(content, stop)

    writer = EventWriter(io.StringIO(), listen)
    context = RunContext(workdir, torch.device("cpu"), writer, stop, cache, shard_weights=shard_weights)
    import_module(f"ddo_engine.{command}").run(COMMANDS[command].model_validate(spec), context)
    return events


def results(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what an undisturbed run and an interrupted one must agree on, each event once, without its folder.

    Left out: which events there are depends on the clock (progress) or on the interruptions (started, states), or what
    they say on the machine (performance).
    """
    kept: dict[str, dict[str, Any]] = {}
    for event in events:
        if event["type"] in ("started", "progress", "performance") or event.get("role") == "state":
            continue
        content = dict(event, path=Path(event["path"]).name) if "path" in event else event
        key = json.dumps([content.get(name) for name in ("type", "role", "kimg", "path", "code", "fingerprint")])
        assert kept.setdefault(key, content) == content, "a repeated event has other content"
    return list(kept.values())
