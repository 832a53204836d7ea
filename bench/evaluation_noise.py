"""How far does the FID of one model move with the seed of its evaluation? What `stop.noise_seeds` measures, on digits.

    python -m bench.evaluation_noise [--samples 1000 5000 10000 50000] [--seeds 8] [--finetuned FILE] [--png FILE]
                                    [--confidence]

The base of examples/digits under the preset's sampler and feature network. Every seed draws latents of its own. With
``--finetuned`` a second model is measured with the same seeds, and the spread of the difference between the two is
compared with what it would be if each had latents of its own. With ``--confidence`` the spread of the base stands
beside what `evaluation.confidence` tells of it from the samples of one seed, as the mean over the seeds. Prints a table
in Markdown.
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from matplotlib.figure import Figure

from ddo_engine.spec import EvaluateSpec, FileRef, JobSpec
from examples.digits.demo import ASSETS, job_body
from examples.digits.engine import evaluations_of, run_engine
from examples.digits.make_dataset import make_dataset
from service.stopping import noise_protocols


@dataclass(frozen=True)
class Measured:
    """FIDs at one number of samples, seed by seed; of the finetuned model none where there is none.

    ``told`` are the deviations that the base's evaluations tell, if they do.
    """

    num_samples: int
    base: list[float]
    finetuned: list[float]
    told: list[float]

    @property
    def differences(self) -> list[float]:
        """Base less finetuned, of the same seeds."""
        return [base - other for base, other in zip(self.base, self.finetuned, strict=False)]

    @property
    def independent_spread(self) -> float:
        """Standard deviation of a difference whose sides have latents of their own."""
        return math.hypot(stdev(self.base), stdev(self.finetuned))


def job_for(dataset: Path, num_samples: int, num_seeds: int, *, confidence: bool) -> JobSpec:
    """Return a job that would measure its noise on so many samples by so many seeds, the deciding one among them."""
    body = job_body(dataset, seed=0)
    evaluation = {"num_samples": num_samples, "neighbours": None, "confidence": confidence}
    body |= {"confirm": None, "evaluation": evaluation}
    return JobSpec.model_validate(body | {"stop": {"noise_seeds": num_seeds - 1}})


def numbers(checkpoint: Path, dataset: Path, job: JobSpec, workdir: Path) -> list[dict[str, float]]:
    """Return a model's FID, and what is measured beside it, under each seed."""
    spec = EvaluateSpec(
        checkpoint=FileRef(path=str(checkpoint)),
        dataset=FileRef(path=str(dataset)),
        feature_network=FileRef(path=str(ASSETS / "features.safetensors")),
        sampler=job.sampler,
        grey_levels=job.dataset.grey_levels,
        evaluations=(job.evaluation, *noise_protocols(job)),
    )
    return [evaluation.metrics for evaluation in evaluations_of(run_engine(spec, workdir))]


def row(measured: Measured) -> str:
    """Return a row of the table."""
    noise = stdev(measured.base)
    cells = [f"{measured.num_samples:,}", f"{mean(measured.base):.3f}", f"{noise:.3f}", f"{2 * noise:.3f}"]
    if measured.told:
        cells.append(f"{mean(measured.told):.3f}")
    if measured.finetuned:
        cells += [
            f"{mean(measured.finetuned):.3f}",
            f"{stdev(measured.finetuned):.3f}",
            f"{stdev(measured.differences):.3f}",
            f"{measured.independent_spread:.3f}",
        ]
    return f"| {' | '.join(cells)} |"


def draw(rows: Sequence[Measured], path: Path) -> None:
    """Draw every FID over the number of samples, and the spreads beside them."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    values, spreads = figure.subplots(1, 2)
    counts = [item.num_samples for item in rows]
    titles = {"base": "base", "finetuned": "finetuned"} if rows[0].finetuned else {"base": "base"}
    for colour, (name, title) in zip(("C0", "C1"), titles.items(), strict=False):
        series = [getattr(item, name) for item in rows]
        for count, found in zip(counts, series, strict=True):
            values.plot([count] * len(found), found, "o", color=colour, alpha=0.5, markersize=4)
        values.plot(counts, [mean(found) for found in series], color=colour, label=title)
        spreads.plot(counts, [stdev(found) for found in series], "o-", color=colour, label=title)
    if rows[0].finetuned:
        spreads.plot(counts, [stdev(item.differences) for item in rows], "o-", color="C2", label="difference")
        spreads.plot(
            counts,
            [item.independent_spread for item in rows],
            ":",
            color="C2",
            label="difference, were seeds not shared",
        )
    slope = [stdev(rows[0].base) * math.sqrt(counts[0] / count) for count in counts]
    spreads.plot(counts, slope, "--", color="grey", label="1/√N")
    values.set(xscale="log", xlabel="samples", ylabel="FID, a dot a seed")
    spreads.set(xscale="log", yscale="log", xlabel="samples", ylabel="standard deviation over seeds")
    for axes in (values, spreads):
        axes.legend()
    figure.savefig(path, dpi=80, metadata={"Software": None})


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[1000, 5000, 10_000, 50_000], help="%(default)s")
    parser.add_argument("--seeds", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--finetuned", type=Path, help="a checkpoint of the same job, such as `make demo` downloads")
    parser.add_argument("--png", type=Path, help="draw it too")
    parser.add_argument("--confidence", action="store_true", help="also print the mean of the deviations told")
    arguments = parser.parse_args()
    columns = ["samples", "mean FID", "standard deviation", "least gain that counts"]
    if arguments.confidence:
        columns.append("mean fid_std")
    if arguments.finetuned is not None:
        columns += ["finetuned: mean", "standard deviation", "of the difference", "were seeds not shared"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset, _ = make_dataset(folder)
        for count in arguments.samples:
            job = job_for(dataset, count, arguments.seeds, confidence=arguments.confidence)
            base, finetuned = (
                [] if path is None else numbers(path, dataset, job, folder / f"{title}-{count}")
                for title, path in (("base", ASSETS / "base.safetensors"), ("finetuned", arguments.finetuned))
            )
            told = [each["fid_std"] for each in base if arguments.confidence]
            rows.append(Measured(count, [each["fid"] for each in base], [each["fid"] for each in finetuned], told))
            print(row(rows[-1]), flush=True)
    if arguments.png is not None:
        draw(rows, arguments.png)


if __name__ == "__main__":
    main()
