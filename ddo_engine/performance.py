"""How fast and how large training is. Numbers of the machine: no state holds them, and no two runs agree on them."""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ddo_engine.spec import Performance


@dataclass
class StepMeter:
    """Times steps, and looks at memory, until it is read.

    A step looks at its loss before it changes the weights. On a GPU that change, some hundredths of a step, is counted
    in the next one.

    Attributes:
        device: That trains.
        clock: Seconds, monotonic.
    """

    device: torch.device
    clock: Callable[[], float] = time.monotonic
    _seconds: float = field(default=0.0, init=False)
    _images: int = field(default=0, init=False)

    @contextmanager
    def step_of(self, num_images: int) -> Iterator[None]:
        """Time what happens in the block, a step on so many real images."""
        started = self.clock()
        yield
        self._seconds += self.clock() - started
        self._images += num_images

    def take(self, *, step: int, kimg: float) -> Performance:
        """Return what was seen since the last call, and begin anew."""
        speed = self._images / self._seconds if self._seconds > 0 else 0.0
        self._seconds, self._images = 0.0, 0
        return Performance(
            step=step,
            kimg=kimg,
            images_per_second=speed,
            peak_memory_bytes=self._peak_memory(),
            memory="device" if self.device.type == "cuda" else "process",
        )

    def _peak_memory(self) -> int:
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            return peak
        return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Return the most main memory that this process has had, in bytes.

    Linux counts in ``getrusage`` what the process was before it became this program, which is its starter's size.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (peak,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
