"""Train the multi-scale VQVAE behind the VAR example: 8x8 digits as 30 tokens of four scales.

Prints the reconstruction error of both splits along the way, and how much of the codebook is in use. Entries that no
image uses are moved to what the codebook describes worst at that moment. Images are shifted by a pixel at random:
without that, half of the training error is learnt by heart (9 grey levels on train, 19 held out; with it 16 and 17).

    python -m examples.digits.train_tokenizer DATA_DIR tokenizer.safetensors
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from ddo_engine.checkpoint import CheckpointManifest, save_checkpoint
from ddo_engine.data import load_dataset
from ddo_engine.families import get_family
from ddo_engine.families.diffusion.space import normalise
from ddo_engine.families.var.vqvae import VQVAE

NETWORK: dict[str, Any] = {
    "class_name": "VQVAE",
    "vocab_size": 64,
    "z_channels": 8,
    "ch": 16,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "in_channels": 1,
    "v_patch_nums": [1, 2, 3, 4],
}
BATCH, PEAK_RATE, COMMITMENT = 128, 3e-3, 0.25
REVIVE_EVERY, REPORT_EVERY = 50, 250


def loss_of(tokenizer: VQVAE, images_BCHW: Tensor) -> Tensor:
    """Return reconstruction, codebook and commitment errors of uint8 images, averaged; no perceptual loss, no GAN.

    Source: arXiv:2404.02905, eq. 5, without its last two terms.
    """
    f_BChw = tokenizer.features(images_BCHW)
    f_hats = tokenizer.quantise(f_BChw).f_hats
    codebook = sum(functional.mse_loss(f_hat, f_BChw.detach()) for f_hat in f_hats) / len(f_hats)
    commitment = sum(functional.mse_loss(f_BChw, f_hat.detach()) for f_hat in f_hats) / len(f_hats)
    straight_through = f_BChw + (f_hats[-1] - f_BChw).detach()
    reconstruction = functional.mse_loss(tokenizer.decode_unclamped(straight_through), normalise(images_BCHW))
    return reconstruction + codebook + COMMITMENT * commitment


def shifted(images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Return each image moved by -1, 0 or 1 pixels along both sides, black coming in. Shape (B, 1, H, W)."""
    count, size = len(images_BCHW), images_BCHW.shape[-1]
    padded = functional.pad(images_BCHW, (1, 1, 1, 1))[:, 0]
    down_B1, right_B1 = torch.randint(-1, 2, (2, count, 1), generator=generator)
    rows_BH, columns_BW = (torch.arange(size) + 1 + shift for shift in (down_B1, right_B1))
    return padded[torch.arange(count)[:, None, None], rows_BH[:, :, None], columns_BW[:, None, :]][:, None]


@torch.no_grad()
def revive(tokenizer: VQVAE, images_NCHW: Tensor, generator: torch.Generator) -> None:
    """Move entries that none of the images uses to random ones of the features that scales are left with."""
    f_NChw = tokenizer.features(images_NCHW)
    quantised = tokenizer.quantise(f_NChw)
    rests = [f_NChw, *(f_NChw - f_hat for f_hat in quantised.f_hats[:-1])]
    rows = torch.cat([tokenizer.quantize.at_scale(rest, k).flatten(0, 1) for k, rest in enumerate(rests)])
    used_V = torch.bincount(torch.cat(quantised.tokens, 1).flatten(), minlength=tokenizer.vocab_size) > 0
    chosen = torch.randint(len(rows), (int((~used_V).sum()),), generator=generator)
    tokenizer.quantize.embedding.weight[~used_V] = rows[chosen]


@torch.no_grad()
def report(tokenizer: VQVAE, splits: dict[str, Tensor]) -> str:
    """Return the root mean square error in grey levels of 255, by split, and the entries in use."""
    errors = {
        name: float((tokenizer(images) - normalise(images)).square().mean().sqrt()) * 127.5
        for name, images in splits.items()
    }
    used = len(tokenizer.encode(splits["train"]).unique())
    return "  ".join(f"{name} {error:6.2f}" for name, error in errors.items()) + f"  entries in use {used}"


def train(splits: dict[str, Tensor], *, steps: int, seed: int) -> VQVAE:
    """Return a trained tokenizer, in eval mode as it is used."""
    torch.manual_seed(seed)
    tokenizer = get_family("var").build(NETWORK)
    assert isinstance(tokenizer, VQVAE)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=PEAK_RATE / 100)
    for step in track(range(steps), "training"):
        # Nothing may move any more while the decoder settles.
        if step % REVIVE_EVERY == 0 and step < steps // 2:
            revive(tokenizer, splits["train"], generator)
        rows = torch.randint(len(splits["train"]), (BATCH,), generator=generator)
        optimizer.zero_grad()
        loss_of(tokenizer, shifted(splits["train"][rows], generator)).backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % REPORT_EVERY == 0:
            print(f"step {step + 1:5d}: error {report(tokenizer, splits)}", flush=True)
    return tokenizer


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, help="folder with digits-train.zip and digits-heldout.zip")
    parser.add_argument("out", type=Path, help="checkpoint to write")
    parser.add_argument("--steps", type=int, default=2000, help="of 128 images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    datasets = {name: load_dataset(arguments.data_dir / f"digits-{name}.zip") for name in ("train", "heldout")}
    splits = {name: data.batch(range(len(data))).images_BCHW for name, data in datasets.items()}
    tokenizer = train(splits, steps=arguments.steps, seed=arguments.seed)
    provenance = {"trained_by": "examples.digits.train_tokenizer", "seed": arguments.seed}
    manifest = CheckpointManifest(family="var", network=NETWORK, provenance=provenance)
    save_checkpoint(arguments.out, tokenizer, manifest)
    parameters = sum(parameter.numel() for parameter in tokenizer.parameters())
    print(f"{arguments.out}  {arguments.out.stat().st_size:,} bytes, {parameters:,} parameters")


if __name__ == "__main__":
    main()
