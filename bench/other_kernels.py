"""What compiled blocks and channels-last images gain in a DDO step, at full size, and how long compiling takes.

    python -m bench.other_kernels [--network edm edm2-xs var] [--batch 4] [--repeats 5] [--processor-time]
        [--ways eager compiled] [--device cuda --peak-tflops 67]

The step is the engine's own (``Trial.advance``), with the settings ``training.compile`` and ``training.memory_format``
of a trial, in turns with the others; of each the fastest counts, because other processes can only make one slower. The
first gradient of each is taken before, which compiles and has a column of its own; it is compared with the plain one,
as the norm of the difference over the norm. Weights and images are random, as in ``bench.training_step``. The share of
the peak is what the matrix products and convolutions of a step are of the ``--peak-tflops`` that the device can do in
float32 (67 of an H100 or H200, 19.5 of an A100).
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Mapping

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.full_size import EDM2_S_IMG64, EDM2_XS, EDM_CIFAR10, built, processor, var_d16
from bench.training_networks import Subject, tokens_of
from bench.training_step import fastest
from ddo_engine.accelerated import accelerated
from ddo_engine.device import describe_device, make_deterministic, pick_device
from ddo_engine.families import get_family
from ddo_engine.families.var.transformer import VAR
from ddo_engine.parallel.layout import Layout, Replicated
from ddo_engine.parallel.ranks import ALONE
from ddo_engine.spec import TrainingSettings
from ddo_engine.version import ENGINE_VERSION

NETWORKS: Mapping[str, tuple[str, str, Callable[[], torch.nn.Module]]] = {
    "edm": ("EDM CIFAR-10", "edm", lambda: built("edm", EDM_CIFAR10)),
    "edm2-xs": ("EDM2-XS 64x64", "edm2", lambda: built("edm2", EDM2_XS)),
    "edm2-s": ("EDM2-S 64x64", "edm2", lambda: built("edm2", EDM2_S_IMG64)),
    "var": ("VAR-d16", "var", var_d16),
}
WAYS: Mapping[str, Mapping[str, object]] = {
    "eager": {},
    "channels-last": {"memory_format": "channels_last"},
    "compiled": {"compile": True},
    "both": {"compile": True, "memory_format": "channels_last"},
}


def layout_of(way: str, family_name: str, device: torch.device) -> Layout:
    """Return what a trial with these settings computes with."""
    if not WAYS[way]:
        return Replicated()
    training = TrainingSettings.model_validate(
        {"kimg": 1, "batch_size": 1, "learning_rate": 1, "ema_std": 0.05, "evaluate_every_kimg": 1} | dict(WAYS[way])
    )

    def tell(done: int, total: int) -> None:
        print(f"{way}: {done} of {total} blocks compiled", file=sys.stderr, flush=True)

    return accelerated(get_family(family_name), device, training, ALONE, None, tell)


def print_gains(network: str, batch_size: int, options: argparse.Namespace, device: torch.device) -> None:
    """Measure a network in all ways and print the table."""
    name, family_name, make = NETWORKS[network]
    model = make().to(device)
    images = tokens_of(model) if isinstance(model, VAR) else None
    ways = [way for way in options.ways if family_name != "var" or way in ("eager", "compiled")]

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.process_time() if options.processor_time else time.perf_counter()

    plain = Subject.of(model, family_name, batch_size, images)
    steps, firsts, gradients = {}, {}, {}
    with FlopCounterMode(display=False) as counter:
        gradients["eager"] = gradient_of(plain)
    for way in ways:
        subject = plain.computing_by(layout_of(way, family_name, device))
        started = time.perf_counter()
        gradients[way] = gradient_of(subject)
        firsts[way] = time.perf_counter() - started
        steps[way] = subject.ddo_step()
        print(f"{way}: first gradient after {firsts[way]:.1f} s", file=sys.stderr, flush=True)
    norm = gradients["eager"].norm()
    differences = {way: ((gradient - gradients["eager"]).norm() / norm).item() for way, gradient in gradients.items()}
    gradients.clear()
    seconds = fastest(steps, now, options.repeats)
    print(f"\n{name}, {batch_size} real and {batch_size} fake images a step, float32\n")
    peak = "" if options.peak_tflops is None else " share of the peak |"
    print(f"| way | seconds | real images/s | eager / this | first gradient, s | it differs by |{peak}")
    print("|---|---|---|---|---|---|" + ("---|" if peak else ""))
    for way, of_step in seconds.items():
        share = counter.get_total_flops() / of_step / options.peak_tflops / 1e12 if peak else math.nan
        row = f"| {way} | {of_step:.3f} | {batch_size / of_step:.2f} | {seconds['eager'] / of_step:.3f} |"
        row += f" {firsts[way]:.0f} | {differences[way]:.1e} |"
        print(row + (f" {share:.1%} |" if peak else ""), flush=True)


def gradient_of(subject: Subject) -> torch.Tensor:
    """Return the gradient of the first step's loss, all parameters in a row."""
    subject.target.zero_grad()
    rows = range(subject.loss.real.batch_size)
    values_BK = subject.loss(subject.ddo.state.network, 0, rows)
    assert not values_BK[:, 1:3].any(), "target and reference are equal, so their ratios must be 0"
    values_BK[:, 0].mean().backward()  # type: ignore[no-untyped-call]
    gradients = [weight.grad.flatten() for weight in subject.target.parameters() if weight.grad is not None]
    return torch.cat(gradients)


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=list(NETWORKS), default=["edm", "edm2-xs", "var"])
    parser.add_argument("--batch", type=int, help="real images of a step (default: 4, VAR 1)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="'eager' is always among them"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak-tflops", type=float, help="of the device, in float32")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="on one thread, of a machine with other work: leave out the time that others have the cores",
    )
    options = parser.parse_args()
    options.ways = [way for way in WAYS if way in ("eager", *options.ways)]
    if options.processor_time:
        options.threads = 1
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    make_deterministic()
    device = pick_device(options.device)
    kind = "processor" if options.processor_time else "wall-clock"
    print(f"engine {ENGINE_VERSION}, torch {torch.__version__}, {processor()}, {describe_device(device)}")
    print(f"{kind} time, load before the run {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for network in options.network:
        print_gains(network, options.batch or (1 if network == "var" else 4), options, device)


if __name__ == "__main__":
    main()
