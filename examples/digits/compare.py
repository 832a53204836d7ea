"""Draw samples of two checkpoints side by side, from the same latents and labels, into a PNG.

python -m examples.digits.compare base.safetensors finetuned.safetensors OUT.png
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from ddo_engine.checkpoint import load_checkpoint
from ddo_engine.sampling import generate_images
from ddo_engine.spec import HeunSettings, LabelDistribution

NUM_CLASSES, PER_CLASS = 10, 10
GAP, GAP_GREY = 2, 40  # pixels between images, and their value
SAMPLER = HeunSettings(labels=LabelDistribution.BALANCED)


def grid(checkpoint: Path, first_seed: int, grey_levels: int) -> Tensor:
    """Return one picture of samples, a row per class, uint8."""
    loaded = load_checkpoint(checkpoint)
    seeds = range(first_seed, first_seed + NUM_CLASSES * PER_CLASS)
    images = generate_images(loaded.model, loaded.family, seeds, SAMPLER, grey_levels=grey_levels).images_BCHW
    padded = functional.pad(images[:, 0], (0, GAP, 0, GAP), value=GAP_GREY)
    size = padded.shape[-1]
    # seed i has class i mod 10: classes go down, repeats go right
    rows = padded.reshape(PER_CLASS, NUM_CLASSES, size, size).permute(1, 2, 0, 3)
    return rows.reshape(NUM_CLASSES * size, PER_CLASS * size)[:-GAP, :-GAP]


def compare(base: Path, finetuned: Path, out: Path, *, first_seed: int = 0, grey_levels: int = 17) -> None:
    """Write the comparison: ten classes, ten samples of each, of each checkpoint."""
    figure = Figure(figsize=(12, 6.6), layout="constrained")
    for axis, path, title in zip(figure.subplots(1, 2), (base, finetuned), ("base", "finetuned by DDO"), strict=True):
        picture = grid(path, first_seed, grey_levels)
        size = (picture.shape[0] + GAP) // NUM_CLASSES
        axis.imshow(255 - picture.numpy(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_title(title, fontsize=15)
        middles = [row * size + (size - GAP) / 2 - 0.5 for row in range(NUM_CLASSES)]
        axis.set_yticks(middles, range(NUM_CLASSES), fontsize=12)
        axis.set_xticks([])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    figure.suptitle("Samples from the same latents and labels, left and right", fontsize=12, color="0.3")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110, metadata={"Software": None})


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("finetuned", type=Path)
    parser.add_argument("out", type=Path, help="PNG to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first sample (default: %(default)s)")
    parser.add_argument("--grey-levels", type=int, default=17, help="(default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    compare(
        arguments.base, arguments.finetuned, arguments.out, first_seed=arguments.seed, grey_levels=arguments.grey_levels
    )
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
