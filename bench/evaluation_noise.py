"""How far does the FID of one model move with the seed of its evaluation? What `stop.noise_seeds` measures, on digits.

    python -m bench.evaluation_noise [--samples 1000 5000] [--seeds 8]

The base of examples/digits under the preset's sampler and feature network. Every seed draws latents of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev

from ddo_engine.presets import PRESETS
from examples.digits.make_dataset import make_dataset

_ASSETS = Path(__file__).parents[1] / "examples/digits/assets"


def fids(folder: Path, dataset: Path, num_samples: int, num_seeds: int) -> list[float]:
    """Return the base's FID under each seed."""
    settings = PRESETS["digits"].settings
    spec = {
        "kind": "evaluate",
        "checkpoint": str(_ASSETS / "base.safetensors"),
        "dataset": str(dataset),
        "feature_network": str(_ASSETS / "features.safetensors"),
        "sampler": dict(settings["sampler"]),
        "grey_levels": settings["dataset"]["grey_levels"],
        "evaluations": [
            {"num_samples": num_samples, "seed": index * num_samples, "neighbours": None} for index in range(num_seeds)
        ],
    }
    path = folder / f"evaluate-{num_samples}.json"
    path.write_text(json.dumps(spec), encoding="utf-8")
    command = [sys.executable, "-m", "ddo_engine", "evaluate", str(path), "--workdir", str(folder / str(num_samples))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return [event["metrics"]["fid"] for event in events if event["type"] == "evaluation"]


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[1000, 5000], help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=8, help="default: %(default)s")
    arguments = parser.parse_args()
    print("| samples | mean FID | standard deviation | least gain that counts |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset, _ = make_dataset(folder)
        for num_samples in arguments.samples:
            found = fids(folder, dataset, num_samples, arguments.seeds)
            print(f"| {num_samples} | {mean(found):.4f} | {stdev(found):.4f} | {2 * stdev(found):.4f} |", flush=True)


if __name__ == "__main__":
    main()
