"""Feature networks that come with code of their own: TorchScript, and ``torch.export``'s programs.

Whoever loads such a file runs what its author wrote. So none is loaded unless somebody said of this very file that it
may be: by its SHA-256 in ``DDO_TRUSTED_FEATURE_NETWORKS``, or in Python with ``run_code=True``.
"""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ddo_engine.device import is_allocation_failure
from ddo_engine.errors import InvalidFeatureNetwork
from ddo_engine.evaluation.networks.feature_module import FeatureModule
from ddo_engine.evaluation.networks.program_format import program_format
from ddo_engine.spec import TRUSTED_FEATURE_NETWORKS

_MAX_BYTES_PER_PIXEL = 1024  # of activations, where nobody knows the network


class Program(FeatureModule):
    """A network that takes uint8 images as the dataset has them, and returns features or a dictionary of outputs."""

    img_resolution = None
    img_channels = None
    outputs = None

    def __init__(self, run: Callable[[Tensor], Any], name: str) -> None:
        super().__init__()
        self._run = run
        self._name = name

    def bytes_per_image(self, img_resolution: int) -> int:
        """Guess: nobody knows the network."""
        return _MAX_BYTES_PER_PIXEL * img_resolution**2

    def forward(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Return what the program returns; a tensor alone is "features".

        Raises:
            InvalidFeatureNetwork: It fails on these images, or returns anything else.
        """
        try:
            outputs = self._run(images_BCHW)
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            if is_allocation_failure(error):
                raise
            raise InvalidFeatureNetwork(
                f"{self._name} fails on uint8 images of shape {tuple(images_BCHW.shape)}: it must take any number of "
                f"the dataset's images; its own words: {error}",
                param="feature_network",
            ) from error
        outputs = outputs if isinstance(outputs, dict) else {"features": outputs}
        for name, output in outputs.items():
            if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(images_BCHW):
                raise InvalidFeatureNetwork(
                    f"{self._name}: its output {str(name)[:80]!r} must be a tensor with a row per image",
                    param="feature_network",
                )
        return outputs


def is_trusted(sha256: str) -> bool:
    """Say whether the environment names a file as one whose code may run."""
    return sha256 in os.environ.get(TRUSTED_FEATURE_NETWORKS, "").split(":")


def untrusted(name: str, sha256: str) -> InvalidFeatureNetwork:
    """Return the refusal of a program that nobody trusts."""
    return InvalidFeatureNetwork(
        f"{name} is a program (TorchScript or torch.export) of a network that the engine does not know, or a damaged "
        "file of one that it does: whoever loads it runs its author's code. If you trust it, set "
        f"{TRUSTED_FEATURE_NETWORKS}={sha256} (for jobs, the operator does), or load it with run_code=True in Python"
    )


def load_program(path: Path, sha256: str, device: torch.device, *, run_code: bool) -> Program:
    """Load a program, whose code may then run.

    Args:
        path: The file.
        sha256: Of the file.
        device: Where to.
        run_code: Whether the caller trusts the file.

    Raises:
        InvalidFeatureNetwork: Nobody said that this file may be run, or it cannot be read.
    """
    if not run_code and not is_trusted(sha256):
        raise untrusted(path.name, sha256)
    try:
        return Program(_load(path, device), path.name)
    except (RuntimeError, ValueError, OSError, KeyError, AssertionError) as error:
        if is_allocation_failure(error):
            raise
        raise InvalidFeatureNetwork(f"{path.name} cannot be loaded ({error}): save it again") from error


def _load(path: Path, device: torch.device) -> Callable[[Tensor], Any]:
    # A call, not a module: exported programs have no training mode to leave, and no dtype to be given.
    if program_format(path) == "exported":
        from torch.export import load  # noqa: PLC0415  (a second, for a file that few have)

        return cast("Callable[[Tensor], Any]", load(path).module().to(device).__call__)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # TorchScript is no longer developed
        program = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
    return cast("Callable[[Tensor], Any]", program.eval().__call__)
