"""Runs of several processes: cases that one start of the processes does one after the other.

    outcomes = run_in_processes([Case("train", spec, workdir)], num_processes=2)

Started without torchrun, in whose environment they run: it takes seconds more, and none of its own duties is looked at
here. ``tests/integration/engine/test_torchrun.py`` does.
"""

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch

from ddo_engine.command_line import COMMANDS
from ddo_engine.errors import EngineError, InvalidSpec
from ddo_engine.events import EventWriter
from ddo_engine.families.protocol import BlockPlan
from ddo_engine.interruption import StopRequest
from ddo_engine.parallel.joining import joined
from ddo_engine.parallel.launch import launch_of
from ddo_engine.parallel.ranks import Ranks
from ddo_engine.run_context import RunContext
from ddo_engine.spec import EngineEvent
from ddo_engine.trial import Trial

REPOSITORY = Path(__file__).parents[1]
LAST = -1  # stands for the last rank


@dataclass(frozen=True)
class Case:
    """One command of the engine.

    Attributes:
        command: ``train``, ``generate``, …; or, without a spec, ``meetings`` or ``layout``: see :func:`meetings` and
            :func:`meetings_of_rows`.
        spec: Of the unit.
        workdir: Made if missing.
        mishap: What happens to the last rank alone, after step 3: its weights change, its loss is NaN, it has no
            memory left, it is asked to stop.
        shard_weights: Whether each process holds rows of the weights.
    """

    command: str
    spec: dict[str, Any]
    workdir: str
    mishap: Literal["drift", "nan", "memory", "stop"] | None = None
    shard_weights: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a case ended in one process.

    Attributes:
        events: All of them, also where they would go nowhere.
        error: Code of the error that ended it.
        message: Of that error.
        param: Of that error.
    """

    events: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None
    message: str | None = None
    param: str | None = None


def run_in_processes(cases: Sequence[Case], *, num_processes: int, folder: Path) -> list[list[Outcome]]:
    """Return the outcome of every case in every process: first index the case, second the rank."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cases.json").write_text(json.dumps([asdict(case) for case in cases]))
    ended = run_ranks(["-W", "error", "-m", "tests.rank_cases", str(folder)], num_processes)
    assert [process.returncode for process in ended] == [0] * num_processes, "\n".join(each.stderr for each in ended)
    ranks = [json.loads((folder / f"outcomes-{rank}.json").read_text()) for rank in range(num_processes)]
    return [[Outcome(**ranks[rank][index]) for rank in range(num_processes)] for index in range(len(cases))]


