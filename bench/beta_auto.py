"""What beta 'auto' finds on digits, for probes of several lengths, beside the betas that were chosen by hand.

    python -m bench.beta_auto [--models mlp edm edm2 var] [--only probes|trials] [--out DIR]

For the digits preset and the EDM2 and VAR examples: the probe alone, of several lengths, with fakes of several weights;
then whole trials, the beta by hand and with 'auto', and what the discriminator did in them. Prints tables in Markdown.
"""

import argparse
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ddo_engine import generate, probe, train
from ddo_engine.errors import Interrupted
from ddo_engine.events import EventWriter
from ddo_engine.interruption import StopRequest
from ddo_engine.run_context import RunContext
from ddo_engine.spec import (
    BetaFound,
    DDOObjective,
    EngineEvent,
    Evaluated,
    FileRef,
    GenerateSpec,
    JobSpec,
    Metric,
    TrainSpec,
)
from examples.digits import demo
from examples.digits.family_jobs import EXAMPLES, job_body
from examples.digits.make_dataset import make_dataset

STEPS = (4, 8, 16, 30)
ALPHAS = (0.25, 0.5, 1.0, 4.0)


@dataclass(frozen=True)
class Case:
    """One example of digits, its fakes drawn."""

    name: str
    alpha: float
    by_hand: tuple[float, ...]
    spec: TrainSpec


def cases(folder: Path, names: Sequence[str]) -> Iterator[Case]:
    """Draw the fakes of each of these examples and yield it."""
    dataset, _ = make_dataset(folder)
    bodies = {"mlp": demo.job_body(dataset, seed=0)}
    bodies |= {name: job_body(name, dataset, seed=0) for name in EXAMPLES}
    for name in names:
        yield _case(name, JobSpec.model_validate(bodies[name]), dataset, folder / name)


def _case(name: str, job: JobSpec, dataset: Path, folder: Path) -> Case:
    base = _file(job.base_checkpoint)
    autoencoder = None if job.autoencoder is None else _file(job.autoencoder)
    count = job.reference_set.model_dump()["num_samples"]
    fakes = GenerateSpec(
        checkpoint=base,
        autoencoder=autoencoder,
        dataset=FileRef(path=str(dataset)),
        sampler=job.sampler.for_reference_set(),
        first_seed=10_000_000,
        num_samples=count,
        grey_levels=job.dataset.grey_levels,
    )
    events = _events_of(generate, fakes, folder)
    path = next(event.path for event in events if event.type == "file")
    spec = TrainSpec(
        checkpoint=base,
        autoencoder=autoencoder,
        dataset=FileRef(path=str(dataset)),
        reference_set=(FileRef(path=path),),
        feature_network=_file(job.feature_network),
        objective=DDOObjective(alpha=job.grid.alpha[0], beta="auto"),
        training=job.training,
        sampler=job.sampler,
        evaluation=job.evaluation,
        grey_levels=job.dataset.grey_levels,
    )
    by_hand = {float(beta) for beta in job.grid.beta if beta != "auto"}
    return Case(name, job.grid.alpha[0], tuple(sorted(by_hand)), spec)


def _file(uri: str) -> FileRef:
    return FileRef(path=uri.removeprefix("file://"))


def _events_of(command: Any, spec: Any, folder: Path, *, until_beta: bool = False) -> list[EngineEvent]:
    folder.mkdir(parents=True, exist_ok=True)
    events: list[EngineEvent] = []
    stop = StopRequest()

    def listen(event: EngineEvent) -> None:
        events.append(event)
        stop.requested = until_beta and isinstance(event, BetaFound)

    try:
        command.run(spec, RunContext(folder, torch.device("cpu"), EventWriter(io.StringIO(), listen), stop))
    except Interrupted:
        assert until_beta
    return events


def found_beta(case: Case, *, alpha: float, num_steps: int | None) -> BetaFound:
    """Run a probe of so many steps, or of the usual length, with this very alpha, and nothing after it."""
    usual, probe.LARGEST_ALPHA = probe.LARGEST_ALPHA, alpha
    kimg = None if num_steps is None else num_steps * case.spec.training.batch_size / 1000
    training = case.spec.training.model_copy(update={"probe_kimg": kimg})
    objective = DDOObjective(alpha=alpha, beta="auto")
    spec = case.spec.model_copy(update={"training": training, "objective": objective})
    with tempfile.TemporaryDirectory() as folder:
        events = _events_of(train, spec, Path(folder), until_beta=True)
    probe.LARGEST_ALPHA = usual
    return next(event for event in events if isinstance(event, BetaFound))


def row_of_trial(case: Case, beta: Any) -> str:
    """Run a whole trial; return its row."""
    training = case.spec.training.model_copy(update={"stop_when_saturated": False})
    objective = DDOObjective(alpha=case.alpha, beta=beta)
    spec = case.spec.model_copy(update={"objective": objective, "training": training})
    with tempfile.TemporaryDirectory() as folder:
        events = _events_of(train, spec, Path(folder))
    found = next((event.beta for event in events if isinstance(event, BetaFound)), None)
    fids = [event.metrics["fid"] for event in events if isinstance(event, Evaluated)]
    windows = [event.values for event in events if isinstance(event, Metric)]
    used = beta if found is None else found
    accuracy, saturated = (
        max(window[name] for window in windows) for name in ("discriminator_accuracy", "saturated_share")
    )
    spread = max(used * window["ratio_real_std"] for window in windows)
    loss = max(window["target_loss"] / window["reference_loss"] for window in windows)
    warned = ", ".join(event.code for event in events if event.type == "warning") or "none"
    name = "auto" if found is not None else "by hand"
    return (
        f"| {case.name} | {case.alpha:g} | {name} {used:.3g} | {min(fids):.2f} | {accuracy:.3f} | {saturated:.2f} | "
        f"{spread:.2f} | {loss:.2f} | {warned} |"
    )


def print_probes(made: Sequence[Case]) -> None:
    """Print what probes of several lengths find, with fakes of several weights."""
    lengths = " | ".join(f"{steps} steps" for steps in STEPS)
    print(f"| model | alpha of the probe | by hand | by default | {lengths} |")
    print("|---|---:|---:|---:|" + "---:|" * len(STEPS))
    for case in made:
        for alpha in ALPHAS:
            default = found_beta(case, alpha=alpha, num_steps=None)
            betas = [f"{found_beta(case, alpha=alpha, num_steps=steps).beta:.3g}" for steps in STEPS]
            hand = ", ".join(f"{beta:g}" for beta in case.by_hand)
            shown = f"{default.beta:.3g} ({default.num_steps} steps)"
            print(f"| {case.name} | {alpha:g} | {hand} | {shown} | {' | '.join(betas)} |", flush=True)


def print_trials(made: Sequence[Case]) -> None:
    """Print how whole trials end, and the largest of what their windows of diagnostics said."""
    print("| model | alpha | beta | best FID | accuracy | saturated | beta x std | loss on data, ratio | warnings |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---|")
    for case in made:
        for beta in (*case.by_hand, "auto"):
            print(row_of_trial(case, beta), flush=True)


def main() -> None:
    """Print both tables, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None, help="where fakes go; default: a temporary folder")
    parser.add_argument("--models", nargs="+", choices=("mlp", *EXAMPLES), default=("mlp", "edm", "edm2", "var"))
    parser.add_argument("--only", choices=("probes", "trials"), default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        made = list(cases(options.out or Path(temporary), options.models))
        if options.only != "trials":
            print_probes(made)
        if options.only != "probes":
            print_trials(made)


if __name__ == "__main__":
    main()
