"""Does DDO on digits help beyond noise and beyond training longer? Three seeds of the whole job, through the service.

    python -m bench.digits_seeds [--seeds 3] [--out DIR]

Each seed is one job of the preset ``digits`` with the shipped base (``make demo`` runs seed 0). Each has a control: MLE
training continued from the same base with the same learning rate, warm-up and EMA for as many steps and as many images
as the job's two rounds together (real and fake), evaluated as often, its best evaluation kept like DDO's.
All are judged by ``examples/digits/verdict.py`` on samples that no selection saw. Prints tables in Markdown.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from bench.run_seeds import failures, print_runs, print_seeds
from ddo_client import Client
from ddo_client.watch import watch
from ddo_engine.presets import PRESETS
from ddo_engine.spec import FileRef, FileRole, JobSpec, MLEObjective, TrainSpec
from deploy.local.processes import signals_as_exceptions
from deploy.local.stack import LocalStack
from examples.digits.demo import ASSETS, NUM_WORKERS, job_body
from examples.digits.engine import files_of, run_engine
from examples.digits.make_dataset import make_dataset
from examples.digits.verdict import Bench, verdict

BASE = ASSETS / "base.safetensors"
LEAST_GAIN = 0.3  # of the FID that selection used


def finetune(out: Path, dataset: Path, seeds: Sequence[int], console: Console) -> list[Path]:
    """Run one job per seed through the service; return the best checkpoints."""
    best = []
    with (
        LocalStack(num_workers=NUM_WORKERS, input_roots=[out, ASSETS]) as stack,
        Client(stack.url, stack.api_key) as client,
    ):
        for seed in seeds:
            job = watch(client, client.submit(job_body(dataset, seed=seed)).id, console)
            if job.status != "succeeded":
                sys.exit(f"the job of seed {seed} ended as {job.status}: {job.error}")
            path = out / f"ddo-{seed}.safetensors"
            path.unlink(missing_ok=True)
            best.append(client.download(client.best(job.id).id, path))
    return best


def continue_mle(out: Path, dataset: Path, seed: int) -> Path:
    """Run the control of one seed; return its best checkpoint."""
    job = JobSpec.model_validate(job_body(dataset, seed=seed))
    training = job.training.model_copy(
        update={
            # real and fake images of a DDO step, as many steps as all rounds together
            "batch_size": 2 * job.training.batch_size,
            "kimg": 2 * job.rounds * job.training.kimg,
            "warmup_kimg": 2 * job.training.warmup_kimg,
            "evaluate_every_kimg": 2 * job.training.evaluate_every_kimg,
            # per step the EMA forgets as fast as in the job
            "ema_half_life_kimg": 2 * job.training.ema_half_life_kimg,
        }
    )
    spec = TrainSpec(
        checkpoint=FileRef(path=str(BASE)),
        dataset=FileRef(path=str(dataset)),
        feature_network=FileRef(path=str(ASSETS / "features.safetensors")),
        objective=MLEObjective(),
        training=training,
        sampler=job.sampler,
        evaluation=job.evaluation,
        grey_levels=job.dataset.grey_levels,
        seed=seed,
    )
    events = run_engine(spec, out / f"control-{seed}", threads=NUM_WORKERS, cache=out / "cache")
    checkpoints = files_of(events, FileRole.CHECKPOINT)
    return checkpoints[max(checkpoints)]  # one is written only when it beats all before it


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="runs of job and control (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=5000, help="images behind each number (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("bench-output/digits_seeds"), help="folder for results")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    console = Console(stderr=True, highlight=False)
    torch.set_num_threads(NUM_WORKERS)
    dataset, _ = make_dataset(out)
    bench = Bench.load(out, ASSETS, PRESETS["digits"].settings["dataset"]["grey_levels"])
    with signals_as_exceptions():
        ddo_paths = finetune(out, dataset, range(arguments.seeds), console)
        control_paths = [continue_mle(out, dataset, seed) for seed in range(arguments.seeds)]
    judged = {path: verdict(path, bench, num_samples=arguments.samples) for path in (BASE, *control_paths, *ddo_paths)}
    base, control, ddo = judged[BASE], [judged[path] for path in control_paths], [judged[path] for path in ddo_paths]
    (out / "verdicts.json").write_text(
        json.dumps(
            {str(p.relative_to(p.parents[1])): {k: str(v) for k, v in r.items()} for p, r in judged.items()}, indent=1
        )
    )
    print(f"{arguments.seeds} run seeds; each number from 3 x {arguments.samples:,} samples\n")
    print_runs(base, control, ddo)
    print_seeds(control, ddo)
    missed = failures(base, control, ddo, least_gain=LEAST_GAIN)
    print("\n" + ("\n".join(f"MISSED {line}" for line in missed) or "Every bar is met."))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
