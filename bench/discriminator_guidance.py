"""What does discriminator guidance make of the digits' base? The baseline of DDO that corrects samples, not weights.

The discriminator is trained by the engine's command line on the training split and on the fakes of DDO's first round
(the preset ``digits``). Then the base is sampled with several weights of its correction, and judged as
``examples/digits/verdict.py`` judges, on the same seeds, so that the columns stand beside those of
``python -m bench.digits_seeds``. Prints tables in Markdown.

    python -m bench.discriminator_guidance [--seeds 3] [--out DIR]
"""

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean

import torch

from ddo_engine.checkpoint import load_checkpoint
from ddo_engine.sampling import generate_images
from ddo_engine.spec import (
    DiscriminatorNetwork,
    DiscriminatorSpec,
    DiscriminatorTraining,
    FileRef,
    FileRole,
    Metric,
)
from examples.digits.engine import files_of, run_engine
from examples.digits.make_dataset import make_dataset
from examples.digits.self_play import SelfPlay, job_spec
from examples.digits.verdict import FIRST_SEED, SAMPLER, SEED_STRIDE, Bench, Spread, measure

ASSETS = Path(__file__).parents[1] / "examples" / "digits" / "assets"
BASE = ASSETS / "base.safetensors"
NETWORK = DiscriminatorNetwork(model_channels=32)
# As many images, real and fake, as one chain of DDO trials sees in both rounds, at the same noise.
TRAINING = DiscriminatorTraining(kimg=102.4, batch_size=256, learning_rate=1e-3, P_mean=-0.8, P_std=1.2)
WEIGHTS = (1.0, 2.0, 3.0)


def train(out: Path, seed: int, training: DiscriminatorTraining) -> tuple[Path, list[Metric]]:
    """Draw the first round's fakes of a run seed and train a discriminator on them.

    Returns:
        Its file, and its windows of diagnostics.
    """
    dataset, job = out / "digits-train.zip", job_spec(out, ASSETS, seed=seed)
    play = SelfPlay(job, dataset, ASSETS / "features.safetensors", out / f"seed-{seed}")
    fakes = play.generate(BASE, round_index=1)
    spec = DiscriminatorSpec(
        checkpoint=FileRef(path=str(BASE)),
        dataset=FileRef(path=str(dataset)),
        reference_set=(FileRef(path=str(fakes)),),
        network=NETWORK,
        training=training,
        grey_levels=job.dataset.grey_levels,
        seed=seed,
    )
    events = run_engine(spec, out / f"seed-{seed}" / f"discriminator-{training.kimg:g}")
    (path,) = files_of(events, FileRole.DISCRIMINATOR).values()
    return path, [event for event in events if isinstance(event, Metric)]


def judged(
    bench: Bench, discriminator: Path | None, weight: float, num_sets: int, num_samples: int
) -> dict[str, float]:
    """Return the verdict on the base's samples, corrected with a weight or not: means over several sets of them."""
    base = load_checkpoint(BASE)
    correcting = None if discriminator is None else load_checkpoint(discriminator).model
    sampler = SAMPLER.model_copy(update={"discriminator_weight": weight})
    rows = []
    for index in range(num_sets):
        first = FIRST_SEED + index * SEED_STRIDE
        started = time.process_time()
        samples = generate_images(
            base.model,
            base.family,
            range(first, first + num_samples),
            sampler,
            discriminator=correcting,
            grey_levels=bench.grey_levels,
        )
        cost = {
            "network evaluations per image": sampler.nfe,
            "processor seconds per 1,000 images": (time.process_time() - started) / num_samples * 1000,
        }
        rows.append(measure(samples, bench) | cost)
    return {name: mean(row[name] for row in rows) for name in rows[0]}


def print_table(columns: Mapping[str, Mapping[str, Spread]]) -> None:
    """Print verdicts side by side."""
    print("| | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for metric in next(iter(columns.values())):
        cells = [str(each[metric]) for each in columns.values()]
        print(f"| {metric} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="run seeds, and sets of samples (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=5000, help="samples in a set (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder for all files (default: a temporary one)")
    parser.add_argument("--kimg", type=float, default=TRAINING.kimg, help="of the discriminator (default: %(default)s)")
    parser.add_argument("--weights", type=float, nargs="+", default=WEIGHTS, help="(default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out = arguments.out or Path(tempfile.mkdtemp())
    make_dataset(out)
    bench = Bench.load(out, ASSETS)
    training = TRAINING.model_copy(update={"kimg": arguments.kimg})
    sets = (arguments.seeds, arguments.samples)
    of_base = judged(bench, None, 0.0, *sets)
    columns = {"base": {metric: Spread.of([value]) for metric, value in of_base.items()}}
    of_seeds = []
    for seed in range(arguments.seeds):
        path, windows = train(out, seed, training)
        print(f"run seed {seed}, last window:", "  ".join(f"{name} {x:.3f}" for name, x in windows[-1].values.items()))
        of_seeds.append({weight: judged(bench, path, weight, *sets) for weight in arguments.weights})
    for weight in arguments.weights:
        columns[f"w = {weight:g}"] = {
            metric: Spread.of([each[weight][metric] for each in of_seeds]) for metric in of_base
        }
    print("\nMean ± standard deviation between run seeds, each the mean over its sets of samples:\n")
    print_table(columns)


if __name__ == "__main__":
    main()
