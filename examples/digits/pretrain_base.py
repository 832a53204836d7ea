"""Pretrain the base model: plain maximum likelihood, through the engine's own command line, to its plateau.

Prints the denoising loss of the EMA weights on the training and the held-out split along the way, so that the plateau
can be seen: the held-out loss stops falling while the training loss goes on. A base that stops earlier would flatter
any finetuning; a larger one would memorise.

    python -m examples.digits.pretrain_base DATA_DIR base.safetensors
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ddo_engine import spec
from ddo_engine.checkpoint import CheckpointManifest, LoadedCheckpoint, load_checkpoint, save_checkpoint
from ddo_engine.data import load_dataset
from ddo_engine.evaluate import denoising_loss
from ddo_engine.families import get_family
from ddo_engine.state_file import read_state
from examples.digits.engine import files_of, run_engine

NETWORK = {
    "class_name": "MLPPrecond",
    "img_resolution": 8,
    "img_channels": 1,
    "label_dim": 10,
    "sigma_data": 0.75,  # the pixels' standard deviation in [-1, 1]
    "width": 96,
    "num_blocks": 2,
}
P_MEAN, P_STD = -0.8, 1.2  # EDM's -1.2 for sigma_data 0.5, moved by log(0.75 / 0.5)
CPU = torch.device("cpu")


def random_checkpoint(path: Path, network: dict[str, object], seed: int) -> None:
    """Write a randomly initialised network."""
    torch.manual_seed(seed)
    manifest = CheckpointManifest(family="edm", network=network, provenance={"initialised_with_seed": seed})
    save_checkpoint(path, get_family("edm").build(network), manifest)


def training_spec(initial: Path, dataset: Path, kimg: float, seed: int) -> spec.TrainSpec:
    """Return what the engine is told."""
    return spec.TrainSpec(
        checkpoint=spec.FileRef(path=str(initial)),
        dataset=spec.FileRef(path=str(dataset)),
        objective=spec.MLEObjective(),
        training=spec.TrainingSettings(
            kimg=kimg,
            batch_size=256,
            learning_rate=2e-3,
            final_learning_rate_factor=0.1,
            ema_half_life_kimg=100,
            P_mean=P_MEAN,
            P_std=P_STD,
            evaluate_every_kimg=kimg,
            save_state_every_kimg=kimg / 18,
        ),
        grey_levels=17,
        seed=seed,
    )


class PlateauView:
    """Shows progress, and the losses of the EMA weights whenever the engine has written its state."""

    def __init__(self, initial: Path, data_dir: Path, progress: Progress) -> None:
        self._checkpoint: LoadedCheckpoint = load_checkpoint(initial)
        self._datasets = [load_dataset(data_dir / f"digits-{split}.zip") for split in ("train", "heldout")]
        self._progress = progress
        self._bar = progress.add_task("pretraining")
        progress.console.print("    kimg  loss on train  on held-out")

    def __call__(self, event: spec.EngineEvent) -> None:
        """Show one event."""
        if isinstance(event, spec.Progress):
            self._progress.update(self._bar, completed=event.done, total=event.total)
        elif isinstance(event, spec.FileWritten) and event.role == spec.FileRole.STATE:
            state = read_state(Path(event.path))
            ema = {name.removeprefix("ema."): value for name, value in state.tensors.items() if name.startswith("ema.")}
            self._checkpoint.model.load_state_dict(ema)
            train, held_out = (denoising_loss(self._checkpoint, data, P_MEAN, P_STD, CPU) for data in self._datasets)
            self._progress.console.print(f"{state.header.kimg:8.0f}  {train:13.3f}  {held_out:11.3f}", highlight=False)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, help="folder with digits-train.zip and digits-heldout.zip")
    parser.add_argument("out", type=Path, help="checkpoint to write")
    parser.add_argument(
        "--kimg", type=float, default=4608, help="thousands of images to train on (default: %(default)s)"
    )
    parser.add_argument("--width", type=int, default=NETWORK["width"], help="of the network (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with tempfile.TemporaryDirectory() as folder, Progress(*columns) as progress:
        initial = Path(folder) / "initial.safetensors"
        random_checkpoint(initial, NETWORK | {"width": arguments.width}, arguments.seed)
        view = PlateauView(initial, arguments.data_dir, progress)
        task = training_spec(initial, arguments.data_dir / "digits-train.zip", arguments.kimg, arguments.seed)
        workdir = Path(folder) / "run"
        events = run_engine(task, workdir, threads=arguments.threads, on_event=view)
        (checkpoint,) = files_of(events, spec.FileRole.CHECKPOINT).values()
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkpoint, arguments.out)
    info = load_checkpoint(arguments.out).info
    print(f"{arguments.out}  {arguments.out.stat().st_size:,} bytes, {info.num_parameters:,} parameters")


if __name__ == "__main__":
    main()
