"""The whole service on this machine: finetune a digit model by DDO over HTTP, and see what it brought.

    make demo            (or: python -m examples.digits.demo [--out DIR] [--seed N])

Starts Postgres, Valkey, API and two workers on ports of their own, submits a job, watches it, prints FID per round,
downloads the best checkpoint by a signed URL, judges it by numbers that no selection saw, and writes a picture of
samples before and after. Everything that it started is gone at the end, also after Ctrl-C.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from ddo_client import Client, DdoError
from ddo_client.sample_pictures import draw_samples
from deploy.local.processes import LocalError, signals_as_exceptions
from deploy.local.stack import LocalStack
from examples.digits.compare import compare
from examples.digits.jobs import download_best, run_job
from examples.digits.make_dataset import make_dataset
from examples.digits.verdict import Bench, table, verdict

ASSETS = Path(__file__).parent / "assets"
NUM_WORKERS = 2
WHAT_IT_IS = """\
What this is: FID here is a distance between features of small digit classifiers, comparable only with itself; 'judge'
is a classifier trained on held-out digits alone. Most of the drop is one defect that likelihood training leaves and DDO
mends: samples that come out flat, cut at black and white (docs/experiments.md). What gets worse: the denoising loss.
"""


def job_body(dataset: Path, *, seed: int) -> dict[str, Any]:
    """Return the body of ``POST /jobs``: the preset says all the rest."""
    return {
        "name": "handwritten digits",
        "preset": "digits",
        "base_checkpoint": (ASSETS / "base.safetensors").as_uri(),
        "dataset": {"uri": dataset.as_uri()},
        "feature_network": (ASSETS / "features.safetensors").as_uri(),
        "seed": seed,
    }


def demo(out: Path, *, seed: int, console: Console) -> int:
    """Run the demo; return the exit code."""
    out.mkdir(parents=True, exist_ok=True)
    console.print("[bold]Direct Discriminative Optimization on real handwritten digits[/]")
    console.print(
        "1,797 scans of 8×8 pixels (scikit-learn), 1,297 for training; the base is an EDM of 85,088 parameters.\n"
    )
    dataset, _ = make_dataset(out)
    body = job_body(dataset, seed=seed)
    (out / "job.yaml").write_text(yaml.safe_dump(body, sort_keys=False, allow_unicode=True))
    with (
        console.status("starting Postgres, Valkey, API and workers") as status,
        LocalStack(num_workers=NUM_WORKERS, input_roots=[out, ASSETS]) as stack,
    ):
        status.stop()
        console.print(f"The service is up at {stack.url}: Postgres, Valkey, API, {NUM_WORKERS} workers.")
        with Client(stack.url, stack.api_key) as client:
            job = run_job(client, body, console)
            if job.status != "succeeded" or job.best_checkpoint_id is None:
                console.print("The job found nothing better than its base.", style="red")
                return 1
            _, finetuned = download_best(client, job, out, console)
            draw_samples(client, job.id, out / "samples.png")
            console.print(f"Samples that the job measured, of base and rounds: {out / 'samples.png'}")
    torch.set_num_threads(1)  # two that wait for each other cost minutes where others want the cores too
    base = ASSETS / "base.safetensors"
    bench = Bench.load(out, ASSETS)
    with console.status("judging"):
        results = {name: verdict(path, bench, num_seeds=1) for name, path in (("base", base), ("finetuned", finetuned))}
    console.print(table(results, "5,000 samples each, from latents that no selection saw"))
    console.print(WHAT_IT_IS)
    compare(base, finetuned, out / "base-and-finetuned.png")
    console.print(f"Samples before and after, same latents: {out / 'base-and-finetuned.png'}")
    return 0


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for data and results")
    parser.add_argument("--seed", type=int, default=0, help="seed of the job")
    arguments = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    try:
        with signals_as_exceptions():
            return demo(arguments.out.resolve(), seed=arguments.seed, console=console)
    except KeyboardInterrupt:
        console.print("\nstopped; nothing is left running")
        return 130
    except (LocalError, DdoError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1


if __name__ == "__main__":
    sys.exit(main())
