"""What the choices of a VAR's trial change on digits: where fakes come from, dropped labels, the loss's scale.

    python -m bench.var_choices [--seeds 2] [--arms NAME …] [--out DIR]

One trial a row from the shipped VAR of 8×8 digits, with the length, rate and beta of its example, no selection: the
last checkpoint is judged by FID at 1,000 samples, without guidance and with it. Prints a table in Markdown, mean ±
standard deviation over run seeds.
"""

import argparse
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ddo_engine.spec import EvaluateSpec, FileRef, FileRole, GenerateSpec, TrainSpec
from examples.digits.demo import ASSETS
from examples.digits.engine import evaluations_of, files_of, run_engine
from examples.digits.family_jobs import EXAMPLES, TOKENIZER
from examples.digits.make_dataset import make_dataset

GUIDANCE_SCALES = (0.0, 1.0, 2.0)
STORED: dict[str, Any] = {"reference_set": "fakes"}
DRAWN: dict[str, Any] = {"online_reference_set": {"kind": "online"}}


def ddo(source: Mapping[str, Any], *, alpha: float = 1.0, **training: Any) -> dict[str, Any]:
    """Return what a DDO trial has of its own."""
    return {**source, "objective": {"kind": "ddo", "alpha": alpha, "beta": 0.1}, "training": training}


ARMS: dict[str, dict[str, Any]] = {
    "MLE": {"objective": {"kind": "mle"}, "training": {}},
    "CCA, α 1": {"objective": {"kind": "cca", "alpha": 1.0, "beta": 0.1}, "training": {}},
    "stored fakes, no label dropped": ddo(STORED, label_dropout=0.0),
    "stored fakes": ddo(STORED),
    "drawn fakes, no label dropped": ddo(DRAWN, label_dropout=0.0),
    "drawn fakes": ddo(DRAWN),
    "drawn fakes, tokens as drawn": ddo({"online_reference_set": {"kind": "online", "decode": False}}),
    "drawn fakes, MLE on rows without label": ddo(DRAWN, unconditional_rows="mle"),
    "drawn fakes, bfloat16": ddo(DRAWN, precision="bfloat16"),
    "drawn fakes, α 10": ddo(DRAWN, alpha=10.0, max_gradient_norm=2.0),
    "drawn fakes, α 10, not divided": ddo(DRAWN, alpha=10.0, max_gradient_norm=2.0, normalise_by_alpha=False),
}


class Comparison:
    """The inputs that all arms share, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = EXAMPLES["var"].settings
        dataset, _ = make_dataset(folder)
        self.inputs = {
            "autoencoder": _file(TOKENIZER),
            "dataset": _file(dataset),
            "sampler": self.settings["sampler"],
            "grey_levels": 17,
        }
        num_samples = self.settings["reference_set"]["num_samples"]
        task = self.inputs | {"checkpoint": _file(self.base), "first_seed": 10_000_000, "num_samples": num_samples}
        events = run_engine(GenerateSpec.model_validate(task), folder / "fakes")
        (self.fakes,) = files_of(events, FileRole.REFERENCE_SET).values()

    @property
    def base(self) -> Path:
        """The checkpoint that all arms start from."""
        return ASSETS / "var.safetensors"

    def trained(self, arm: str, seed: int) -> Path:
        """Run a trial; return its last checkpoint."""
        own = dict(ARMS[arm])
        if "reference_set" in own:
            own["reference_set"] = [_file(self.fakes)]
        training = {**self.settings["training"], **own.pop("training")}
        task = {**self.inputs, **own, "checkpoint": _file(self.base), "training": training, "seed": seed}
        events = run_engine(TrainSpec.model_validate(task), self.folder / f"{arm}, {seed}".replace("/", "-"))
        return max(files_of(events, FileRole.CHECKPOINT).items())[1]

    def result(self, arm: str, seed: int) -> list[float]:
        """Run a trial and return the FIDs of its last checkpoint."""
        return self.fids(self.trained(arm, seed))

    def fids(self, checkpoint: Path) -> list[float]:
        """Return the FID at each guidance scale."""
        found = []
        for scale in GUIDANCE_SCALES:
            task = {
                **self.inputs,
                "checkpoint": _file(checkpoint),
                "sampler": {**self.settings["sampler"], "guidance_scale": scale},
                "feature_network": _file(ASSETS / "features.safetensors"),
                "evaluations": [{"num_samples": 1000, "seed": 500_000, "neighbours": None}],
            }
            workdir = Path(tempfile.mkdtemp(dir=self.folder))
            events = run_engine(EvaluateSpec.model_validate(task), workdir, cache=self.folder / "cache")
            found.append(evaluations_of(events)[0].metrics["fid"])
        return found


def _file(path: Path) -> FileRef:
    return FileRef(path=str(path))


def row(name: str, fids: list[list[float]]) -> str:
    """Return a row of the table: a cell for each guidance scale, over run seeds."""
    values = torch.tensor(fids, dtype=torch.float64)
    spreads = values.std(0).tolist() if len(values) > 1 else [None] * len(GUIDANCE_SCALES)
    cells = [
        f"{mean:.2f}" if spread is None else f"{mean:.2f} ± {spread:.2f}"
        for mean, spread in zip(values.mean(0).tolist(), spreads, strict=True)
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Run all arms, two at a time, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2, help="runs of each arm (default: %(default)s)")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="NAME", help="default: all")
    parser.add_argument("--out", type=Path, help="folder for all files; a temporary one by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        comparison = Comparison((options.out or Path(temporary)).resolve())
        print("| trial | " + " | ".join(f"FID, s = {scale:g}" for scale in GUIDANCE_SCALES) + " |")
        print("|---|" + "---|" * len(GUIDANCE_SCALES))
        print(row("base", [comparison.fids(comparison.base)]), flush=True)
        with ThreadPoolExecutor(2) as pool:
            found = {
                arm: [pool.submit(comparison.result, arm, seed) for seed in range(options.seeds)]
                for arm in options.arms
            }
            for arm, runs in found.items():
                print(row(arm, [run.result() for run in runs]), flush=True)


if __name__ == "__main__":
    main()
