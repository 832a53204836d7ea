"""What cuDNN's autotuner would give: a DDO step and sampling on the full-size EDM CIFAR-10 network, random weights.

    python -m bench.cifar10_speed [--device cuda] [--batch 512] [--repeats 5] [--autotune]

Run it once without ``--autotune`` and once with it. The step is the engine's own, and Heun's method gives the time of a
network call. Float32, TF32 off, as the paper's appendix C asks. What a step costs against its parts and against a plain
loop: ``bench.training_step``.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from bench.training_networks import edm_cifar10
from ddo_engine.device import describe_device, make_deterministic, pick_device
from ddo_engine.families import get_family
from ddo_engine.spec import HeunSettings
from ddo_engine.version import ENGINE_VERSION


def seconds_per_call(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the median wall time of ``call``, after two calls that are not counted."""
    times = []
    for index in range(repeats + 2):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if index >= 2:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(batch_size: int, device: torch.device, repeats: int) -> None:
    """Time a step and sampling, and print the table."""
    subject, sampler = edm_cifar10(batch_size, device), HeunSettings(num_steps=2)
    step = seconds_per_call(subject.ddo_step(), device, repeats)
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    family, labels_B = get_family("edm"), torch.arange(batch_size) % 10
    sampling = seconds_per_call(
        lambda: family.sample(subject.reference, range(batch_size), labels_B, sampler), device, repeats
    )
    call = sampling / sampler.nfe
    tuned = "on" if torch.backends.cudnn.benchmark else "off"
    print(f"engine {ENGINE_VERSION}, torch {torch.__version__}, {describe_device(device)}, cuDNN's autotuner {tuned}")
    print("| what | seconds | images/s |\n|---|---|---|")
    print(f"| DDO step, {batch_size} real and {batch_size} fake images | {step:.4f} | {batch_size / step:.1f} |")
    print(f"| network call while sampling, batch {batch_size} | {call:.4f} | {batch_size / (call * 35):.2f} |")
    print("Images are real ones of a step, and samples at 35 network evaluations.")
    if peak is not None:
        print(f"Peak memory of the DDO step: {peak:.2f} GiB")


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=None, help="real images per step (default: 512 on CUDA, 4 on CPU)")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls; the median counts")
    parser.add_argument("--autotune", action="store_true", help="let cuDNN choose kernels by timing them")
    arguments = parser.parse_args()
    make_deterministic()
    torch.backends.cudnn.benchmark = arguments.autotune
    device = pick_device(arguments.device)
    torch.manual_seed(0)
    measure(arguments.batch or (512 if device.type == "cuda" else 4), device, arguments.repeats)


if __name__ == "__main__":
    main()
