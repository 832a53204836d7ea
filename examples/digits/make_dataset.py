"""Write scikit-learn's 1,797 real 8x8 scans of handwritten digits as two dataset zips: training and held-out.

The scans ship inside scikit-learn; nothing is downloaded. They have 17 grey levels, 0 … 16.

    python -m examples.digits.make_dataset OUT_DIR
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from ddo_engine.data import grey_values, write_dataset
from ddo_engine.files import sha256_of

GREY_LEVELS = 17
NUM_HELD_OUT = 500


def make_dataset(folder: Path) -> tuple[Path, Path]:
    """Write ``digits-train.zip`` and ``digits-heldout.zip`` into ``folder`` and return their paths.

    The split is stratified by class and fixed; the bytes are the same on every machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    levels_NHW = torch.from_numpy(np.asarray(digits.images)).long()
    images_NCHW = grey_values(GREY_LEVELS)[levels_NHW][:, None]
    labels_N = torch.from_numpy(np.asarray(digits.target)).long()
    train, held_out = train_test_split(
        np.arange(len(labels_N)), test_size=NUM_HELD_OUT, stratify=labels_N.numpy(), random_state=0
    )
    paths = folder / "digits-train.zip", folder / "digits-heldout.zip"
    for path, indices in zip(paths, (train, held_out), strict=True):
        write_dataset(path, images_NCHW[indices], labels_N[indices])
    return paths


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path, help="folder to write digits-train.zip and digits-heldout.zip into")
    for path in make_dataset(parser.parse_args().out_dir):
        print(f"{path}  {path.stat().st_size:,} bytes  sha256 {sha256_of(path)}")


if __name__ == "__main__":
    main()
