"""How far does the FID of one model move with the seed of its evaluation? What `stop.noise_seeds` measures, on digits.

    python -m bench.evaluation_noise [--samples 1000 5000] [--seeds 8]

The base of examples/digits under the preset's sampler and feature network. Every seed draws latents of its own.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import mean, stdev

from ddo_engine.spec import EvaluateSpec, FileRef, JobSpec
from examples.digits.demo import ASSETS, job_body
from examples.digits.engine import evaluations_of, run_engine
from examples.digits.make_dataset import make_dataset
from service.stopping import noise_protocols


def fids(folder: Path, dataset: Path, num_samples: int, num_seeds: int) -> list[float]:
    """Return the base's FID under each seed that such a job would measure its noise by: the deciding one and others."""
    body = job_body(dataset, seed=0)
    body |= {"confirm": None, "evaluation": {"num_samples": num_samples, "neighbours": None}}
    job = JobSpec.model_validate(body | {"stop": {"noise_seeds": num_seeds - 1}})
    spec = EvaluateSpec(
        checkpoint=FileRef(path=str(ASSETS / "base.safetensors")),
        dataset=FileRef(path=str(dataset)),
        feature_network=FileRef(path=str(ASSETS / "features.safetensors")),
        sampler=job.sampler,
        grey_levels=job.dataset.grey_levels,
        evaluations=(job.evaluation, *noise_protocols(job)),
    )
    events = run_engine(spec, folder / str(num_samples))
    return [evaluation.metrics["fid"] for evaluation in evaluations_of(events)]


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
