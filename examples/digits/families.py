"""One small job of every other model family through the whole service: EDM2, and VAR behind its tokenizer.

    python -m examples.digits.families [--family edm2|var|all] [--out DIR] [--seed N] [--control]

For each family: a job over HTTP from the base in assets/, its rounds, the best checkpoint by a signed URL, verified,
loaded, and judged beside the base on samples that no selection saw. VAR's is also exported as the official code wants
it (.pth) and loaded strictly into a fresh network, which draws the same images. With --control the base is also trained
on by plain maximum likelihood, on as many images as all rounds of one chain of trials, the best evaluation kept.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from torch import nn

from ddo_client import Client, DdoError
from ddo_engine import load_model, sample
from ddo_engine.checkpoint import read_manifest
from ddo_engine.conversion import export
from ddo_engine.errors import EngineError
from ddo_engine.families import get_family
from ddo_engine.sampling import generate_images
from ddo_engine.spec import JobSpec
from deploy.local.processes import LocalError, signals_as_exceptions
from deploy.local.stack import LocalStack
from examples.digits.jobs import download_best, run_job
from examples.digits.make_dataset import make_dataset
from examples.digits.self_play import SelfPlay
from examples.digits.verdict import FIRST_SEED, Bench, Spread, measure, table

ASSETS = Path(__file__).parent / "assets"
TOKENIZER = ASSETS / "tokenizer.safetensors"
NUM_WORKERS = 2
NUM_JUDGED = 2000  # samples behind the numbers at the end
NUM_COMPARED = 20  # images that the exported model and the downloaded one must draw alike


@dataclass(frozen=True)
class Example:
    """A family's job.

    Attributes:
        title: For people.
        autoencoder: Of a model that works on tokens.
        settings: What the job says beyond its files and its seed.
        afterwards: What else is shown on the finetuned checkpoint.
    """

    title: str
    settings: Mapping[str, Any]
    autoencoder: Path | None = None
    afterwards: Callable[[Path, Console], None] | None = None


def round_trip(path: Path, console: Console) -> None:
    """Export a VAR to ``.pth``, load it strictly into a fresh network, and compare what both draw.

    Raises:
        DdoError: They draw other images.
    """
    exported = path.with_suffix(".pth")
    export(path, exported)
    fresh = get_family("var").build(read_manifest(path).network)
    fresh.load_state_dict(torch.load(exported, map_location="cpu", weights_only=True), strict=True)
    downloaded = load_model(path, autoencoder=TOKENIZER)
    get_family("var").attach_autoencoder(fresh, load_model(TOKENIZER))
    if not torch.equal(_drawn(fresh), _drawn(downloaded)):
        raise DdoError(f"{exported} draws other images than {path}")
    console.print(f"{exported}: loaded with strict=True into a fresh VAR, which draws the same images\n")


def _drawn(model: nn.Module) -> torch.Tensor:
    return sample(model, range(NUM_COMPARED))


EXAMPLES: Mapping[str, Example] = {
    "edm2": Example(
        title="EDM2: magnitude-preserving U-Net of 181,003 parameters, 12 Heun steps",
        settings={
            "rounds": 2,
            "grid": {"alpha": [1.0, 2.0], "beta": [0.5]},
            "training": {
                "kimg": 3.84,
                "batch_size": 128,
                "learning_rate": 2e-3,
                "warmup_kimg": 1.28,
                "adam_betas": [0.9, 0.99],
                "ema_half_life_kimg": 1.5,
                "P_mean": -0.8,
                "P_std": 1.2,
                "evaluate_every_kimg": 1.28,
            },
            "sampler": {"kind": "heun", "num_steps": 12, "labels": "balanced", "state_dtype": "float32"},
            "reference_set": {"num_samples": 1000},
            "evaluation": {"num_samples": 500, "neighbours": 5},
            "confirm": {"num_samples": 1000},
        },
    ),
    "var": Example(
        title="VAR: next-scale transformer of 239,884 parameters on 30 tokens of four scales, behind its VQVAE",
        autoencoder=TOKENIZER,
        afterwards=round_trip,
        settings={
            "rounds": 2,
            "grid": {"alpha": [1.0, 2.0], "beta": [0.1]},
            "training": {
                "kimg": 6.4,
                "batch_size": 128,
                "learning_rate": 2e-4,
                "warmup_kimg": 1.28,
                "adam_betas": [0.9, 0.95],
                "ema_half_life_kimg": 1.5,
                "evaluate_every_kimg": 3.2,
            },
            "sampler": {"kind": "autoregressive", "num_scales": 4, "labels": "balanced"},
            "reference_set": {"num_samples": 2000},
            "evaluation": {"num_samples": 1000, "neighbours": 5},
            "confirm": {"num_samples": 2000},
        },
    ),
}


def job_body(family: str, dataset: Path, *, seed: int) -> dict[str, Any]:
    """Return the body of ``POST /jobs``."""
    example = EXAMPLES[family]
    files = {} if example.autoencoder is None else {"autoencoder": example.autoencoder.as_uri()}
    return {
        "name": f"handwritten digits, {family}",
        "base_checkpoint": (ASSETS / f"{family}.safetensors").as_uri(),
        **files,
        "dataset": {"uri": dataset.as_uri(), "grey_levels": 17},
        "feature_network": (ASSETS / "features.safetensors").as_uri(),
        **example.settings,
        "seed": seed,
    }


def run_family(family: str, client: Client, dataset: Path, out: Path, *, seed: int, console: Console) -> Path | None:
    """Run one family's job; return the best checkpoint, or None if that is the base."""
    example = EXAMPLES[family]
    console.rule(f"[bold]{example.title}")
    body = job_body(family, dataset, seed=seed)
    folder = out / family
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.yaml").write_text(yaml.safe_dump(body, sort_keys=False, allow_unicode=True))
    job = run_job(client, body, console)
    if job.status != "succeeded" or not job.improvement_percent:
        console.print("The job found nothing better than its base.", style="red")
        return None
    _, finetuned = download_best(client, job, folder, console, autoencoder=example.autoencoder)
    if example.afterwards is not None:
        example.afterwards(finetuned, console)
    return finetuned


