"""Judge checkpoints by more than what they were selected on.

For each checkpoint and each of several seeds, 5,000 samples are drawn and compared in the features of two networks (the
feature network that selection used, and the judge that saw only held-out images) with two sets (the training split and
the held-out split). Held-out denoising loss and agreement with the class label are reported beside them. Seeds are
disjoint from those of ranking, confirmation and reference sets.

    python -m examples.digits.verdict DATA_DIR ASSETS_DIR base.safetensors finetuned.safetensors --json verdict.json

FID here is a distance between digit features: comparable only with itself, at the same number of samples.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ddo_engine.checkpoint import LoadedCheckpoint, load_checkpoint
from ddo_engine.data import ImageDataset, InMemoryDataset, load_dataset
from ddo_engine.evaluate import denoising_loss
from ddo_engine.evaluation import Judge, load_features
from ddo_engine.families.protocol import LabelledImages
from ddo_engine.files import sha256_of
from ddo_engine.sampling import generate_images
from ddo_engine.spec import EvaluationSettings, HeunSettings, LabelDistribution

SAMPLER = HeunSettings(num_steps=18, labels=LabelDistribution.BALANCED, batch_size=1000)
FIRST_SEED, SEED_STRIDE = 1_500_000_000, 1_000_000
NEIGHBOURS = 5
P_MEAN, P_STD = -0.8, 1.2


@dataclass(frozen=True)
class Spread:
    """One number over several sampling seeds."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return mean and standard deviation (0 for a single value)."""
        return cls(mean(values), stdev(values) if len(values) > 1 else 0.0)

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.std:.3f}" if self.std else f"{self.mean:.3f}"


@dataclass(frozen=True)
class Bench:
    """Everything that checkpoints are judged with.

    Attributes:
        train: Training split.
        held_out: Held-out split.
        judges: By the name that their FID gets in the verdict.
        grey_levels: What samples are rounded to.
    """

    train: ImageDataset
    held_out: ImageDataset
    judges: dict[str, Judge]
    grey_levels: int

    @classmethod
    def load(cls, data_dir: Path, assets_dir: Path, grey_levels: int = 17) -> "Bench":
        """Load both splits and both networks."""
        paths = {split: data_dir / f"digits-{split}.zip" for split in ("train", "heldout")}
        data = {split: load_dataset(path) for split, path in paths.items()}
        networks = {name: load_features(assets_dir / f"{name}.safetensors") for name in ("features", "judge")}
        judges = {
            f"{name}/{split}": Judge(network, data[split], sha256_of(paths[split]))
            for name, network in networks.items()
            for split in paths
        }
        return cls(data["train"], data["heldout"], judges, grey_levels)


def verdict(path: Path, bench: Bench, *, num_seeds: int = 3, num_samples: int = 5000) -> dict[str, Spread]:
    """Judge one checkpoint.

    Returns:
        "fid NETWORK/SPLIT" for the four pairs; "precision", "recall" (k = 5, training split) of both networks;
        "label accuracy" by the judge; "denoising loss train" and "… heldout", which have no sampling noise.
    """
    checkpoint = load_checkpoint(path)
    rows = [
        measure(_draw(checkpoint, bench, FIRST_SEED + index * SEED_STRIDE, num_samples), bench)
        for index in range(num_seeds)
    ]
    result = {name: Spread.of([row[name] for row in rows]) for name in rows[0]}
    for split, dataset in (("train", bench.train), ("heldout", bench.held_out)):
        loss = denoising_loss(checkpoint, dataset, P_MEAN, P_STD, torch.device("cpu"))
        result[f"denoising loss {split}"] = Spread(loss, 0.0)
    return result


def measure(samples: LabelledImages, bench: Bench) -> dict[str, float]:
    """Return all that is measured on one set of samples."""
    row: dict[str, float] = {}
    for name, judge in bench.judges.items():
        network, split = name.split("/")
        settings = EvaluationSettings(
            num_samples=len(samples.images_BCHW), neighbours=NEIGHBOURS if split == "train" else None
        )
        metrics = judge.measure(InMemoryDataset(samples.images_BCHW, None), settings)
        row |= {f"fid {name}": metrics["fid"]}
        row |= {f"{metric} {network}": metrics[metric] for metric in ("precision", "recall") if metric in metrics}
    assert samples.labels_B is not None
    logits = bench.judges["judge/train"].feature_network(samples.images_BCHW)["logits"]
    row["label accuracy"] = float((logits.argmax(dim=1) == samples.labels_B).double().mean())
    return row


def _draw(checkpoint: LoadedCheckpoint, bench: Bench, first_seed: int, num_samples: int) -> LabelledImages:
    seeds = range(first_seed, first_seed + num_samples)
    return generate_images(checkpoint.model, checkpoint.family, seeds, SAMPLER, grey_levels=bench.grey_levels)


def table(results: dict[str, dict[str, Spread]], title: str) -> Table:
    """Lay verdicts side by side: one column per checkpoint."""
    shown = Table("", *results, title=title)
    for metric in next(iter(results.values())):
        shown.add_row(metric, *(str(result[metric]) for result in results.values()))
    return shown


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, help="folder with digits-train.zip and digits-heldout.zip")
    parser.add_argument("assets_dir", type=Path, help="folder with features.safetensors and judge.safetensors")
    parser.add_argument("checkpoints", type=Path, nargs="+", help="checkpoints to judge")
    parser.add_argument("--seeds", type=int, default=3, help="sets of samples (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=5000, help="samples in a set (default: %(default)s)")
    parser.add_argument(
        "--grey-levels", type=int, default=17, help="what samples are rounded to (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench.load(arguments.data_dir, arguments.assets_dir, arguments.grey_levels)
    names = [path.stem for path in arguments.checkpoints]
    keys = names if len(set(names)) == len(names) else [str(path) for path in arguments.checkpoints]
    results = {}
    for key, path in track(list(zip(keys, arguments.checkpoints, strict=True)), console=Console(stderr=True)):
        results[key] = verdict(path, bench, num_seeds=arguments.seeds, num_samples=arguments.samples)
    Console(width=max(100, 24 * (len(keys) + 1))).print(
        table(results, f"{arguments.seeds} x {arguments.samples:,} samples, mean ± std over sampling seeds")
    )
    if arguments.json is not None:
        content = {key: {name: asdict(spread) for name, spread in result.items()} for key, result in results.items()}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
