"""The process behind :mod:`ddo_engine.conversion.sandbox`: limits itself, converts, and answers in JSON."""

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from ddo_engine.conversion.options import ConversionOptions
from ddo_engine.conversion.sandbox import out_of_memory
from ddo_engine.errors import EngineError

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Read a request from standard input and write the answer to standard output."""
    request = json.load(sys.stdin)
    _die_with(request["parent"])
    _limit(request["limits"])
    try:
        answer = {"manifest": _convert(request)}
    except EngineError as error:
        answer = _refusal(error)
    except (MemoryError, RuntimeError) as error:
        # Torch says it with a RuntimeError.
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        answer = _refusal(out_of_memory(Path(request["source"]).name, request["limits"]["memory_bytes"]))
    json.dump(answer, sys.stdout)


def _convert(request: dict[str, Any]) -> dict[str, Any]:
    """Convert and return the manifest; torch is imported under the limits."""
    source, destination = request["source"], request["destination"]
    if request["kind"] == "feature_network":
        from ddo_engine.evaluation.networks.saving import convert_features  # noqa: PLC0415

        return convert_features(source, destination).model_dump(mode="json")
    from ddo_engine.conversion.converting import convert  # noqa: PLC0415

    options = ConversionOptions.model_validate(request["options"])
    return convert(source, destination, options).model_dump(mode="json")


def _refusal(error: EngineError) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": error.message, "param": error.param}}


def _die_with(parent: int) -> None:
    """Ask the kernel to end this process with its parent, and see that it has not ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def _limit(limits: dict[str, Any]) -> None:
    for kind, value in (
        (resource.RLIMIT_DATA, limits["memory_bytes"]),
        (resource.RLIMIT_CPU, limits["cpu_seconds"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        # The soft limit on time ends the process by a signal of its own; the hard one, a second later, by any means.
        highest = value + 1 if kind == resource.RLIMIT_CPU else value
        allowed = [value, highest] if hard == resource.RLIM_INFINITY else [min(value, hard), min(highest, hard)]
        resource.setrlimit(kind, (allowed[0], allowed[1]))


if __name__ == "__main__":
    main()
