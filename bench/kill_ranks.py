"""Kill any one of a trial's two processes, again and again, and compare the end with an undisturbed run.

    python -m bench.kill_ranks --kills 20

A tiny EDM under torchrun on the CPU. Each time the trial is started, a rank and a moment are drawn: for every fourth
kill from the start of the processes to when the undisturbed run told its first progress; for the others from the first
progress of this very start on, as long as the undisturbed run took from there to its end. A start that ends before its
moment is no kill. It prints every kill: who, where it really came, when, what state that start had gone on from, how
long the other processes then lived, and, whenever a trial ends, whether all of its files have the hashes of the
undisturbed run; then the next one starts from nothing. The exit status says it too. Some ten seconds a kill on two idle
cores.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.killed_runs import KILLS_PER_STARTUP, Moment, Run, Seconds
from ddo_engine.files import sha256_of
from tests.engine_inputs import EngineInputs, make_inputs

NUM_PROCESSES = 2
TRAINING = {"kimg": 12.8, "evaluate_every_kimg": 3.2, "save_state_every_kimg": 0.16}


@dataclass(frozen=True)
class Kill:
    """What happened to one start of the trial.

    Attributes:
        rank: Who was killed; None: the trial had ended before.
        in_training: Whether progress had been told.
        after_seconds: Since torchrun was started.
        resumed_from_kimg: What this start went on from, if it came so far.
        survived_seconds: From the kill to the end of the last process.
        exit_status: Of torchrun.
    """

    rank: int | None
    in_training: bool
    after_seconds: float
    resumed_from_kimg: float | None
    survived_seconds: float
    exit_status: int

    def row(self, number: int) -> str:
        """Return a line of the table."""
        where = "training" if self.in_training else "start-up"
        resumed = "–" if self.resumed_from_kimg is None else f"{self.resumed_from_kimg:.2f}"
        return (
            f"{number:4d}  {self.rank:4d}  {where}  {self.after_seconds:7.2f}  {resumed:>17}"
            f"  {self.survived_seconds:20.2f}  {self.exit_status:11d}"
        )


def main() -> int:
    """Run the trial undisturbed and disturbed, and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of ranks and moments")
    options = parser.parse_args()
    dice = random.Random(options.seed)  # noqa: S311  (no secret)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = make_inputs(folder / "inputs")
        undisturbed, disturbed = folder / "undisturbed", folder / "disturbed"
        seconds = start(inputs, undisturbed).undisturbed()
        print(f"undisturbed: {seconds.startup:.1f} s to the first progress, {seconds.work:.1f} s of training")
        print("kill  rank  in        after s  went on from kimg  others ended after s  exit status", flush=True)
        expected, done, since, equal = hashes(undisturbed), 0, 0, True
        while done < options.kills:
            moment = Moment((done + 1) % KILLS_PER_STARTUP != 0, dice.random())
            kill = kill_one(inputs, disturbed, dice.randrange(NUM_PROCESSES), moment, seconds)
            if kill.rank is None:
                equal &= compare(disturbed, expected, since)
                since = 0
                shutil.rmtree(disturbed)
                continue
            done, since = done + 1, since + 1
            print(kill.row(done), flush=True)
        assert start(inputs, disturbed).finish() == 0, "the last run failed"
        equal &= compare(disturbed, expected, since)
        print(f"{done} kills: {'all files equal those of the undisturbed run' if equal else 'files DIFFER'}")
        return 0 if equal else 1


def compare(workdir: Path, expected: dict[str, str], num_kills: int) -> bool:
    """Print whether the files of a trial that has ended are the expected ones, and return it."""
    equal = hashes(workdir) == expected
    state = expected["state.safetensors"][:16]
    print(
        f"      the trial ended after {num_kills} kills: {len(expected)} files "
        f"{f'equal, state {state}' if equal else 'DIFFER'}",
        flush=True,
    )
    return equal


def start(inputs: EngineInputs, workdir: Path) -> Run:
    """Start or resume the trial."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(NUM_PROCESSES)]
    return Run.start("train", inputs.train_spec(training=TRAINING), workdir, "training", launcher=torchrun)


def kill_one(inputs: EngineInputs, workdir: Path, rank: int, moment: Moment, undisturbed: Seconds) -> Kill:
    """Start the trial, kill a rank, and wait for all to end."""
    run = start(inputs, workdir)
    pids: list[int] = []
    while run.process.poll() is None and (len(pids) < NUM_PROCESSES or not moment.has_come(run, undisturbed)):
        pids = run.ranks
        time.sleep(0.01)
    killed_at, in_training = time.monotonic(), run.first_progress is not None
    if run.process.poll() is None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(pids[rank], signal.SIGKILL)
    status = run.finish()
    assert not any(psutil.pid_exists(pid) for pid in pids), "a process was left behind"
    ended = any(event["type"] == "finished" for event in run.events)
    return Kill(
        None if ended else rank,
        in_training,
        killed_at - run.started,
        run.events[0].get("resumed_from_kimg") if run.events else None,
        time.monotonic() - killed_at,
        status,
    )


def hashes(workdir: Path) -> dict[str, str]:
    """Return the SHA-256 of all networks and states."""
    return {path.name: sha256_of(path) for path in workdir.glob("*.safetensors")}


if __name__ == "__main__":
    sys.exit(main())
