"""One small job of every model family through the whole service: EDM and EDM2 as U-Nets, and VAR behind its tokenizer.

    python -m examples.digits.families [--example edm|edm2|var|var-guided|all] [--out DIR] [--seed N] [--control]

For each: a job over HTTP from the base in assets/, its rounds, the best checkpoint by a signed URL, verified, loaded,
and judged beside the base on samples that no selection saw. VAR's is also exported as the official code wants it (.pth)
and loaded strictly into a fresh network, which draws the same images; "var-guided" is the same base in a job whose
samples are drawn with classifier-free guidance. With --control the base is also trained on by plain maximum likelihood,
on as many images as all rounds of one chain of trials, the best evaluation kept.
"""

import argparse
import sys
from pathlib import Path

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
from deploy.local.processes import LocalError, signals_as_exceptions
from deploy.local.stack import LocalStack
from examples.digits.family_jobs import ASSETS, EXAMPLES, TOKENIZER, continued_pretraining, job_body, judged
from examples.digits.jobs import download_best, run_job
from examples.digits.make_dataset import make_dataset
from examples.digits.verdict import Bench, table

NUM_WORKERS = 2
NUM_JUDGED = 2000  # samples behind the numbers at the end
NUM_COMPARED = 20  # images that the exported model and the downloaded one must draw alike


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


def run_example(name: str, client: Client, dataset: Path, out: Path, *, seed: int, console: Console) -> Path | None:
    """Run one job; return the best checkpoint, or None if that is the base."""
    example = EXAMPLES[name]
    console.rule(f"[bold]{example.title}")
    body = job_body(name, dataset, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    (out / "job.yaml").write_text(yaml.safe_dump(body, sort_keys=False, allow_unicode=True))
    job = run_job(client, body, console)
    if job.status != "succeeded" or not job.improvement_percent:
        console.print("The job found nothing better than its base.", style="red")
        return None
    _, finetuned = download_best(client, job, out, console, autoencoder=example.autoencoder)
    if example.family == "var":
        round_trip(finetuned, console)
    return finetuned


def run_examples(names: list[str], out: Path, *, seed: int, with_control: bool, console: Console) -> int:
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
            best = {name: run_example(name, client, dataset, out / name, seed=seed, console=console) for name in names}
    bench = Bench.load(out, ASSETS)
    for name, finetuned in best.items():
        checkpoints = {"base": EXAMPLES[name].base} | ({"finetuned": finetuned} if finetuned else {})
        with console.status(f"judging {name}"):
            if with_control:
                checkpoints["continued MLE"] = continued_pretraining(name, dataset, out / name, seed=seed)
            results = {title: judged(path, name, bench, num_samples=NUM_JUDGED) for title, path in checkpoints.items()}
        console.print(table(results, f"{name}: {NUM_JUDGED:,} samples each, from seeds that no selection saw"))
    return 0 if all(best.values()) else 1


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--example", choices=[*EXAMPLES, "all"], default="all", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("demo-output/families"), help="folder for data and results")
    parser.add_argument("--seed", type=int, default=0, help="seed of the jobs")
    parser.add_argument("--control", action="store_true", help="also continue pretraining, for comparison")
    arguments = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    names = list(EXAMPLES) if arguments.example == "all" else [arguments.example]
    try:
        with signals_as_exceptions():
            return run_examples(
                names,
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
