"""Memory and time of converting, checking and loading a checkpoint of about a gigabyte, each in its own process.

    python -m bench.convert_memory --gigabytes 1

The file is a pickle in EDM2's official layout, float16, with random weights. Memory is the peak resident size of the
process, the interpreter and torch (the row "nothing") included. "Copy ours out of a mapping" is what reading through
the library would cost.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

_REPOSITORY = Path(__file__).parents[1]
_MEASURE = """
import resource, sys, time, torch, ddo_engine, ddo_engine.conversion.converting, ddo_engine.checkpoint
started = time.perf_counter()
{work}
took = time.perf_counter() - started
print(took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
_WORK = {
    "nothing": "",
    "convert": "ddo_engine.conversion.converting.convert({source!r}, {converted!r})",
    "load ours": "kept = ddo_engine.checkpoint.load_checkpoint({converted!r})",
    "load the pickle": "kept = ddo_engine.load_model({source!r})",
    "copy ours out of a mapping": (
        "from safetensors.torch import load_file\n"
        "kept = {{name: weight.clone() for name, weight in load_file({converted!r}).items()}}"
    ),
    "load ours as float32": "kept = ddo_engine.load_model({converted!r}, dtype=torch.float32)",
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    options = parser.parse_args()
    table = Table("work", "seconds", "peak GB", "peak / size of file")
    with TemporaryDirectory() as folder:
        source, converted = f"{folder}/official.pkl", f"{folder}/ours.safetensors"
        _measure(_write(source, options.gigabytes))
        size = Path(source).stat().st_size
        for name, work in _WORK.items():
            seconds, peak = _measure(work.format(source=source, converted=converted))
            table.add_row(name, f"{seconds:.1f}", f"{peak / 1e9:.2f}", f"{peak / size:.2f}")
    Console().print(f"a file of {size / 1e9:.2f} GB", table)


def _write(path: str, gigabytes: float) -> str:
    """Return code that writes a file of about this size: blocks of the official network, more of them."""
    return f"""
from ddo_engine.families import get_family
from tests.official_pickles import edm2_file
arguments = dict(img_resolution=64, img_channels=3, label_dim=1000, use_fp16=True, model_channels=192, num_blocks=1)
def weights_of(arguments):
    with torch.device("meta"):
        return get_family("edm2").build(dict(class_name="Precond", **arguments)).state_dict()
while sum(weight.numel() for weight in weights_of(arguments).values()) * 2 < {gigabytes} * 1e9:
    arguments["num_blocks"] += 1
weights = {{name: torch.randn(weight.shape).half() for name, weight in weights_of(arguments).items()}}
content = edm2_file(arguments, weights)
open({path!r}, "wb").write(content)
"""


def _measure(work: str) -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE.format(work=work)], check=True, capture_output=True, text=True, cwd=_REPOSITORY
    )
    seconds, peak = map(float, done.stdout.split())
    return seconds, peak


if __name__ == "__main__":
    main()
