"""Samples of a job's base, of what a round started from, and of what it found, from the same latents, side by side."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ddo_client.client import Client
from ddo_client.errors import DdoError, MissingLibrary
from ddo_client.models import Checkpoint, Measured, Round

_FONT_PIXELS, _MARGIN_PIXELS = 15, 8


@dataclass(frozen=True)
class Shown:
    """One of the pictures.

    Attributes:
        who: Whose samples they are.
        measured: Their numbers; ``samples_id`` is the picture's.
    """

    who: str
    measured: Measured

    @property
    def samples_id(self) -> str:
        """Id of the picture."""
        assert self.measured.samples_id is not None
        return self.measured.samples_id


def draw_samples(
    client: Client, job_id: str, out: Path, *, round_index: int | None = None, trial_index: int | None = None
) -> list[Shown]:
    """Download the pictures and write one of all; return whose they are.

    Raises:
        DdoError: As :func:`to_show`, and whatever a download may.
        MissingLibrary: Pillow is not installed.
    """
    rounds, checkpoints = client.rounds(job_id), client.checkpoints(job_id)
    shown = to_show(rounds, checkpoints, round_index=round_index, trial_index=trial_index)
    with tempfile.TemporaryDirectory() as folder:
        compose([(each, client.download(each.samples_id, Path(folder))) for each in shown], out)
    return shown


def to_show(
    rounds: Sequence[Round],
    checkpoints: Sequence[Checkpoint],
    *,
    round_index: int | None = None,
    trial_index: int | None = None,
) -> list[Shown]:
    """Choose the pictures: all of one protocol, of each checkpoint once.

    Args:
        rounds: Of a job.
        checkpoints: Of the same.
        round_index: Whose candidate; None: of the last that has a winner.
        trial_index: The candidate is the best checkpoint of this trial; None: the round's winner.

    Raises:
        DdoError: There is no such candidate (yet), or no protocol under which all have a picture.
    """
    by_index = {each.round_index: each for each in rounds}
    if round_index is None:
        round_index = max((each.round_index for each in rounds if each.winner is not None), default=0)
    chosen = by_index.get(round_index)
    candidate = None if chosen is None else _candidate(chosen, trial_index)
    if chosen is None or candidate is None:
        what = f"round {round_index}" + ("" if trial_index is None else f", trial {trial_index}")
        raise DdoError(f"{what} has kept no checkpoint yet: ddo rounds shows what there is")
    base = by_index[0].winner
    ids = dict.fromkeys(
        checkpoint_id
        for checkpoint_id in (base and base.checkpoint_id, chosen.reference_checkpoint_id, candidate)
        if checkpoint_id is not None
    )
    found = [next((each for each in checkpoints if each.id == checkpoint_id), None) for checkpoint_id in ids]
    known = [checkpoint for checkpoint in found if checkpoint is not None]
    pictures = [
        {each.fingerprint: each for each in checkpoint.evaluations if each.samples_id is not None}
        for checkpoint in known
    ]
    # of several protocols the last: what confirms came after what searched
    common = [each for each in (pictures[-1] if pictures else ()) if all(each in others for others in pictures)]
    if not common:
        raise DdoError("these checkpoints have no pictures of the same samples (yet)")
    return [Shown(_name_of(one), of_one[common[-1]]) for one, of_one in zip(known, pictures, strict=True)]


def compose(pictures: Sequence[tuple[Shown, Path]], out: Path) -> None:
    """Write a PNG of all, from left to right, each with its name and its FID above it.

    Raises:
        MissingLibrary: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415  a library of the extra "plot"
    except ImportError as error:
        raise MissingLibrary("one picture of all needs Pillow: pip install 'ddo-finetuning-service[plot]'") from error
    font = ImageFont.load_default(_FONT_PIXELS)
    images = [Image.open(path).convert("RGB") for _, path in pictures]
    top = 3 * _FONT_PIXELS
    width = sum(image.width + _MARGIN_PIXELS for image in images) - _MARGIN_PIXELS
    whole = Image.new("RGB", (width, top + max(image.height for image in images)), "white")
    pen, left = ImageDraw.Draw(whole), 0
    for (shown, _), image in zip(pictures, images, strict=True):
        pen.text((left, 2), f"{shown.who}\nFID {shown.measured.fid:.4g}", fill="black", font=font)
        whole.paste(image, (left, top))
        left += image.width + _MARGIN_PIXELS
    out.parent.mkdir(parents=True, exist_ok=True)
    whole.save(out, format="PNG")


def _candidate(chosen: Round, trial_index: int | None) -> str | None:
    if trial_index is None:
        return None if chosen.winner is None else chosen.winner.checkpoint_id
    trial = next((each for each in chosen.trials if each.trial_index == trial_index), None)
    return None if trial is None or trial.best is None else trial.best.checkpoint_id


def _name_of(checkpoint: Checkpoint) -> str:
    if checkpoint.trial_index is None:
        return "base"
    return f"round {checkpoint.round_index}, alpha {checkpoint.alpha:g}, beta {checkpoint.beta:g}"
