"""``python -m ddo_engine COMMAND spec.json --workdir DIR``: events on stdout, log lines on stderr, files in DIR.

The commands of :mod:`ddo_engine.file_commands` take files instead of a spec and have no events; ``evaluate`` may too.

``torchrun --standalone --nproc-per-node N -m ddo_engine train …`` is the same run by N processes, each with a GPU of
its own where there are some; generate and evaluate likewise. One of them tells the events and writes the files.

Exit status: 0 done, 75 interrupted with the state on disk (run the same command again), others in
:mod:`ddo_engine.errors`; 74 when nobody reads the events any more. Torch is loaded once the spec is known to be good.
"""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from ddo_engine.errors import EngineError, InvalidSpec
from ddo_engine.evaluate_options import add_evaluate_options, wrong_evaluate_option
from ddo_engine.events import EventWriter, terminal_view
from ddo_engine.file_commands import add_file_commands, is_file_command, run_file_command
from ddo_engine.interruption import StopRequest
from ddo_engine.log import log, log_to_stderr
from ddo_engine.parallel.launch import Launch, die_with_parent, launch_of, told_by_leader
from ddo_engine.spec import (
    DiscriminatorSpec,
    EvaluateSpec,
    Failed,
    Finished,
    GenerateSpec,
    Settings,
    TrainSpec,
    ValidateSpec,
)
from ddo_engine.spec_file import read_spec
from ddo_engine.version import ENGINE_VERSION

COMMANDS: dict[str, type[Settings]] = {
    "validate": ValidateSpec,
    "generate": GenerateSpec,
    "train": TrainSpec,
    "evaluate": EvaluateSpec,
    "discriminator": DiscriminatorSpec,
}
ENGINE_FAILURE, NOBODY_READS = 70, 74


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    wrong = wrong_evaluate_option(options) if options.command == "evaluate" else None
    if wrong is not None:
        parser.error(f"evaluate: {wrong}")
    # Threads that spin while they wait are many times slower as soon as anything else wants the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    launch = launch_of(os.environ)
    if launch.size > 1:
        die_with_parent()
    log_to_stderr(logging.INFO if launch.leads else logging.ERROR)
    if is_file_command(options):
        return _run_file_command(options, launch)
    stop = StopRequest()
    stop.install()
    with _event_stream(launch) as stream:
        events = EventWriter(stream, terminal_view() if launch.leads else None)
        try:
            return _run_reporting(options, launch, events, stop)
        except BrokenPipeError:
            log.error("nobody reads the events any more: stopping")
            _discard(stream)
            return NOBODY_READS


def _run_file_command(options: argparse.Namespace, launch: Launch) -> int:
    try:
        launch.check("evaluate without a spec" if options.command == "evaluate" else options.command)
        status = run_file_command(options)
        sys.stdout.flush()
    except InvalidSpec as error:
        log.error(error.message)
        return error.exit_status
    except BrokenPipeError:
        _discard(sys.stdout)
        return NOBODY_READS
    return status


def _run_reporting(options: argparse.Namespace, launch: Launch, events: EventWriter, stop: StopRequest) -> int:
    """Run the command; whatever ends it becomes the last event and an exit status."""
    try:
        _run(options, launch, events, stop)
    except EngineError as error:
        events.emit(Failed(code=error.code, message=error.message, param=error.param))
        return error.exit_status
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001  (the boundary of the process)
        traceback.print_exc(file=sys.stderr)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        failure = EngineError(f"the engine failed unexpectedly ({reason})")
        events.emit(Failed(code=failure.code, message=failure.message))
        return ENGINE_FAILURE
    events.emit(Finished())
    return 0


def _run(options: argparse.Namespace, launch: Launch, events: EventWriter, stop: StopRequest) -> None:
    with told_by_leader(launch, stop):
        launch.check(options.command)
        spec = read_spec(options.spec, COMMANDS[options.command])
        _make_folder(options.workdir, "workdir")
        if options.cache is not None:
            _make_folder(options.cache, "cache")
    import torch  # noqa: PLC0415  (seconds: a bad spec is refused before)

    from ddo_engine.device import make_deterministic, pick_device  # noqa: PLC0415
    from ddo_engine.parallel.joining import device_of, joined  # noqa: PLC0415
    from ddo_engine.run_context import RunContext  # noqa: PLC0415

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    make_deterministic()
    run: Callable[[Any, RunContext], None] = import_module(f"ddo_engine.{options.command}").run
    with told_by_leader(launch, stop):
        device = device_of(launch, pick_device(options.device))
    with joined(launch, device, stop) as ranks:
        shard_weights = options.command == "train" and options.shard_weights
        run(spec, RunContext(options.workdir, device, events, stop, options.cache, ranks, shard_weights))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ddo_engine", description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--version", action="version", version=ENGINE_VERSION)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, spec in COMMANDS.items():
        summary = (spec.__doc__ or "").split("\n", maxsplit=1)[0]
        command = commands.add_parser(name, help=summary, description=summary)
        needs_spec = name != "evaluate"
        count = None if needs_spec else "?"
        command.add_argument("spec", type=Path, nargs=count, help=f"JSON file, a {spec.__name__}")
        command.add_argument("--workdir", type=Path, required=needs_spec, help="folder for all output; made if missing")
        command.add_argument("--cache", type=Path, help="folder for statistics that later runs use again")
        command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
        command.add_argument("--threads", type=_positive, help="CPU threads; another number may change the last bits")
    commands.choices["train"].add_argument(
        "--shard-weights",
        action="store_true",
        help="under torchrun: each process keeps some rows of weights, gradients, moments and averages instead of all",
    )
    add_file_commands(commands)
    add_evaluate_options(commands.choices["evaluate"])
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _make_folder(path: Path, param: str) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSpec(f"--{param}: {path} cannot be made a folder ({error})", param=param) from error


def _event_stream(launch: Launch) -> TextIO:
    """Take standard output for the events alone: what else writes to it, in Python or C, goes to standard error.

    Of several processes one tells the events; those of the others go nowhere.
    """
    sys.stdout.flush()
    descriptor = os.dup(1) if launch.leads else os.open(os.devnull, os.O_WRONLY)
    stream = os.fdopen(descriptor, "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    return stream


def _discard(stream: TextIO) -> None:
    """Point a broken stream elsewhere, so that closing it does not fail again."""
    with Path(os.devnull).open("w", encoding="utf-8") as sink:
        os.dup2(sink.fileno(), stream.fileno())