def run_ranks(arguments: Sequence[str], num_processes: int) -> list[subprocess.CompletedProcess[str]]:
    """Run Python with these arguments in several processes that know of each other; return how each ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(num_processes), "LOCAL_WORLD_SIZE": str(num_processes), "OMP_NUM_THREADS": "1"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=REPOSITORY,
            env=os.environ | common | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_processes)
    ]
    try:
        said = [process.communicate(timeout=100) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *texts)
        for process, texts in zip(processes, said, strict=True)
    ]


def main(folder: Path) -> None:
    """Do all cases in this process."""
    torch.set_num_threads(1)
    launch = launch_of(os.environ)
    cases = [Case(**case) for case in json.loads((folder / "cases.json").read_text())]
    with joined(launch, torch.device("cpu"), StopRequest()) as ranks:
        outcomes = [asdict(run_case(case, ranks)) for case in cases]
    (folder / f"outcomes-{launch.rank}.json").write_text(json.dumps(outcomes))


def run_case(case: Case, ranks: Ranks) -> Outcome:
    """Run one command in this process, as one of several."""
    if case.command in ("meetings", "layout"):
        return Outcome([meetings(ranks) if case.command == "meetings" else meetings_of_rows(ranks)])
    Path(case.workdir).mkdir(parents=True, exist_ok=True)
    stop, outcome = StopRequest(), Outcome()

    def listen(event: EngineEvent) -> None:
        outcome.events.append(json.loads(event.model_dump_json()))

    events = EventWriter(io.StringIO(), listen)
    context = RunContext(
        Path(case.workdir), torch.device("cpu"), events, stop, ranks=ranks, shard_weights=case.shard_weights
    )
    try:
        with struck_by(case.mishap if ranks.rank == ranks.size - 1 else None, stop):
            import_module(f"ddo_engine.{case.command}").run(COMMANDS[case.command].model_validate(case.spec), context)
    except EngineError as error:
        return Outcome(outcome.events, error.code, error.message, error.param)
    return outcome


def meetings(ranks: Ranks) -> dict[str, Any]:
    """Return what a process has after meeting the others with what depends on its rank."""
    everywhere, at_last, nowhere = (torch.nn.Parameter(torch.zeros(2, 2)) for _ in range(3))
    exact = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    everywhere.grad = (torch.arange(4.0).reshape(2, 2) + ranks.rank).t()
    exact.grad = torch.full((3,), 0.1, dtype=torch.float64)
    if ranks.rank == ranks.size - 1:
        at_last.grad = torch.full((2, 2), 7.0)
    with mock.patch("ddo_engine.parallel.ranks.BUCKET_BYTES", 40):
        ranks.sum_gradients_([everywhere, at_last, nowhere, exact])
    rows = torch.tensor([[float(row), -float(row)] for row in ranks.rows_of(7)])
    errors = []
    for failing in ([ranks.size - 1], range(ranks.size)):
        try:
            with ranks.in_step():
                if ranks.rank in failing:
                    raise InvalidSpec(f"of {ranks.rank}", param="here")
        except InvalidSpec as error:
            errors.append([error.message, error.param])
    return {
        "sums": [None if each.grad is None else each.grad.tolist() for each in (everywhere, at_last, nowhere, exact)],
        "rows": ranks.gather_rows(rows, 7).tolist(),
        "errors": errors,
        "any": [ranks.any(flag) for flag in (False, ranks.rank == ranks.size - 1)],
        "collected": ranks.collect(ranks.rank),
        "from leader": ranks.from_leader(ranks.rank),
    }


def meetings_of_rows(ranks: Ranks) -> dict[str, Any]:
    """Return what comes of a layer in rows: three of them, so that processes have unequal parts, or none."""
    from ddo_engine.parallel.sharded_weights import Sharded

    whole = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    whole.register_parameter("number", torch.nn.Parameter(torch.tensor(5.0)))
    with torch.no_grad():
        for index, parameter in enumerate(whole.parameters()):
            parameter.copy_(torch.arange(float(parameter.numel())).reshape(parameter.shape) + index)
    expected = {name: parameter.tolist() for name, parameter in whole.named_parameters()}
    family = mock.Mock(block_plan=lambda model: BlockPlan(model, [model[0], model[1]]))
    layout = Sharded.of(whole, family, ranks)
    network = layout.network(whole)
    with layout.whole(whole) as gathered:
        same = {name: parameter.tolist() for name, parameter in gathered.named_parameters()} == expected
    norm = layout.total_norm({name: parameter.detach() for name, parameter in whole.named_parameters()})
    network.get_parameter("number").grad = torch.tensor(float(ranks.rank))
    network(torch.ones(1, 2) * (ranks.rank + 1)).sum().backward()
    layout.sum_gradients_(whole, network)
    own_gradients = {name: parameter.grad.tolist() for name, parameter in whole.named_parameters()}
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = torch.optim.AdamW(whole.parameters())
    scaler.scale(torch.zeros(()))
    if ranks.leads:
        whole[0].weight.grad[0, 0] = float("inf")
    scaler.unscale_(optimizer)
    layout.agree_on_overflow_(scaler, optimizer)
    scaler.update()
    return {
        "own rows": whole[0].weight.tolist(),
        "same": same,
        "norm": norm.item(),
        "norm expected": sum(float(torch.tensor(each).square().sum()) for each in expected.values()) ** 0.5,
        "counted": layout.sums({"0.weight": torch.tensor(ranks.rank + 1), "number": torch.tensor(10)}).item(),
        "gradients": own_gradients,
        "scale": scaler.get_scale(),
    }


@contextmanager
def struck_by(mishap: str | None, stop: StopRequest) -> Iterator[None]:
    """Let something happen to this process in the fourth step of a trial."""
    if mishap is None:
        yield
        return
    backward = Trial._backward

    def struck(trial: Trial) -> torch.Tensor:
        if trial.state.step != 3:
            return backward(trial)
        match mishap:
            case "drift":
                next(trial.state.target_model.parameters()).data.view(-1)[0].add_(1e-6)
            case "stop":
                stop.requested = True
            case "memory":
                with mock.patch.object(type(trial.loss), "__call__", side_effect=torch.OutOfMemoryError("none left")):
                    return backward(trial)
            case "nan":
                loss = type(trial.loss).__call__
                with mock.patch.object(type(trial.loss), "__call__", lambda *args: loss(*args) * float("nan")):
                    return backward(trial)
        return backward(trial)

    with mock.patch.object(Trial, "_backward", struck):
        yield


if __name__ == "__main__":
    main(Path(sys.argv[1]))
