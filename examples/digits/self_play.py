"""Play the rounds of DDO with the engine's command line alone: no service, no queue, no database.

Reference set, one trial per cell of the grid, the best checkpoint over all evaluation points becomes the next round's
reference: what the service does, in one script to read. Settings come from a preset, seeds from the same functions, so
that the checkpoints are the service's to the bit.

    python -m examples.digits.self_play DATA_DIR ASSETS_DIR OUT_DIR [--control]

With --control the base is also trained on by plain maximum likelihood: as many images as all rounds of one trial chain
see, real and fake, at the same learning rate, evaluated on the same schedule, the best point kept.
"""

import argparse
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddo_engine import spec
from examples.digits.engine import evaluations_of, files_of, run_engine
from service.seeds import reference_set_seed, trial_seed


@dataclass(frozen=True)
class Candidate:
    """A checkpoint and its number.

    Attributes:
        path: The file.
        name: Where it comes from, for people.
        fid: Of the ranking, or of the confirmation once confirmed.
        metrics: All numbers of that evaluation.
    """

    path: Path
    name: str
    fid: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class SelfPlay:
    """The rounds of one run.

    Attributes:
        job: Settings, as a client would post them; URIs are not used.
        dataset: Training split.
        features: Feature network.
        folder: For all files of the run.
        workers: Trials at a time.
        threads: CPU threads of each.
        autoencoder: Of a model that works on tokens.
    """

    job: spec.JobSpec
    dataset: Path
    features: Path
    folder: Path
    workers: int = 2
    threads: int = 1
    autoencoder: Path | None = None

    def evaluate(self, checkpoint: Path, name: str, settings: spec.EvaluationSettings, workdir: str) -> Candidate:
        """Measure a checkpoint."""
        task = spec.EvaluateSpec(
            checkpoint=_file(checkpoint),
            autoencoder=None if self.autoencoder is None else _file(self.autoencoder),
            dataset=_file(self.dataset),
            feature_network=_file(self.features),
            sampler=self.job.sampler,
            evaluations=(settings,),
            grey_levels=self.job.dataset.grey_levels,
        )
        (result,) = evaluations_of(self._run(task, workdir))
        return Candidate(checkpoint, name, result.metrics["fid"], result.metrics)

    def rank(self, checkpoint: Path, name: str) -> Candidate:
        """Measure a checkpoint as trials are measured."""
        return self.evaluate(checkpoint, name, self.job.evaluation, f"rank-{name}")

    def confirm(self, candidates: list[Candidate], workdir: str) -> list[Candidate]:
        """Measure candidates again on more samples, where the job asks for it."""
        if self.job.confirm is None:
            return candidates
        settings = self.job.evaluation.model_copy(
            update={"num_samples": self.job.confirm.num_samples, "seed": self.job.confirm.seed}
        )

        def measure(index: int) -> Candidate:
            item = candidates[index]
            return self.evaluate(item.path, item.name, settings, f"{workdir}/confirm-{index}")

        return self._in_parallel(measure, len(candidates))

    def generate(self, reference: Path, round_index: int) -> Path:
        """Draw the round's reference set."""
        task = spec.GenerateSpec(
            checkpoint=_file(reference),
            autoencoder=None if self.autoencoder is None else _file(self.autoencoder),
            dataset=_file(self.dataset),
            sampler=self.job.sampler,
            first_seed=reference_set_seed(self.job, round_index),
            num_samples=self.job.reference_set.num_samples,
            grey_levels=self.job.dataset.grey_levels,
        )
        workdir = f"round-{round_index}/reference"
        (path,) = files_of(self._run(task, workdir), spec.FileRole.REFERENCE_SET).values()
        return path

    def train(self, reference: Path, fakes: Path | None, workdir: str, **settings: Any) -> Candidate:
        """Run one trial and return its best evaluation point.

        Args:
            reference: Initial weights; for DDO also the frozen reference.
            fakes: Its samples; None for maximum likelihood.
            workdir: Folder below the run's.
            settings: ``objective`` and ``seed``, and ``training`` where it is not the job's.
        """
        task = spec.TrainSpec(
            checkpoint=_file(reference),
            autoencoder=None if self.autoencoder is None else _file(self.autoencoder),
            dataset=_file(self.dataset),
            reference_set=() if fakes is None else (_file(fakes),),
            feature_network=_file(self.features),
            sampler=self.job.sampler,
            evaluation=self.job.evaluation,
            grey_levels=self.job.dataset.grey_levels,
            **{"training": self.job.training} | settings,
        )
        events = self._run(task, workdir)
        best = min(evaluations_of(events), key=lambda evaluation: evaluation.metrics["fid"])
        path = files_of(events, spec.FileRole.CHECKPOINT)[best.kimg]
        return Candidate(path, f"{_objective(task)} at {best.kimg:g} kimg", best.metrics["fid"], best.metrics)

    def play_round(self, reference: Path, round_index: int) -> list[Candidate]:
        """Return the best point of every trial of a round, best first."""
        fakes = self.generate(reference, round_index)

        def run_trial(index: int) -> Candidate:
            seed = trial_seed(self.job, round_index, index)
            workdir = f"round-{round_index}/trial-{index}"
            return self.train(reference, fakes, workdir, objective=self.job.grid.cells[index], seed=seed)

        return sorted(self._in_parallel(run_trial, len(self.job.grid.cells)), key=lambda trial: trial.fid)

    def continue_pretraining(self, base: Path) -> Candidate:
        """Return the control: the best point of plain maximum likelihood from the base."""
        images = {"kimg": 2 * self.job.rounds * self.job.training.kimg}  # real and fake ones of all rounds
        training = self.job.training.model_copy(update=images)
        return self.train(
            base, None, "control", objective=spec.MLEObjective(), seed=trial_seed(self.job, 1, 0), training=training
        )

    def _in_parallel(self, task: Callable[[int], Candidate], count: int) -> list[Candidate]:
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(task, range(count)))

    def _run(self, task: spec.Settings, workdir: str) -> list[spec.EngineEvent]:
        return run_engine(task, self.folder / workdir, threads=self.threads, cache=self.folder / "cache")


