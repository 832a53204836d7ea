"""Torch's compiler on this machine: whether it works, and what makes equal processes build equal kernels."""

import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from ddo_engine.errors import InvalidSpec

BACKEND = "inductor"
_GRAPHS_OF_A_FUNCTION = 1024  # every block of a U-Net may be of another shape; torch gives up at 8


def working_compiler(device: torch.device, cache: Path | None) -> str:
    """Set the compiler up in this process, let it compile something small, and return what builds kernels.

    Args:
        device: That they are for.
        cache: Where later runs find kernels again; None: where torch keeps them.

    Returns:
        Name and version: last bits may depend on them.

    Raises:
        InvalidSpec: It does not work here.
    """
    import torch._dynamo.config  # noqa: PLC0415  (seconds, for few)
    import torch._functorch.config  # noqa: PLC0415
    import torch._inductor.config  # noqa: PLC0415

    torch._dynamo.config.recompile_limit = _GRAPHS_OF_A_FUNCTION
    torch._dynamo.config.accumulated_recompile_limit = _GRAPHS_OF_A_FUNCTION
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    # The backward pass of a block with its forward pass: else all of them come at once, minutes without a word.
    torch._functorch.config.force_non_lazy_backward_lowering = True
    # Kernels are chosen by rule, and not by timing them.
    torch._inductor.config.deterministic = True
    if cache is not None:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str((cache / "kernels").resolve())
    try:
        torch.compile(lambda x: x.sin().sum() + 1, fullgraph=True, backend=BACKEND)(torch.zeros(64, device=device))
        return _version_for(device)
    except Exception as error:
        reason = " ".join(" ".join(str(error).splitlines()[:2]).split())  # the second line says what the first led to
        raise InvalidSpec(
            f"training.compile: torch cannot compile on this machine ({reason}): install a C++ compiler (g++, or what "
            "CXX names) and Python's headers, for a GPU also triton; or leave it out",
            param="training.compile",
        ) from error


def _version_for(device: torch.device) -> str:
    if device.type == "cuda":
        return f"triton {version('triton')}"
    command = [os.environ.get("CXX", "g++"), "--version"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  (the operator's compiler)
    return told.stdout.partition("\n")[0]
