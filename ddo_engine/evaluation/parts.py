"""What an evaluation has drawn, in files that outlive its process: one that was killed goes on behind the last of them.

    FOLDER/evaluation-{hash of what is evaluated, how, and by what}/
        0000000-0000512.safetensors …    samples in order: features, logits, the first images
        measured.safetensors             the numbers, in the place of all parts, until somebody has them for good

Nothing in a file is believed but what its own SHA-256 confirms, and that names the evaluation too: a part that is torn,
or of another model or protocol, is drawn again, and so are those behind it.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddo_engine.errors import CorruptCheckpoint
from ddo_engine.files import write_atomically
from ddo_engine.stored_tensor import pieces_of
from ddo_engine.tensor_file import read_tensor_file, write_tensor_file

PART_SECONDS = 1.0  # of drawing, at least, in one part: what a kill costs, beside the batch that it comes in
# Of a job that was cancelled, or of a unit that went on elsewhere; touched by nobody for so long.
LEFT_BEHIND_SECONDS = 24 * 3600.0
_PREFIX = "evaluation-"
_HEADER_KEY = "ddo_evaluation"
_MEASURED = "measured.safetensors"
_PART = re.compile(r"(\d{7})-(\d{7})\.safetensors")

Outputs = dict[str, Tensor]  # of consecutive samples, by name; on the CPU


@dataclass(frozen=True)
class Measured:
    """What an evaluation has found.

    Attributes:
        metrics: By name.
        first_images_NCHW: Of its first samples, uint8.
    """

    metrics: dict[str, float]
    first_images_NCHW: Tensor


@dataclass(frozen=True)
class Parts:
    """The files of one evaluation.

    Attributes:
        folder: Of this evaluation alone; made with its first file.
        evaluation: Hash of all that decides the bits of its samples' features.
    """

    folder: Path
    evaluation: str

    @classmethod
    def of(cls, folder: Path, weights: nn.Module, drawn_by: Mapping[str, Any]) -> "Parts":
        """Return the parts of an evaluation, whether there are any or not; what was left behind long ago goes.

        Args:
            folder: Below which evaluations of all units keep theirs.
            weights: Of the model.
            drawn_by: Everything else: protocol, batches, what is kept of each sample, device.
        """
        _remove_left_behind(folder)
        about = json.dumps(drawn_by, sort_keys=True)
        evaluation = hashlib.sha256(f"{_sha256_of_weights(weights)} {about}".encode()).hexdigest()
        return cls(folder / f"{_PREFIX}{evaluation}", evaluation)

    def read(self) -> Iterator[tuple[int, Outputs]]:
        """Yield what lies here, part after part from the first sample on: where a part ends, and its outputs."""
        done = 0
        for path in sorted(self.folder.glob("*-*.safetensors")):
            place = _PART.fullmatch(path.name)
            if place is None or int(place[1]) != done:
                continue
            found = self._read(path)
            if found is None:
                return
            done = int(place[2])
            yield done, found[1]

    def write(self, first: int, last: int, outputs: Outputs) -> None:
        """Keep the outputs of samples ``first … last − 1``."""
        self._write(self.folder / f"{first:07d}-{last:07d}.safetensors", {}, outputs)

    def measured(self) -> Measured | None:
        """Return the numbers, where all was drawn and measured before."""
        found = self._read(self.folder / _MEASURED)
        return None if found is None else Measured(found[0]["metrics"], found[1]["images"])

    def replace_by(self, measured: Measured) -> None:
        """Keep the numbers in the place of the parts."""
        self._write(self.folder / _MEASURED, {"metrics": measured.metrics}, {"images": measured.first_images_NCHW})
        for path in self.folder.glob("*-*.safetensors"):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Forget all: whoever wanted the numbers has them for good."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, path: Path, about: dict[str, Any], tensors: Outputs) -> None:
        header = json.dumps({"about": about, "sha256": self._digest(path.name, about, tensors)}, sort_keys=True)
        self.folder.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):  # another unit has just ended the very same evaluation, and removed it
            write_atomically(path, lambda temporary: write_tensor_file(temporary, tensors, {_HEADER_KEY: header}))

    def _read(self, path: Path) -> tuple[dict[str, Any], Outputs] | None:
        """Return what a file says and holds; None where there is none that this evaluation has written."""
        try:
            file = read_tensor_file(path)
            header = json.loads(file.metadata[_HEADER_KEY])
            tensors = {name: tensor.read() for name, tensor in file.tensors.items()}
            about: dict[str, Any] = header["about"]
            return (about, tensors) if header["sha256"] == self._digest(path.name, about, tensors) else None
        except (CorruptCheckpoint, OSError, KeyError, TypeError, ValueError, RecursionError):
            return None

    def _digest(self, name: str, about: Mapping[str, Any], tensors: Outputs) -> str:
        digest = hashlib.sha256(json.dumps([self.evaluation, name, about], sort_keys=True).encode())
        _add_tensors(digest, tensors)
        return digest.hexdigest()


def _sha256_of_weights(model: nn.Module) -> str:
    digest = hashlib.sha256()
    _add_tensors(digest, model.state_dict())
    return digest.hexdigest()


def _add_tensors(digest: "hashlib._Hash", tensors: Mapping[str, Tensor]) -> None:
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        for piece in pieces_of(tensor):
            digest.update(piece.view(torch.uint8).numpy().data)


def _remove_left_behind(folder: Path) -> None:
    for evaluation in folder.glob(f"{_PREFIX}*"):
        try:
            is_young = time.time() - evaluation.stat().st_mtime < LEFT_BEHIND_SECONDS
        except FileNotFoundError:  # its own process has just ended
            continue
        if not is_young:
            shutil.rmtree(evaluation, ignore_errors=True)
