"""Train the two digit classifiers: the feature network on the training split, the judge on the held-out split.

FID is measured in the feature network's 64 penultimate activations. The judge has seen other images and another
seed, so that an improvement that exploits the one network does not show in the other.

    python -m examples.digits.train_classifiers DATA_DIR OUT_DIR
"""

import argparse
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from ddo_engine.data import ImageDataset, load_dataset
from ddo_engine.evaluation import FeatureManifest, load_features, save_features
from ddo_engine.evaluation.networks.image_classifier import ImageClassifier, ImageClassifierConfig
from ddo_engine.files import sha256_of

CONFIG = ImageClassifierConfig(img_resolution=8, img_channels=1, num_classes=10)
BATCH_SIZE = 64
LEARNING_RATE = 1e-3


def train(dataset: ImageDataset, *, seed: int, num_steps: int) -> ImageClassifier:
    """Return a classifier trained with Adam, cosine learning rate, and shifts of up to one pixel as augmentation."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    module = ImageClassifier(CONFIG)
    optimizer = torch.optim.Adam(module.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in track(range(num_steps), description=f"training on {len(dataset)} images"):
        batch = dataset.batch(torch.randint(len(dataset), (BATCH_SIZE,), generator=generator))
        assert batch.labels_B is not None
        logits = module(shifted(batch.images_BCHW, generator))["logits"]
        loss = functional.cross_entropy(logits, batch.labels_B)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return module.eval()


def shifted(images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Return the batch with each image moved by -1, 0 or 1 pixels along one axis; black comes in."""
    padded = functional.pad(images_BCHW, (1, 1, 1, 1))
    moves = [(1, 1), (1, 1), (0, 1), (2, 1), (1, 0), (1, 2)]
    choice_B = torch.randint(len(moves), (images_BCHW.shape[0],), generator=generator).tolist()
    size = images_BCHW.shape[-1]
    return torch.stack(
        [
            padded[row, :, top : top + size, left : left + size]
            for row, (top, left) in enumerate(moves[choice] for choice in choice_B)
        ]
    )


@torch.no_grad()
def accuracy(path: Path, dataset: ImageDataset) -> float:
    """Return the share of images that a saved classifier names rightly."""
    predicted_N = load_features(path)(dataset.batch(range(len(dataset))).images_BCHW)["logits"].argmax(dim=1)
    assert dataset.labels_N is not None
    return float((predicted_N == dataset.labels_N).double().mean())


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, help="folder with digits-train.zip and digits-heldout.zip")
    parser.add_argument("out_dir", type=Path, help="folder to write features.safetensors and judge.safetensors into")
    parser.add_argument("--steps", type=int, default=1500, help="optimizer steps each (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # faster than two on so small a network, and the same sums everywhere
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    splits = {name: arguments.data_dir / f"digits-{name}.zip" for name in ("train", "heldout")}
    datasets = {name: load_dataset(path) for name, path in splits.items()}
    for file, own, other, seed in (("features", "train", "heldout", 0), ("judge", "heldout", "train", 1)):
        module = train(datasets[own], seed=seed, num_steps=arguments.steps)
        path = arguments.out_dir / f"{file}.safetensors"
        provenance = {"dataset_sha256": sha256_of(splits[own]), "steps": arguments.steps, "seed": seed}
        manifest = FeatureManifest(
            architecture="image_classifier", config=CONFIG.model_dump(mode="json"), provenance=provenance
        )
        save_features(path, module, manifest)
        print(
            f"{path}  {path.stat().st_size:,} bytes: accuracy {accuracy(path, datasets[own]):.4f} on its {own} split, "
            f"{accuracy(path, datasets[other]):.4f} on the other"
        )


if __name__ == "__main__":
    main()
