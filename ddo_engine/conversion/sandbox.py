"""Conversion of a stranger's file in a process of its own, with limits that the kernel holds.

The reader runs nothing from the file; the limits are there for what nobody thought of. They bound memory, processor
time, wall-clock time, the size of files and the number of open ones; the process gets no core dumps, no environment but
a few names, a process group of its own, and dies with its parent. What they do not do: the process can still read the
files of its user and open network connections. Where that matters, run the caller in a container without either.

Importing this module does not import torch.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import Field

from ddo_engine.conversion.options import ConversionOptions
from ddo_engine.errors import CorruptCheckpoint, EngineError, InvalidFeatureNetwork, InvalidSpec, OutOfMemory
from ddo_engine.files import size_of_tree
from ddo_engine.spec import Settings

_GIB = 1 << 30
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
# Under a limit on file sizes Python would leave truncated bytecode for everybody.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
_MOST_OF_MESSAGE = 2000
_SIGNS_OF_NO_MEMORY = ("MemoryError", "allocate memory", "Memory allocation", "failed to map", "bad_alloc")


class SandboxLimits(Settings):
    """What a conversion may take. Its memory does not grow with the file, but its output and its time do."""

    memory_bytes: int = Field(default=2 * _GIB, gt=0, description="Private memory; torch alone takes 0.2 GiB.")
    cpu_seconds: int = Field(default=900, gt=0)
    timeout_seconds: float = Field(default=1800, gt=0, description="By the clock on the wall.")
    file_bytes: int | None = Field(default=None, gt=0, description="Of the output; None: what its source could need.")
    open_files: int = Field(default=64, ge=16)


def convert_in_sandbox(
    source: str | Path,
    destination: str | Path,
    limits: SandboxLimits | None = None,
    options: ConversionOptions | None = None,
) -> dict[str, Any]:
    """Do what :func:`ddo_engine.conversion.convert` does, in a process with limits.

    Args:
        source: As there.
        destination: As there; it appears only once the process has ended well.
        limits: What the process may take.
        options: As for :func:`ddo_engine.conversion.convert`.

    Returns:
        The manifest of what was written, as JSON has it.

    Raises:
        CorruptCheckpoint: As there, or the file made the process exceed its time or crash.
        InvalidSpec: As there, or the output is larger than allowed.
        OutOfMemory: The process needed more memory than allowed.
    """
    asked = {"kind": "checkpoint", "options": (options or ConversionOptions()).model_dump(mode="json")}
    return _in_sandbox(Path(source), Path(destination), limits or SandboxLimits(), asked)


def convert_features_in_sandbox(
    source: str | Path, destination: str | Path, limits: SandboxLimits | None = None
) -> dict[str, Any]:
    """Do what :func:`ddo_engine.evaluation.convert_features` does, in a process with limits.

    Args:
        source: As there.
        destination: As there; it appears only once the process has ended well.
        limits: What the process may take.

    Returns:
        The manifest of what was written, as JSON has it.

    Raises:
        InvalidFeatureNetwork: As there, or the file made the process exceed its time or crash.
        InvalidSpec: The output is larger than allowed.
        OutOfMemory: The process needed more memory than allowed.
    """
    try:
        return _in_sandbox(
            Path(source), Path(destination), limits or SandboxLimits(), {"kind": "feature_network", "options": {}}
        )
    except CorruptCheckpoint as error:
        raise InvalidFeatureNetwork(error.message) from error


def _in_sandbox(source: Path, destination: Path, limits: SandboxLimits, asked: dict[str, Any]) -> dict[str, Any]:
    source, destination = source.absolute(), destination.absolute()
    if not destination.parent.is_dir():
        raise InvalidSpec(f"{destination.parent} is not a folder: make it first", param="destination")
    with TemporaryDirectory(dir=destination.parent, prefix=".convert-") as folder:
        converted = Path(folder) / destination.name
        request = {
            **asked,
            "source": str(source),
            "destination": str(converted),
            "limits": {**limits.model_dump(), "file_bytes": limits.file_bytes or _needed_bytes(source)},
            "parent": os.getpid(),
        }
        answer = _ask_child(request, source, limits)
        if "error" in answer:
            raise _error(answer["error"], converted, destination)
        converted.replace(destination)
    return dict(answer["manifest"])


def _needed_bytes(source: Path) -> int:
    try:
        return size_of_tree(source) * 2 + (1 << 26)
    except OSError as error:
        raise CorruptCheckpoint(f"{source} cannot be opened ({error.strerror}): check the path") from error


def _ask_child(request: dict[str, Any], source: Path, limits: SandboxLimits) -> dict[str, Any]:
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), **_ENVIRONMENT}
    command = [sys.executable, "-P", "-m", "ddo_engine.conversion.sandbox_child"]
    with subprocess.Popen(  # noqa: S603  (our own interpreter and module)
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    ) as child:
        try:
            output, log = child.communicate(json.dumps(request).encode(), timeout=limits.timeout_seconds)
        except subprocess.TimeoutExpired as error:
            raise _too_slow(source, f"{limits.timeout_seconds:g} seconds") from error
        finally:
            _end_group(child)
    try:
        return dict(json.loads(output))
    except ValueError:
        raise _failure(child.returncode, log.decode(errors="replace"), source, limits) from None


def _end_group(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)


def _failure(status: int, log: str, source: Path, limits: SandboxLimits) -> EngineError:
    """Return the error of a process that ended without an answer."""
    if status == -signal.SIGXCPU:
        return _too_slow(source, f"{limits.cpu_seconds} seconds of processor time")
    if status == -signal.SIGKILL or any(sign in log for sign in _SIGNS_OF_NO_MEMORY):
        return out_of_memory(source.name, limits.memory_bytes)
    if status < 0:
        return CorruptCheckpoint(
            f"{source.name} made its conversion crash ({signal.Signals(-status).name}): fetch it again"
        )
    return EngineError(f"the conversion of {source.name} failed unexpectedly: {log[-_MOST_OF_MESSAGE:]}")


def out_of_memory(name: str, memory_bytes: int) -> OutOfMemory:
    """Return the error of a conversion that reached its limit of memory."""
    return OutOfMemory(
        f"the conversion of {name} needed more than the {memory_bytes / _GIB:.2g} GiB of memory that it was allowed: "
        "allow more, if the file is to be trusted"
    )


def _too_slow(source: Path, how_long: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f"the conversion of {source.name} took more than {how_long} and was ended: allow more, if the file is to be "
        "trusted"
    )


def _error(error: dict[str, Any], converted: Path, destination: Path) -> EngineError:
    kinds = {kind.code: kind for kind in EngineError.__subclasses__()}
    message = str(error["message"]).replace(str(converted), str(destination))
    return kinds.get(error["code"], EngineError)(message, param=error["param"])
