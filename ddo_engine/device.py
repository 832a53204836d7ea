"""The device a run uses, and what makes it deterministic there."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ddo_engine.errors import InvalidSpec, OutOfMemory

_ALLOCATION_FAILURES = ("DefaultCPUAllocator", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


def pick_device(name: str) -> torch.device:
    """Return the device called ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``.

    Raises:
        InvalidSpec: ``cuda`` was asked for and torch sees none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InvalidSpec(
            "--device cuda: torch sees no CUDA device; use --device cpu or check the driver", param="device"
        )
    return torch.device("cuda" if name != "cpu" and available else "cpu")


def describe_device(device: torch.device) -> str:
    """Return the device's name for people, e.g. ``cuda (NVIDIA A100-SXM4-80GB)`` or ``cpu (2 threads)``."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({torch.get_num_threads()} threads)"


def make_deterministic() -> None:
    """Let the same inputs give the same bits on the same device type and torch build, in full float32.

    Source: arXiv:2503.01103, appendix C, for the precision: two nearly equal sums are subtracted.
    """
    # cuBLAS reads it when CUDA starts, so this must run before the first CUDA call.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # The same switch as use_deterministic_algorithms(True), which also imports the compiler: over a second.
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, no bits
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute in full float32 within the block, where a GPU would otherwise round the factors of convolutions."""
    precision, allow_tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = allow_tf32


def queued_to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; a GPU fetches it when it gets there, and nobody waits."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def queued_to_cpu(tensor: Tensor) -> Tensor:
    """Return a tensor on the CPU whose values are there once :func:`queued_so_far` has waited."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


def queued_so_far(device: torch.device) -> Callable[[], None]:
    """Return what waits until a device has done all that it was told until now, and for nothing later."""
    if device.type != "cuda":
        return lambda: None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event.synchronize


@contextmanager
def out_of_memory_blames(param: str) -> Iterator[None]:
    """Turn allocation failures within the block into an :class:`OutOfMemory` that names what to lower.

    Args:
        param: The setting that the memory of this block grows with.

    Raises:
        OutOfMemory: The device, or main memory, ran out.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, OutOfMemory) or not is_allocation_failure(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OutOfMemory(f"out of memory: lower {param}, or use a device with more ({reason})", param=param) from error


def is_allocation_failure(error: BaseException) -> bool:
    """Say whether an error means that the device, or main memory, ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(text in str(error) for text in _ALLOCATION_FAILURES)
