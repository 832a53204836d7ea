"""Must generated images be rounded to the data's grey levels? DDO on digits, both ways, over several seeds.

The digits have 17 grey levels; a sampler writes 256. If fakes keep their 256 levels, what tells real from fake is the
rounding, and a discriminative loss may learn that in the place of the images' content. Both arms play all rounds of the
preset with the engine's command line; they differ in dataset.grey_levels alone, which rounds the reference sets and the
samples that rank trials. Base, both results and the control (continued pretraining) are then judged twice: with their
samples rounded to 17 levels, and to 256.

    python -m bench.grey_levels OUT_DIR [--seeds 3]

About two minutes a seed and arm on two cores.
"""

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console

from examples.digits.make_dataset import make_dataset
from examples.digits.self_play import SelfPlay, job_spec, play
from examples.digits.verdict import Bench, Spread, table, verdict

ASSETS = Path(__file__).parents[1] / "examples" / "digits" / "assets"
ARMS = (17, 256)


def run_arm(data_dir: Path, out_dir: Path, grey_levels: int, seed: int, workers: int) -> list[Path]:
    """Play all rounds (and, for the data's own levels, the control); return the checkpoints. Finished runs are kept."""
    folder = out_dir / f"levels-{grey_levels}" / f"seed-{seed}"
    finetuned, control = folder / "best.safetensors", folder / "control.safetensors"
    wanted = [finetuned, control] if grey_levels == ARMS[0] else [finetuned]
    if all(path.exists() for path in wanted):
        return wanted
    job = job_spec(data_dir, ASSETS, dataset={"grey_levels": grey_levels}, seed=seed)
    run = SelfPlay(job, data_dir / "digits-train.zip", ASSETS / "features.safetensors", folder, workers)
    base = ASSETS / "base.safetensors"
    best = play(run, base, lambda line: print(f"{grey_levels} levels, seed {seed}: {line}", flush=True))
    if control in wanted:
        shutil.copyfile(run.continue_pretraining(base).path, control)
    shutil.copyfile(best.path, finetuned)
    return wanted


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path, help="folder for all files; a second call goes on where one stopped")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="trials at a time (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data_dir = arguments.out_dir / "data"
    make_dataset(data_dir)
    columns: dict[str, list[Path]] = {"base": [ASSETS / "base.safetensors"]}
    for seed in range(arguments.seeds):
        for levels in ARMS:
            paths = run_arm(data_dir, arguments.out_dir, levels, seed, arguments.workers)
            columns.setdefault(f"DDO, {levels} levels", []).append(paths[0])
            for control in paths[1:]:
                columns.setdefault("control (MLE)", []).append(control)
    report: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for levels in ARMS:
        bench = Bench.load(data_dir, ASSETS, levels)
        results = {name: spread_over(paths, bench) for name, paths in columns.items()}
        title = f"samples rounded to {levels} levels; mean ± std over {arguments.seeds} runs (base: of samples)"
        Console(width=120).print(table(results, title))
        report[str(levels)] = {
            name: {metric: asdict(spread) for metric, spread in row.items()} for name, row in results.items()
        }
    (arguments.out_dir / "grey_levels.json").write_text(json.dumps(report, indent=1) + "\n")


def spread_over(paths: list[Path], bench: Bench) -> dict[str, Spread]:
    """Return the verdict of one checkpoint, or the spread of several runs' verdicts."""
    verdicts = [verdict(path, bench) for path in paths]
    if len(verdicts) == 1:
        return verdicts[0]
    return {metric: Spread.of([row[metric].mean for row in verdicts]) for metric in verdicts[0]}


if __name__ == "__main__":
    main()
