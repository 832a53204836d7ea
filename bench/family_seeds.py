"""Does DDO help a U-Net of EDM, an EDM2 and a VAR, beyond noise and beyond training longer? On digits, by the service.

    python -m bench.family_seeds [--examples edm edm2 var var-guided] [--seeds 3] [--out DIR]

Each seed is one job of ``examples/digits/families.py`` over HTTP; its control is MLE continued from the same base with
the job's settings on as many images as all its rounds see, real and fake, evaluated as often, its best evaluation kept
like DDO's. All are judged on sets of samples that no selection saw. The VAR's are also judged over scales of
classifier-free guidance. Prints tables in Markdown.
"""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from bench.run_seeds import Verdicts, failures, print_runs, print_seeds
from ddo_client import Client
from deploy.local.processes import signals_as_exceptions
from deploy.local.stack import LocalStack
from examples.digits.families import NUM_WORKERS, run_example
from examples.digits.family_jobs import ASSETS, EXAMPLES, continued_pretraining, judged
from examples.digits.make_dataset import make_dataset
from examples.digits.verdict import Bench, Spread

NUM_SETS = 3
GUIDANCE_SCALES = (0.0, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Runs:
    """The checkpoints of one example: the base's, and of each run seed the control's and DDO's."""

    base: Path
    control: list[Path]
    ddo: list[Path]


def finetune(names: Sequence[str], dataset: Path, out: Path, seeds: range, console: Console) -> dict[str, list[Path]]:
    """Run the jobs of all seeds on one service; return their best checkpoints.

    A job that finds nothing better than its base has the base as its best.
    """
    with (
        LocalStack(num_workers=NUM_WORKERS, input_roots=[out, ASSETS]) as stack,
        Client(stack.url, stack.api_key) as client,
    ):
        return {
            name: [
                run_example(name, client, dataset, out / name / f"seed-{seed}", seed=seed, console=console)
                or EXAMPLES[name].base
                for seed in seeds
            ]
            for name in names
        }


def controls(name: str, dataset: Path, out: Path, seeds: range) -> list[Path]:
    """Run the controls of all seeds, two at a time; return their best checkpoints."""
    with ThreadPoolExecutor(NUM_WORKERS) as pool:
        return list(
            pool.map(
                lambda seed: continued_pretraining(name, dataset, out / name / f"seed-{seed}", seed=seed),
                seeds,
            )
        )


def print_guidance(name: str, runs: Runs, bench: Bench, num_samples: int) -> None:
    """Print the FIDs of base, control and DDO over scales of guidance, means over run seeds."""

    def fids(paths: Sequence[Path], scale: float) -> str:
        verdicts = [judged(path, name, bench, num_samples=num_samples, guidance_scale=scale) for path in paths]
        return " / ".join(
            f"{sum(verdict[f'fid {part}'].mean for verdict in verdicts) / len(verdicts):.2f}"
            for part in ("features/train", "judge/heldout")
        )

    print(f"\n{name}: fid features/train / fid judge/heldout over the guidance scale s\n")
    print("| | " + " | ".join(f"s = {scale:g}" for scale in GUIDANCE_SCALES) + " |")
    print("|---" * (len(GUIDANCE_SCALES) + 1) + "|")
    for title, paths in (("base", [runs.base]), ("continued MLE", runs.control), ("DDO", runs.ddo)):
        print(f"| {title} | " + " | ".join(fids(paths, scale) for scale in GUIDANCE_SCALES) + " |")


def report(name: str, runs: Runs, bench: Bench, num_samples: int) -> bool:
    """Print what the runs of one example show; return whether DDO is better beyond noise."""

    def verdict(path: Path) -> dict[str, Spread]:
        return judged(path, name, bench, num_samples=num_samples, num_sets=NUM_SETS)

    base = verdict(runs.base)
    control: Verdicts = [verdict(path) for path in runs.control]
    ddo: Verdicts = [verdict(path) for path in runs.ddo]
    print(f"\n{EXAMPLES[name].title}; {len(ddo)} run seeds, each number from {NUM_SETS} x {num_samples:,} samples\n")
    print_runs(base, control, ddo)
    print_seeds(control, ddo)
    missed = failures(base, control, ddo)
    print("\n" + ("\n".join(f"MISSED {line}" for line in missed) or "Better beyond noise in every FID; nothing fell."))
    if EXAMPLES[name].family == "var":
        print_guidance(name, runs, bench, num_samples)
    return not missed


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", choices=list(EXAMPLES), nargs="+", default=list(EXAMPLES))
    parser.add_argument("--seeds", type=int, default=3, help="runs of job and control (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=5000, help="images in a set (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("bench-output/family_seeds"), help="folder for results")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(NUM_WORKERS)
    dataset, _ = make_dataset(out)
    seeds = range(arguments.seeds)
    bench = Bench.load(out, ASSETS)
    with signals_as_exceptions():
        best = finetune(arguments.examples, dataset, out, seeds, Console(stderr=True, highlight=False))
        good = [
            report(
                name,
                Runs(EXAMPLES[name].base, controls(name, dataset, out, seeds), best[name]),
                bench,
                arguments.samples,
            )
            for name in arguments.examples
        ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
