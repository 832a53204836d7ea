"""Speed of sampling from the published architectures at full size, with random weights, against plain loops.

    python -m bench.sampling [--family edm edm2 var rows] [--batch 4] [--steps 3] [--threads 2] [--processor-time]

Prints one table: milliseconds per network call (VAR: all calls of a batch together), images per second (diffusion: at
the network evaluations of the paper), and the share of time that is spent outside the network. The plain loops call the
same networks: Heun's method as in a textbook for diffusion; for VAR a loop without reproducible randomness, once with
cached keys and values and once without. ``rows`` prints whether a row's result depends, to the bit, on the number of
rows beside it.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.full_size import EDM2_XS, EDM_CIFAR10, built, processor, var_d16
from bench.plain_samplers import plain_heun, plain_var
from ddo_engine.device import describe_device, make_deterministic
from ddo_engine.families import get_family
from ddo_engine.families.diffusion.denoiser import Denoiser
from ddo_engine.spec import AutoregressiveSettings
from ddo_engine.version import ENGINE_VERSION

Now = Callable[[], float]


@dataclass
class Clock:
    """Time spent in what it watches.

    Attributes:
        now: What it reads.
        seconds: In all calls together.
        calls: Their number.
    """

    now: Now
    seconds: float = 0.0
    calls: int = 0

    @contextmanager
    def watching(self, *methods: tuple[nn.Module, str]) -> Iterator[None]:
        """Measure calls of these methods inside the block."""
        for module, name in methods:
            setattr(module, name, self._timed(getattr(module, name)))
        try:
            yield
        finally:
            for module, name in methods:
                delattr(module, name)

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            started = self.now()
            result = method(*arguments, **options)
            self.seconds += self.now() - started
            self.calls += 1
            return result

        return call


@dataclass(frozen=True)
class Measured:
    """A run: its time, and that inside the network."""

    seconds: float
    network: Clock

    @property
    def share_outside(self) -> float:
        """Of its time."""
        return 1 - self.network.seconds / self.seconds


def measured(
    now: Now, works: Mapping[str, Callable[[], object]], *methods: tuple[nn.Module, str]
) -> dict[str, Measured]:
    """Do every work twice, in turns, and keep the faster runs: other processes can only make one slower."""
    runs: dict[str, list[Measured]] = {name: [] for name in works}
    for _ in range(2):
        for name, work in works.items():
            clock = Clock(now)
            with clock.watching(*methods):
                started = now()
                work()
                runs[name].append(Measured(now() - started, clock))
    return {name: min(both, key=lambda run: run.seconds) for name, both in runs.items()}


def print_row(what: str, run: Measured, batch_size: int, nfe: int) -> None:
    """Print a row of the table; ``nfe`` are the network calls of an image that counts."""
    call = run.network.seconds / run.network.calls
    images = batch_size / (run.seconds / run.network.calls * nfe)
    print(f"| {what} | {batch_size} | {1000 * call:.0f} | {images:.4f} | {100 * run.share_outside:.2f} % |", flush=True)


def measure_diffusion(
    now: Now, what: str, family_name: str, config: dict[str, Any], batch_size: int, num_steps: int
) -> None:
    """Print our sampler, and the plain loop over the same network."""
    family, model = get_family(family_name), built(family_name, config)
    assert isinstance(model, Denoiser)
    default = family.default_sampler
    sampler = default.model_copy(update={"num_steps": num_steps})
    labels_B = torch.arange(batch_size)
    latents_BCHW = torch.randn(batch_size, model.img_channels, model.img_resolution, model.img_resolution)
    model.denoise(latents_BCHW, 1.0, labels_B)  # the first call prepares the kernels
    draws = {
        what: lambda: family.sample(model, range(batch_size), labels_B, sampler),
        f"{what}, plain loop": lambda: plain_heun(model, latents_BCHW, labels_B, num_steps),
    }
    for name, run in measured(now, draws, (model, "network")).items():
        print_row(name, run, batch_size, default.nfe)


def measure_var(now: Now, batch_size: int) -> None:
    """Print our sampler, and the plain loops over the same networks."""
    family, model = get_family("var"), var_d16()
    labels_B, sampler = torch.arange(batch_size), AutoregressiveSettings()
    tokenizer = model.tokenizer
    tokens_BL = torch.zeros(batch_size, model.num_tokens, dtype=torch.int64)
    networks = [(model, "transformed"), (model, "modulations"), (tokenizer, "decode_unclamped")]
    networks.append((tokenizer, "next_scale_input"))
    draws = {
        "VAR-d16": lambda: family.sample(model, range(batch_size), labels_B, sampler),
        "VAR-d16, plain loop with a cache": lambda: plain_var(model, labels_B, cached=True),
        "VAR-d16, plain loop without one": lambda: plain_var(model, labels_B, cached=False),
        "of these, the VQVAE's decoder": lambda: tokenizer.decode(tokens_BL),
    }
    for name, run in measured(now, draws, *networks).items():
        print_row(name, Measured(run.seconds, replace(run.network, calls=1)), batch_size, nfe=1)


def print_rows() -> None:
    """Print how far one row's results lie from those in a call of 64 rows."""
    x, kernel = torch.randn(64, 128, 16, 16), torch.randn(128, 128, 3, 3) / 34
    v, matrix = torch.randn(64, 512), torch.randn(384, 512) / 23
    layers: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
        "convolution 3x3": (lambda rows: functional.conv2d(rows, kernel, padding=1), x),
        "linear layer": (lambda rows: functional.linear(rows, matrix), v),
    }
    numbers = (1, 2, 4, 8, 16, 32, 48)
    print(f"\n| rows of a call | {' | '.join(map(str, numbers))} |\n|{'---|' * (len(numbers) + 1)}")
    for name, (layer, inputs) in layers.items():
        together = layer(inputs)
        distances = [float((layer(inputs[:number]) - together[:number]).abs().max()) for number in numbers]
        print(f"| {name} | {' | '.join('equal' if d == 0 else f'{d:.1e}' for d in distances)} |")


@torch.no_grad()
def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("edm", "edm2", "var", "rows")
    parser.add_argument("--family", nargs="+", choices=names, default=names)
    parser.add_argument("--batch", type=int, default=4, help="images drawn together")
    parser.add_argument("--steps", type=int, default=3, help="of Heun's method; 2n - 1 network calls")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="on one thread, of a machine with other work: leave out the time that others have the cores",
    )
    options = parser.parse_args()
    threads = 1 if options.processor_time else options.threads
    now, kind = (time.process_time, "processor") if options.processor_time else (time.perf_counter, "wall-clock")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    make_deterministic()
    print(f"engine {ENGINE_VERSION}, torch {torch.__version__}, {processor()}, {describe_device(torch.device('cpu'))}")
    print(f"{kind} time, load before the run {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    if set(options.family) != {"rows"}:
        print("| what | batch | network call, ms | images/s | outside the network |\n|---|---|---|---|---|")
    if "edm" in options.family:
        measure_diffusion(now, "EDM CIFAR-10, 35 evaluations", "edm", EDM_CIFAR10, options.batch, options.steps)
    if "edm2" in options.family:
        measure_diffusion(now, "EDM2-XS 64x64, 63 evaluations", "edm2", EDM2_XS, options.batch, options.steps)
    if "var" in options.family:
        measure_var(now, options.batch)
    if "rows" in options.family:
        print_rows()


if __name__ == "__main__":
    main()
