"""Kill an evaluation of digits at random moments, again and again, and compare its numbers with an undisturbed run's.

    python -m bench.kill_evaluation --kills 10

The base of examples/digits: 5,000 samples, all metrics. Each time the evaluation is started, a moment is drawn: for
every fourth kill from the start of the process to when the undisturbed run told its first progress; for the others from
the first progress of this very start on, up to as long as the undisturbed run took from there to its end. A start that
ends before its moment is no kill: its numbers are compared, and the next one starts from nothing. It prints every kill
and how many samples the start had taken from those before it. The exit status says whether all numbers are equal, to
the bit. Some ten seconds a kill.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.killed_runs import KILLS_PER_STARTUP, Moment, Run, Seconds
from examples.digits.demo import ASSETS
from examples.digits.make_dataset import make_dataset


def main() -> int:
    """Evaluate undisturbed and disturbed, and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    dice = random.Random(options.seed)  # noqa: S311  (no secret)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = spec_of(make_dataset(folder)[0], options.samples)
        undisturbed = start(spec, folder / "undisturbed")
        seconds = undisturbed.undisturbed()
        expected = metrics_of(undisturbed)
        print(f"undisturbed: {seconds.startup:.1f} s to the first progress, {seconds.work:.1f} s of evaluation")
        print(f"             {expected}")
        print("kill  in          after s  samples from before", flush=True)
        done, since, equal, disturbed = 0, 0, True, folder / "disturbed"
        while done < options.kills:
            taken, run = drawn_in(disturbed), start(spec, disturbed)
            moment = Moment((done + 1) % KILLS_PER_STARTUP != 0, dice.random())
            after_seconds = kill(run, moment, seconds)
            if after_seconds is None:
                equal &= compare(run, expected, since)
                since = 0
                shutil.rmtree(disturbed)
                continue
            done, since = done + 1, since + 1
            where = "evaluation" if run.first_progress is not None else "start-up"
            print(f"{done:4d}  {where:10}  {after_seconds:7.2f}  {taken:19d}", flush=True)
        last = start(spec, disturbed)
        assert last.finish() == 0, "the last run failed"
        equal &= compare(last, expected, since)
        print(f"{done} kills: {'all numbers equal those of the undisturbed run' if equal else 'numbers DIFFER'}")
        return 0 if equal else 1


def spec_of(dataset: Path, num_samples: int) -> dict[str, Any]:
    """Return the evaluation."""
    return {
        "kind": "evaluate",
        "checkpoint": str(ASSETS / "base.safetensors"),
        "dataset": str(dataset),
        "feature_network": str(ASSETS / "features.safetensors"),
        "grey_levels": 17,
        "sampler": {"labels": "balanced", "batch_size": 128},
        "evaluations": [{"num_samples": num_samples, "inception_score_splits": 10}],
    }


def start(spec: dict[str, Any], workdir: Path) -> Run:
    """Start or resume the evaluation."""
    return Run.start("evaluate", spec, workdir, "evaluation")


def kill(run: Run, moment: Moment, undisturbed: Seconds) -> float | None:
    """Kill at the moment; return how long it had lived, or None if the run has ended before."""
    while run.process.poll() is None and not moment.has_come(run, undisturbed):
        time.sleep(0.005)
    run.process.kill()
    lived = time.monotonic() - run.started
    run.finish()
    return None if any(event["type"] == "finished" for event in run.events) else lived


def drawn_in(workdir: Path) -> int:
    """Return how many samples lie in a folder, for the next start to go on behind."""
    parts = list(workdir.glob("evaluation-*/*-*.safetensors"))
    return max((int(part.stem.partition("-")[2]) for part in parts), default=0)


def metrics_of(run: Run) -> dict[str, float]:
    """Return the numbers of a run that has ended."""
    metrics: dict[str, float] = next(event["metrics"] for event in run.events if event["type"] == "evaluation")
    return metrics


def compare(run: Run, expected: dict[str, float], num_kills: int) -> bool:
    """Print whether the numbers of an evaluation that has ended are the expected ones, and return it."""
    found = metrics_of(run)
    equal = found == expected
    print(f"      the evaluation ended after {num_kills} kills: FID {found['fid']!r}, {'equal' if equal else 'OTHER'}")
    return equal


if __name__ == "__main__":
    sys.exit(main())
