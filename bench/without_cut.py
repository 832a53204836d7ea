"""DDO on digits that keep clear of black and white: what it improves when nothing is cut off.

bench/contrast.py shows that most of DDO's gain on digits mends the cut at the ends of a pixel's range. Here the same
scans take the middle half of the range: 33 grey levels of which the data use levels 8 to 24, so that a sample's error
stays within the range. Everything else is made again the same way: feature network, judge, base (noise levels halved
with the data's standard deviation), two rounds of the preset, the control. Prints the verdict.

    python -m bench.without_cut OUT_DIR

About six minutes on two cores.
"""

import argparse
import shutil
from pathlib import Path

import torch
from rich.console import Console

from ddo_engine import spec
from ddo_engine.data import grey_values, load_dataset, write_dataset
from ddo_engine.evaluation import FeatureManifest, save_features
from examples.digits import pretrain_base, train_classifiers
from examples.digits.engine import files_of, run_engine
from examples.digits.make_dataset import GREY_LEVELS, make_dataset
from examples.digits.self_play import SelfPlay, job_spec, play
from examples.digits.verdict import Bench, table, verdict

LEVELS, FIRST_LEVEL = 33, 8
SIGMA_DATA, P_MEAN = 0.375, -1.5  # half of the digits' 0.75, and -0.8 moved by log 0.5


def make_middle_dataset(folder: Path) -> None:
    """Write both splits with the data's 17 levels moved to levels 8 … 24 of 33."""
    for path in make_dataset(folder):
        dataset = load_dataset(path)
        levels = torch.searchsorted(grey_values(GREY_LEVELS).int(), dataset.images_NCHW.int())
        write_dataset(path, grey_values(LEVELS)[levels + FIRST_LEVEL], dataset.labels_N)


def make_networks(data_dir: Path, out_dir: Path) -> None:
    """Train feature network, judge and base into ``out_dir``."""
    for name, split, seed in (("features", "train", 0), ("judge", "heldout", 1)):
        module = train_classifiers.train(load_dataset(data_dir / f"digits-{split}.zip"), seed=seed, num_steps=1500)
        config = train_classifiers.CONFIG.model_dump(mode="json")
        manifest = FeatureManifest(architecture="image_classifier", config=config)
        save_features(out_dir / f"{name}.safetensors", module, manifest)
    initial = out_dir / "initial.safetensors"
    pretrain_base.random_checkpoint(initial, pretrain_base.NETWORK | {"sigma_data": SIGMA_DATA}, seed=0)
    task = pretrain_base.training_spec(initial, data_dir / "digits-train.zip", kimg=4608, seed=0)
    training = task.training.model_copy(update={"P_mean": P_MEAN})
    task = task.model_copy(update={"grey_levels": LEVELS, "training": training})
    (base,) = files_of(run_engine(task, out_dir / "base"), spec.FileRole.CHECKPOINT).values()
    shutil.copyfile(base, out_dir / "base.safetensors")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path, help="folder for all files")
    out_dir = parser.parse_args().out_dir
    torch.set_num_threads(1)
    data_dir, assets = out_dir / "data", out_dir / "assets"
    assets.mkdir(parents=True, exist_ok=True)
    make_middle_dataset(data_dir)
    make_networks(data_dir, assets)
    job = job_spec(data_dir, assets, dataset={"grey_levels": LEVELS}, training={"P_mean": P_MEAN})
    run = SelfPlay(job, data_dir / "digits-train.zip", assets / "features.safetensors", out_dir / "rounds")
    base = assets / "base.safetensors"
    finetuned = play(run, base, lambda line: print(line, flush=True)).path
    columns = {"base": base, "control (MLE)": run.continue_pretraining(base).path, "DDO": finetuned}
    bench = Bench.load(data_dir, assets, LEVELS)
    # the verdict's denoising loss is at the noise levels of the full range, for all columns alike
    results = {name: verdict(path, bench) for name, path in columns.items()}
    Console(width=100).print(table(results, "samples off the ends of the range; mean ± std over sampling seeds"))


if __name__ == "__main__":
    main()
