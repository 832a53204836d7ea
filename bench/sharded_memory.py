"""What each process of a trial holds where the weights lie in rows over the processes (``--shard-weights``).

    python -m bench.sharded_memory [--network var edm2] [--processes 1 2] [--batch 1] [--threads 1]
    python -m bench.sharded_memory --count [--processes 1 2 4 8]

DDO trials of a VAR of 158 million weights and of EDM2-XS, whose images lie in memory, on the CPU over gloo; one process
has all weights. "Held" are target, reference, average and Adam's moments, counted; the rest are peaks of resident
memory beyond what the process had before it made its network: while it is made and cut, in two steps, while a whole
average is there to be evaluated, and while the state is written. Blocks of memory of a megabyte or more are given back
when they are let go, which the C library otherwise does as it likes.

``--count`` trains nothing: it counts, for the large networks, the floor of each process (target, reference, average,
gradients and Adam's moments, four bytes a weight) and what a whole network adds while samples are drawn.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.full_size import (
    EDM2_L_IMG512,
    EDM2_XS,
    EDM2_XXL_IMG512,
    VAR_D16,
    VAR_D30,
    VQVAE,
    built,
    built_var,
    processor,
)
from bench.training_networks import Subject
from ddo_engine.device import make_deterministic
from ddo_engine.families import get_family
from ddo_engine.interruption import StopRequest
from ddo_engine.parallel.joining import joined
from ddo_engine.parallel.launch import launch_of
from ddo_engine.parallel.layout import Layout, Replicated
from ddo_engine.parallel.ranks import Ranks
from ddo_engine.performance import peak_resident_bytes
from ddo_engine.state_file import write_state

GB = 1e9
VAR_D8 = VAR_D16 | {"depth": 8}
LARGE = {
    "EDM2-L": ("edm2", EDM2_L_IMG512),
    "EDM2-XXL": ("edm2", EDM2_XXL_IMG512),
    "VAR-d30": ("var", VAR_D30),
}
COPIES, BYTES = 6, 4
NAMES = {"var": "VAR of 8 blocks", "edm2": "EDM2-XS"}
_REPOSITORY = Path(__file__).parents[1]


def measure(network: str, batch_size: int, ranks: Ranks) -> dict[str, int]:
    """Return bytes by what they are for, in this process."""
    before = _peak_from_here_on()
    model = built_var(VAR_D8) if network == "var" else built("edm2", EDM2_XS)
    family = get_family(network)
    layout: Layout = Replicated(ranks)
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    if network == "var":
        family.attach_autoencoder(model, built("var", VQVAE))
    if ranks.size > 1:
        from ddo_engine.parallel.sharded_weights import Sharded  # noqa: PLC0415  (its import is memory, too)

        layout = Sharded.of(model, family, ranks)
    tokens = getattr(model, "num_tokens", None)
    images = (lambda count: torch.randint(4096, (count, tokens))) if tokens else None
    trial = Subject.of(model, network, batch_size, images, layout).ddo
    found = {"weights": 4 * num_weights, "made and cut": peak_resident_bytes() - before}
    found["two steps"] = _peak_of(lambda: (trial.advance(), trial.advance())) - before
    held = [*trial.state.save({}, 0.0).tensors.values(), *trial.base.model.parameters()]
    found["held"] = sum({tensor.data_ptr(): tensor.nbytes for tensor in held}.values())

    def evaluate() -> None:
        with layout.whole(trial.state.ema_model):
            pass

    found["whole average"] = _peak_of(evaluate) - before
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        found["state written"] = _peak_of(lambda: write_state(path, trial.state.save({}, 0.0), ranks)) - before
    return found


def _peak_of(work: Callable[[], object]) -> int:
    _peak_from_here_on()
    work()
    return peak_resident_bytes()


def _peak_from_here_on() -> int:
    """Let the kernel forget earlier peaks; return what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_resident_bytes()


def run_processes(network: str, options: argparse.Namespace, size: int) -> list[dict[str, int]]:
    """Return what each of so many processes found."""
    command = [sys.executable]
    if size > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    command += ["-m", "bench.sharded_memory", "--network", network, "--batch", str(options.batch)]
    command += ["--threads", str(options.threads), "--measure"]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20), "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=_REPOSITORY, env=environment)
    found: list[dict[str, Any]] = sorted(map(json.loads, done.stdout.splitlines()), key=lambda each: each.pop("rank"))
    return found


def print_floors(sizes: list[int]) -> None:
    """Print what the large networks take at least in each process, counted."""
    columns = ["one process" if size == 1 else f"each of {size}" for size in sizes]
    print("| floor, GB | parameters | outside of blocks | " + " | ".join(columns) + " | a whole network |")
    print("|---" * (len(sizes) + 4) + "|")
    for name, (family_name, config) in LARGE.items():
        family = get_family(family_name)
        with torch.device("meta"):
            model = family.build(config)
        in_blocks = {each for block in family.block_plan(model).blocks for each in block.parameters() if each.ndim}
        total = sum(parameter.numel() for parameter in model.parameters())
        cut = sum(parameter.numel() for parameter in in_blocks)
        floors = [COPIES * BYTES * (total - cut + (cut / size)) / GB for size in sizes]
        row = " | ".join(f"{floor:.2f}" for floor in floors)
        share = (total - cut) / total
        print(f"| {name} | {total / 1e6:.0f} M | {share:.2%} | {row} | {BYTES * total / GB:.2f} |")


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--processes", nargs="+", type=int)
    parser.add_argument("--batch", type=int, default=1, help="real images of a step in each process")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--count", action="store_true")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    make_deterministic()
    if options.measure:
        launch = launch_of(os.environ)
        with joined(launch, torch.device("cpu"), StopRequest()) as ranks:
            found = measure(options.network[0], options.batch * ranks.size, ranks)
            line = json.dumps(found | {"rank": ranks.rank}) + "\n"
            os.write(1, line.encode())  # in one piece: all processes write to one pipe
        return
    if options.count:
        print_floors(options.processes or [1, 2, 4, 8])
        return
    print(f"torch {torch.__version__}, {processor()}")
    sizes = options.processes or [1, 2]
    for network in options.network:
        for size in sizes:
            for rank, found in enumerate(run_processes(network, options, size)):
                weights = found.pop("weights") / GB
                if size == sizes[0] and rank == 0:
                    print(f"\n{NAMES[network]}, {weights:.2f} GB of weights, {options.batch} real images a process\n")
                    print("| GB | " + " | ".join(found) + " |\n|---|" + "---|" * len(found))
                row = " | ".join(f"{each / GB:.2f}" for each in found.values())
                print(f"| {f'rank {rank} of {size}' if size > 1 else 'one process'} | {row} |", flush=True)


if __name__ == "__main__":
    main()
