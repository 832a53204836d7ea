"""Pretrain a base model: plain maximum likelihood, through the engine's own command line, to its plateau.

Prints the loss of the EMA weights on the training and the held-out split along the way, so that the plateau
can be seen: the held-out loss stops falling while the training loss goes on. A base that stops earlier would flatter
any finetuning; a larger one would memorise.

    python -m examples.digits.pretrain_base DATA_DIR base.safetensors
    python -m examples.digits.pretrain_base DATA_DIR edm2.safetensors --base edm2
    python -m examples.digits.pretrain_base DATA_DIR var.safetensors --base var --autoencoder tokenizer.safetensors
"""

import argparse
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ddo_engine import spec
from ddo_engine.checkpoint import CheckpointManifest, LoadedCheckpoint, load_checkpoint, save_checkpoint
from ddo_engine.data import ImageDataset, load_dataset
from ddo_engine.evaluate import denoising_loss
from ddo_engine.families import get_family
from ddo_engine.models import open_models
from ddo_engine.state_file import read_state
from examples.digits.bases import BASES, P_MEAN, P_STD, Base
from examples.digits.engine import files_of, run_engine

CPU = torch.device("cpu")


def random_checkpoint(path: Path, base: Base, seed: int) -> None:
    """Write a randomly initialised network."""
    torch.manual_seed(seed)
    manifest = CheckpointManifest(
        family=base.family, network=dict(base.network), provenance={"initialised_with_seed": seed}
    )
    save_checkpoint(path, get_family(base.family).build(manifest.network), manifest)


def training_spec(
    base: Base, initial: Path, dataset: Path, *, kimg: float, seed: int, autoencoder: Path | None = None
) -> spec.TrainSpec:
    """Return what the engine is told."""
    settings = {"kimg": kimg, "evaluate_every_kimg": kimg, "save_state_every_kimg": kimg / 18}
    return spec.TrainSpec(
        checkpoint=spec.FileRef(path=str(initial)),
        autoencoder=None if autoencoder is None else spec.FileRef(path=str(autoencoder)),
        dataset=spec.FileRef(path=str(dataset)),
        objective=spec.MLEObjective(),
        training=spec.TrainingSettings.model_validate({**settings, **base.common, **base.training}),
        grey_levels=17,
        seed=seed,
    )


class PlateauView:
    """Shows progress, and the losses of the EMA weights whenever the engine has written its state."""

    def __init__(self, checkpoint: LoadedCheckpoint, base: Base, data_dir: Path, progress: Progress) -> None:
        self._checkpoint = checkpoint
        self._num_draws = base.loss_draws
        self._datasets = [load_dataset(data_dir / f"digits-{split}.zip") for split in ("train", "heldout")]
        self._progress = progress
        self._bar = progress.add_task("pretraining")
        progress.console.print(f"    kimg  {base.loss_name} on train, on held-out")

    def __call__(self, event: spec.EngineEvent) -> None:
        """Show one event."""
        if isinstance(event, spec.Progress):
            self._progress.update(self._bar, completed=event.done, total=event.total)
        elif isinstance(event, spec.FileWritten) and event.role == spec.FileRole.STATE:
            kimg = self._load_ema(Path(event.path))
            train, held_out = (self._loss_on(data) for data in self._datasets)
            self._progress.console.print(f"{kimg:8.0f}  {train:13.3f}  {held_out:11.3f}", highlight=False)

    def _load_ema(self, path: Path) -> float:
        """Load the EMA weights of a state; return its thousands of images.

        Under a name of its own, for the engine goes on and puts the next state in its place while tensors are read.
        """
        kept = path.with_name("shown.safetensors")
        kept.unlink(missing_ok=True)
        kept.hardlink_to(path)
        try:
            state = read_state(kept)
            names = [name for name in state.tensors if name.startswith("ema.")]
            self._checkpoint.model.load_state_dict({name.removeprefix("ema."): state.tensors[name] for name in names})
            return state.header.kimg
        finally:
            kept.unlink()

    def _loss_on(self, dataset: ImageDataset) -> float:
        return denoising_loss(self._checkpoint, dataset, P_MEAN, P_STD, CPU, self._num_draws)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, help="folder with digits-train.zip and digits-heldout.zip")
    parser.add_argument("out", type=Path, help="checkpoint to write")
    parser.add_argument("--base", choices=sorted(BASES), default="mlp", help="(default: %(default)s)")
    parser.add_argument("--autoencoder", type=Path, help="of a model that works on tokens")
    parser.add_argument("--kimg", type=float, help="thousands of images to train on (default: the base's)")
    parser.add_argument("--width", type=int, help="of the MLP (default: 96)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    base = BASES[arguments.base]
    if arguments.width is not None:
        base = replace(base, network={**base.network, "width": arguments.width})
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with tempfile.TemporaryDirectory() as folder, Progress(*columns) as progress:
        initial = Path(folder) / "initial.safetensors"
        random_checkpoint(initial, base, arguments.seed)
        task = training_spec(
            base,
            initial,
            arguments.data_dir / "digits-train.zip",
            kimg=arguments.kimg or base.kimg,
            seed=arguments.seed,
            autoencoder=arguments.autoencoder,
        )
        view = PlateauView(open_models(task, CPU).checkpoint, base, arguments.data_dir, progress)
        events = run_engine(task, Path(folder) / "run", threads=arguments.threads, on_event=view)
        (checkpoint,) = files_of(events, spec.FileRole.CHECKPOINT).values()
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkpoint, arguments.out)
    info = load_checkpoint(arguments.out).info
    print(f"{arguments.out}  {arguments.out.stat().st_size:,} bytes, {info.num_parameters:,} parameters")


if __name__ == "__main__":
    main()
