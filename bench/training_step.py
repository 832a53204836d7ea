"""What a DDO step costs, at full size: against its parts, and against a plain loop of four separate forward passes.

    python -m bench.training_step [--network edm var] [--batch 4] [--repeats 3] [--processor-time] [--device cuda]

The step is the engine's own, ``Trial.advance`` of a trial whose images lie in memory: batches and diagnostics are part
of it. The parts are a step of maximum likelihood, of such a trial too, on the same 2B images, and one forward pass of
the reference on them; an ideal DDO step costs their sum. All are done in turns, and of each the fastest counts: other
processes can only make one slower. Then peak memory, each step in a process of its own, beside the floor: weights
twice, gradients, Adam's two moments, the average, and what autograd keeps of a forward pass of 2B rows (counted, tensor
by tensor). Weights and images are random.

No label is dropped, other than in a job of VAR, where half are: a row without label has no fake, so a step of 1.5 B
rows would be compared with parts on 2B. VAR's dataset and fakes are tokens: encoding images, and drawing fakes, are
outside of every side. Times so far go to stderr.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.full_size import processor
from bench.training_networks import SUBJECTS, Step, Subject
from ddo_engine.device import describe_device, make_deterministic, pick_device
from ddo_engine.performance import peak_resident_bytes
from ddo_engine.version import ENGINE_VERSION

GB = 1e9
_REPOSITORY = Path(__file__).parents[1]


def fastest(steps: Mapping[str, Step], now: Callable[[], float], repeats: int) -> dict[str, float]:
    """Return the least seconds of each step, of so many rounds of all of them."""
    best = dict.fromkeys(steps, math.inf)
    for round_index in range(repeats):
        for name, step in steps.items():
            started = now()
            step()
            best[name] = min(best[name], now() - started)
        print(f"after round {round_index + 1}: {json.dumps(best)}", file=sys.stderr, flush=True)
    return best


def print_cost(subject: Subject, now: Callable[[], float], repeats: int) -> None:
    """Print the steps' times and their ratios."""
    steps = {
        "DDO step": subject.ddo_step(),
        "MLE step on the same 2B images": subject.mle_step(),
        "forward pass of the reference on them": subject.reference_pass(),
        "plain loop: four separate passes": subject.plain_step(),
    }
    seconds = fastest(steps, now, repeats)
    print("| step | seconds |\n|---|---|")
    for name, of_step in seconds.items():
        print(f"| {name} | {of_step:.3f} |")
    ddo, mle, reference, plain = seconds.values()
    print(f"\nDDO step / (MLE step + reference pass): {ddo / (mle + reference):.3f}")
    print(f"plain loop / DDO step: {plain / ddo:.3f}\n", flush=True)


def saved_for_backward(forward: Callable[[], Tensor], model: nn.Module) -> int:
    """Return the bytes that autograd keeps of a forward pass, the model's own weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward()
    total = sum(kept.values())
    del loss
    return total


def measure_memory(network: str, step: str, batch_size: int, device: torch.device) -> dict[str, int]:
    """Return the bytes that two steps take at their peak beyond interpreter and libraries; or those of a floor."""
    before = _peak(device)
    subject = SUBJECTS[network][1](batch_size, device)
    if step == "floor":
        weights = sum(parameter.nbytes for parameter in subject.target.parameters())
        return {"weights": weights, "activations": saved_for_backward(subject.mle_loss, subject.target)}
    steps = {
        "DDO step": subject.ddo_step,
        "MLE step on the same 2B images": subject.mle_step,
        "plain loop: four separate passes": subject.plain_step,
    }
    take = steps[step]()
    for _ in range(2):
        take()
    return {"peak": _peak(device) - before}


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes()


def print_memory(network: str, batch_size: int, options: argparse.Namespace) -> None:
    """Print peaks of memory beside the floor, each measured in a process of its own."""

    def measured(step: str) -> dict[str, int]:
        command = [sys.executable, "-m", "bench.training_step", "--memory-of", step, "--network", network]
        command += ["--batch", str(batch_size), "--threads", str(options.threads), "--device", options.device]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=_REPOSITORY)
        result: dict[str, int] = json.loads(done.stdout)
        return result

    parts = measured("floor")
    floor = 6 * parts["weights"] + parts["activations"]
    print("| memory | GB | share of the floor |\n|---|---|---|")
    print(f"| floor: 6 × weights of {parts['weights'] / GB:.2f}, activations of 2B rows | {floor / GB:.2f} | 1 |")
    print(f"| of these, the activations | {parts['activations'] / GB:.2f} | {parts['activations'] / floor:.2f} |")
    for step in ("DDO step", "plain loop: four separate passes", "MLE step on the same 2B images"):
        peak = measured(step)["peak"]
        print(f"| peak of the {step} | {peak / GB:.2f} | {peak / floor:.2f} |", flush=True)
    print()


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument("--batch", type=int, help="real images of a step (default: 4, VAR 1)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--skip", choices=["cost", "memory"], nargs="*", default=[])
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="on one thread, of a machine with other work: leave out the time that others have the cores",
    )
    options = parser.parse_args()
    if options.processor_time:
        options.threads = 1
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    make_deterministic()
    device = pick_device(options.device)
    if options.memory_of is not None:
        print(json.dumps(measure_memory(options.network[0], options.memory_of, options.batch, device)))
        return

    def wall_clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    kind = "processor" if options.processor_time else "wall-clock"
    print(f"engine {ENGINE_VERSION}, torch {torch.__version__}, {processor()}, {describe_device(device)}")
    print(f"{kind} time, load before the run {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for network in options.network:
        name, make, default_batch = SUBJECTS[network]
        batch_size = options.batch or default_batch
        print(f"\n{name}, {batch_size} real and {batch_size} fake images a step, float32\n")
        if "cost" not in options.skip:
            now = time.process_time if options.processor_time else wall_clock
            print_cost(make(batch_size, device), now, options.repeats)
        if "memory" not in options.skip:
            print_memory(network, batch_size, options)


if __name__ == "__main__":
    main()