def _objective(task: spec.TrainSpec) -> str:
    if isinstance(task.objective, spec.DDOObjective):
        return f"alpha {task.objective.alpha:g} beta {task.objective.beta:g}"
    return "maximum likelihood"


def _file(path: Path) -> spec.FileRef:
    return spec.FileRef(path=str(path))


def job_spec(data_dir: Path, assets_dir: Path, **changes: Any) -> spec.JobSpec:
    """Return the preset's settings with ``changes`` on top."""
    body = {
        "preset": "digits",
        "base_checkpoint": (assets_dir / "base.safetensors").resolve().as_uri(),
        "dataset": {"uri": (data_dir / "digits-train.zip").resolve().as_uri()} | changes.pop("dataset", {}),
        "feature_network": (assets_dir / "features.safetensors").resolve().as_uri(),
    }
    return spec.JobSpec.model_validate(body | changes)


def play(run: SelfPlay, base: Path, say: Callable[[str], None]) -> Candidate:
    """Play all rounds; returns the best checkpoint (the base if no trial beats it)."""
    best = run.confirm([run.rank(base, "base")], "base")[0]
    say(f"base: {_numbers(best)}")
    for round_index in range(1, run.job.rounds + 1):
        started = time.monotonic()
        trials = run.play_round(best.path, round_index)
        for trial in trials:
            say(f"round {round_index}: {_numbers(trial)}  ({trial.name})")
        finalists = trials if run.job.confirm is None else trials[: run.job.confirm.finalists]
        winner = min(run.confirm(finalists, f"round-{round_index}"), key=lambda trial: trial.fid)
        say(f"round {round_index} winner: {_numbers(winner)}  ({winner.name})  {time.monotonic() - started:.0f} s")
        if winner.fid >= best.fid:
            say("no trial beats the reference: stop")
            break
        best = winner
    return best


def _numbers(candidate: Candidate) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in candidate.metrics.items())


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, help="folder with digits-train.zip")
    parser.add_argument("assets_dir", type=Path, help="folder with base.safetensors and features.safetensors")
    parser.add_argument("out_dir", type=Path, help="folder for all files of the run, best.safetensors among them")
    parser.add_argument("--rounds", type=int, help="(default: the preset's)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--control", action="store_true", help="also write control.safetensors: continued pretraining")
    parser.add_argument("--workers", type=int, default=2, help="trials at a time (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each (default: %(default)s)")
    arguments = parser.parse_args()
    changes = {"seed": arguments.seed} | ({"rounds": arguments.rounds} if arguments.rounds else {})
    run = SelfPlay(
        job_spec(arguments.data_dir, arguments.assets_dir, **changes),
        arguments.data_dir / "digits-train.zip",
        arguments.assets_dir / "features.safetensors",
        arguments.out_dir,
        arguments.workers,
        arguments.threads,
    )
    base = arguments.assets_dir / "base.safetensors"
    best = play(run, base, lambda line: print(line, flush=True))
    shutil.copyfile(best.path, arguments.out_dir / "best.safetensors")
    print(f"best: {best.name}, FID {best.fid:.4f} -> {arguments.out_dir / 'best.safetensors'}")
    if arguments.control:
        (control,) = run.confirm([run.continue_pretraining(base)], "control")
        shutil.copyfile(control.path, arguments.out_dir / "control.safetensors")
        print(f"control: {control.name}, FID {control.fid:.4f} -> {arguments.out_dir / 'control.safetensors'}")


if __name__ == "__main__":
    main()
