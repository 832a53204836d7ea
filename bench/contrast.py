"""How much of DDO's gain on digits would a turn of the contrast knob give?

Half of the digits' pixels are exactly black or white. A model whose error there is symmetric puts many outside of
the range of a pixel, where they are cut off: its images come out flatter than the data's, though its samples before the
cut are not. Here samples are stretched around mid-grey before the cut, and judged as always.

    python -m bench.contrast DATA_DIR CHECKPOINT …
"""

import argparse
from pathlib import Path
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ddo_engine.checkpoint import load_checkpoint
from ddo_engine.families.diffusion.space import normalise, quantise
from ddo_engine.sampling import generate_images
from examples.digits.verdict import FIRST_SEED, SAMPLER, Bench, measure

ASSETS = Path(__file__).parents[1] / "examples" / "digits" / "assets"
CONTRASTS = (0.95, 1.0, 1.05, 1.1, 1.15, 1.2)


def stretched_metrics(path: Path, bench: Bench, contrast: float, num_samples: int) -> dict[str, float]:
    """Return the verdict on samples whose deviation from mid-grey is multiplied by ``contrast`` before the cut.

    Beside it: the pixels' standard deviation in [-1, 1] before and after the cut, and the share that is cut.
    """
    checkpoint = load_checkpoint(path)
    seeds = range(FIRST_SEED, FIRST_SEED + num_samples)
    uncut: list[Tensor] = []

    def stretch(images_BCHW: Tensor) -> Tensor:
        uncut.append(images_BCHW * contrast)
        return quantise(uncut[-1])

    with patch("ddo_engine.families.diffusion.space.quantise", stretch):
        samples = generate_images(checkpoint.model, checkpoint.family, seeds, SAMPLER, grey_levels=bench.grey_levels)
    pixels = torch.cat(uncut)
    cut = pixels.clamp(-1, 1)
    statistics = {"std before": pixels.std(), "std after": cut.std(), "share cut": (pixels != cut).double().mean()}
    return measure(samples, bench) | {name: float(value) for name, value in statistics.items()}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, help="folder with digits-train.zip and digits-heldout.zip")
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--samples", type=int, default=5000, help="(default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench.load(arguments.data_dir, ASSETS)
    pixels = normalise(bench.train.images_NCHW)
    black, white = ((pixels == value).double().mean() for value in (-1, 1))
    print(f"data: standard deviation {pixels.std():.3f}, exactly black {black:.1%}, exactly white {white:.1%}")
    for path in arguments.checkpoints:
        rows = {contrast: stretched_metrics(path, bench, contrast, arguments.samples) for contrast in CONTRASTS}
        shown = Table("contrast", *(str(contrast) for contrast in CONTRASTS), title=str(path))
        for metric in rows[1.0]:
            shown.add_row(metric, *(f"{row[metric]:.3f}" for row in rows.values()))
        Console(width=110).print(shown)


if __name__ == "__main__":
    main()
