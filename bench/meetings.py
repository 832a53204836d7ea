"""What several processes spend on each other: every meeting of a training step, and the comparison at a state.

    torchrun --standalone --nproc-per-node 2 -m bench.meetings

On the GPUs where there are some, else on the CPU over gloo. Gradients are those of the CIFAR-10 network at full size.
Prints one table.
"""

import os
import time
from collections.abc import Callable

import torch

from bench.full_size import EDM_CIFAR10, built
from ddo_engine.device import make_deterministic, pick_device
from ddo_engine.interruption import StopRequest
from ddo_engine.parallel.fingerprint import fingerprint
from ddo_engine.parallel.joining import device_of, joined
from ddo_engine.parallel.launch import launch_of
from ddo_engine.parallel.ranks import Ranks

BATCH_SIZE, NUM_VALUES = 512, 5


def main() -> None:
    """Time all meetings; the process that leads prints."""
    make_deterministic()
    launch = launch_of(os.environ)
    device = device_of(launch, pick_device("auto"))
    with joined(launch, device, StopRequest()) as ranks:
        rows = measure(ranks, device)
        if ranks.leads:
            print(f"{ranks.size} processes, {device.type}, torch {torch.__version__}")
            for what, seconds in rows.items():
                print(f"{what:45s} {1000 * seconds:10.3f} ms")


def measure(ranks: Ranks, device: torch.device) -> dict[str, float]:
    """Return the median seconds of each meeting."""
    torch.manual_seed(0)
    model = built("edm", EDM_CIFAR10).requires_grad_(True).to(device)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    values_RK = torch.zeros(len(ranks.rows_of(BATCH_SIZE)), NUM_VALUES, device=device)

    def in_step() -> None:
        with ranks.in_step():
            pass

    state = {name: tensor for name, tensor in model.state_dict().items() if tensor.numel()}
    return {
        "stop agreed on": median(lambda: ranks.any(False), 200),
        "errors agreed on": median(in_step, 200),
        "rows gathered": median(lambda: ranks.gather_rows(values_RK, BATCH_SIZE), 200),
        "gradients summed": median(lambda: ranks.sum_gradients_(model.parameters()), 5),
        "weights hashed and compared, once per state": median(
            lambda: ranks.check_same("weights", fingerprint(state)), 5
        ),
    }


def median(work: Callable[[], object], repeats: int) -> float:
    """Return the median seconds of ``work``, after one call that is not counted."""
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return sorted(seconds[1:])[repeats // 2]


if __name__ == "__main__":
    main()