def continued_pretraining(family: str, dataset: Path, out: Path, *, seed: int) -> Path:
    """Return the control: the best point of maximum likelihood continued from the base with the job's settings."""
    job = JobSpec.model_validate(job_body(family, dataset, seed=seed))
    features = ASSETS / "features.safetensors"
    run = SelfPlay(job, dataset, features, out / family, autoencoder=EXAMPLES[family].autoencoder)
    return run.continue_pretraining(ASSETS / f"{family}.safetensors").path


def judged(path: Path, family: str, bench: Bench) -> dict[str, Spread]:
    """Measure a checkpoint's samples, drawn as the family's job draws them, from seeds that no selection saw."""
    sampler = JobSpec.model_validate(job_body(family, path, seed=0)).sampler
    model = load_model(path, autoencoder=EXAMPLES[family].autoencoder)
    seeds = range(FIRST_SEED, FIRST_SEED + NUM_JUDGED)
    samples = generate_images(model, get_family(family), seeds, sampler, grey_levels=bench.grey_levels)
    return {name: Spread(value, 0.0) for name, value in measure(samples, bench).items()}


def run_families(families: list[str], out: Path, *, seed: int, with_control: bool, console: Console) -> int:
    """Run the jobs one after the other on one service, and judge what came of them; return the exit code."""
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    dataset, _ = make_dataset(out)
    with (
        console.status("starting Postgres, Valkey, API and workers") as status,
        LocalStack(num_workers=NUM_WORKERS, input_roots=[out, ASSETS]) as stack,
    ):
        status.stop()
        console.print(f"The service is up at {stack.url}: Postgres, Valkey, API, {NUM_WORKERS} workers.")
        with Client(stack.url, stack.api_key) as client:
            best = {name: run_family(name, client, dataset, out, seed=seed, console=console) for name in families}
    bench = Bench.load(out, ASSETS)
    for name, finetuned in best.items():
        checkpoints = {"base": ASSETS / f"{name}.safetensors"} | ({"finetuned": finetuned} if finetuned else {})
        with console.status(f"judging {name}"):
            if with_control:
                checkpoints["continued MLE"] = continued_pretraining(name, dataset, out, seed=seed)
            results = {title: judged(path, name, bench) for title, path in checkpoints.items()}
        console.print(table(results, f"{name}: {NUM_JUDGED:,} samples each, from seeds that no selection saw"))
    return 0 if all(best.values()) else 1


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=[*EXAMPLES, "all"], default="all", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("demo-output/families"), help="folder for data and results")
    parser.add_argument("--seed", type=int, default=0, help="seed of the jobs")
    parser.add_argument("--control", action="store_true", help="also continue pretraining, for comparison")
    arguments = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    families = list(EXAMPLES) if arguments.family == "all" else [arguments.family]
    try:
        with signals_as_exceptions():
            return run_families(
                families,
                arguments.out.resolve(),
                seed=arguments.seed,
                with_control=arguments.control,
                console=console,
            )
    except KeyboardInterrupt:
        console.print("\nstopped; nothing is left running")
        return 130
    except (LocalError, DdoError, EngineError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1


if __name__ == "__main__":
    sys.exit(main())
