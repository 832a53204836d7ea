"""Kill any one of a trial's two processes, again and again, and compare the end with an undisturbed run.

    python -m bench.kill_ranks --kills 20

A tiny EDM under torchrun on the CPU. Each time the trial is started, a rank and a moment are drawn: most moments lie
in training, some in the start of the processes. It prints every kill: who, when, what state that start had gone on
from, how long the other processes then lived, and, whenever a trial ends, whether all of its files have the hashes of
the undisturbed run; then the next one starts from nothing. The exit status says it too. Ten to thirty seconds a kill
on two cores.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ddo_engine.files import sha256_of
from tests.engine_inputs import REPOSITORY, EngineInputs, make_inputs

NUM_PROCESSES = 2
LONGEST_RUN_SECONDS = 180.0
TRAINING = {"kimg": 12.8, "evaluate_every_kimg": 3.2, "save_state_every_kimg": 0.16}


@dataclass(frozen=True)
class Kill:
    """What happened to one start of the trial.

    Attributes:
        rank: Who was killed; None: the trial had ended before.
        after_seconds: Since torchrun was started.
        resumed_from_kimg: What this start went on from, if it came so far.
        survived_seconds: From the kill to the end of the last process.
        exit_status: Of torchrun.
    """

    rank: int | None
    after_seconds: float
    resumed_from_kimg: float | None
    survived_seconds: float
    exit_status: int


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
        started = time.monotonic()
        assert finish(start(inputs, undisturbed)) == 0, "the undisturbed run failed"
        length = time.monotonic() - started
        print(f"undisturbed: {length:.1f} s", flush=True)
        print("kill  rank  after s  went on from kimg  others ended after s  exit status", flush=True)
        expected, done, since, equal = hashes(undisturbed), 0, 0, True
        while done < options.kills:
            kill = kill_one(inputs, disturbed, dice.randrange(NUM_PROCESSES), dice.uniform(0.0, 0.6 * length))
            if kill.rank is None:
                equal &= compare(disturbed, expected, since)
                since = 0
                for path in disturbed.iterdir():
                    path.unlink()
                continue
            done, since = done + 1, since + 1
            resumed = "–" if kill.resumed_from_kimg is None else f"{kill.resumed_from_kimg:.2f}"
            print(
                f"{done:4d}  {kill.rank:4d}  {kill.after_seconds:7.2f}  {resumed:>17}  {kill.survived_seconds:20.2f}"
                f"  {kill.exit_status:11d}",
                flush=True,
            )
        assert finish(start(inputs, disturbed)) == 0, "the last run failed"
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


def start(inputs: EngineInputs, workdir: Path) -> subprocess.Popen[str]:
    """Start or resume the trial."""
    workdir.mkdir(exist_ok=True)
    spec = workdir / "spec.json"
    spec.write_text(json.dumps(inputs.train_spec(training=TRAINING)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(NUM_PROCESSES)]
    return subprocess.Popen(
        [*torchrun, "-m", "ddo_engine", "train", str(spec), "--workdir", str(workdir), "--device", "cpu"],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> int:
    """Wait for the end of a run."""
    process.communicate(timeout=LONGEST_RUN_SECONDS)
    return process.returncode


def kill_one(inputs: EngineInputs, workdir: Path, rank: int, after_seconds: float) -> Kill:
    """Start the trial, kill a rank, and wait for all to end."""
    process = start(inputs, workdir)
    started = time.monotonic()
    pids: list[int] = []
    while process.poll() is None and (len(pids) < NUM_PROCESSES or time.monotonic() - started < after_seconds):
        pids = ranks_of(process)
        time.sleep(0.01)
    killed_at = time.monotonic()
    if process.poll() is None:
        os.kill(pids[rank], signal.SIGKILL)
    output, _ = process.communicate(timeout=LONGEST_RUN_SECONDS)
    assert not any(psutil.pid_exists(pid) for pid in pids), "a process was left behind"
    events: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines(keepends=True) if line[-1] == "\n"]
    ended = any(event["type"] == "finished" for event in events)
    return Kill(
        None if ended else rank,
        killed_at - started,
        events[0].get("resumed_from_kimg") if events else None,
        time.monotonic() - killed_at,
        process.returncode,
    )


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """Return the process ids of the ranks, in order; fewer while they start."""
    try:
        children = psutil.Process(process.pid).children()
        return [child.pid for child in sorted(children, key=lambda child: child.environ()["RANK"])]
    except (psutil.Error, KeyError, OSError):
        return []


def hashes(workdir: Path) -> dict[str, str]:
    """Return the SHA-256 of all networks and states."""
    return {path.name: sha256_of(path) for path in workdir.glob("*.safetensors")}


if __name__ == "__main__":
    sys.exit(main())
