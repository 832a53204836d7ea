"""The commands that take files, not a spec: convert, export, inspect, encode, reconstruct, and evaluate without one.

Results go to standard output: a table for people, one JSON object with ``--json``. Errors go there too with ``--json``,
otherwise to standard error. Importing this module does not import torch.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ddo_engine.conversion.options import ConversionOptions
from ddo_engine.errors import EngineError, InvalidSpec
from ddo_engine.spec import DatasetReading, Settings

_MAX_CONFIG_BYTES = 1 << 20
_CONFIG_HELP = "JSON file of the network's constructor arguments, class_name among them, for a bare state dict"


def add_file_commands(commands: Any) -> None:
    """Add the commands to the subparsers of the command line."""
    convert = _command(commands, "convert", "Make a checkpoint of ours from an official file or folder.")
    convert.add_argument("source", type=Path)
    convert.add_argument("destination", type=Path, help="ends in .safetensors by custom; replaced if it exists")
    _add_options(convert)
    convert.add_argument(
        "--feature-network", action="store_true", help="the source is a feature network, not a checkpoint"
    )
    export = _command(commands, "export", "Write a checkpoint's weights for the official code, under official names.")
    export.add_argument("source", type=Path, help="a checkpoint of any supported format")
    export.add_argument("destination", type=Path, help="replaced if it exists")
    export.add_argument("--format", choices=("safetensors", "pth"), help="default: by the destination's suffix")
    export.add_argument("--dtype", choices=("float16", "float32"), help="default: as stored, bit for bit")
    inspect = _command(commands, "inspect", "Say what a checkpoint or a dataset is.")
    inspect.add_argument("source", type=Path, metavar="FILE")
    _add_options(inspect)
    encode = _command(commands, "encode", "Encode a dataset of images to the latents that a model of latents sees.")
    encode.add_argument("source", type=Path, help="a dataset of images")
    encode.add_argument("destination", type=Path, help="a zip of latents; replaced if it exists")
    encode.add_argument("--autoencoder", type=Path, required=True, help="file or folder of an AutoencoderKL")
    encode.add_argument("--transform", default="none", help="what is done to every image first; see docs/datasets.md")
    encode.add_argument("--resolution", type=int, help="pixels a side after the transform")
    encode.add_argument("--convert", help="colours: rgb or grey")
    encode.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    reconstruct = _command(commands, "reconstruct", "Put an average of any length together from a trial's snapshots.")
    reconstruct.add_argument("snapshots", type=Path, nargs="+", metavar="SNAPSHOT", help="files of one trial")
    reconstruct.add_argument("--std", type=float, required=True, help="length of the wanted average, as in ema_std")
    reconstruct.add_argument("--kimg", type=float, help="when it is taken; default: as the latest snapshot")
    reconstruct.add_argument("-o", "--output", type=Path, required=True, help="a checkpoint; replaced if it exists")


def run_file_command(options: argparse.Namespace) -> int:
    """Run one of the commands and return the exit status."""
    try:
        report = _COMMANDS[options.command](options)
    except EngineError as error:
        if options.json:
            print(json.dumps({"error": {"code": error.code, "message": error.message, "param": error.param}}))
        else:
            print(f"{error.code}: {error.message}", file=sys.stderr)
        return error.exit_status
    if options.json:
        print(json.dumps(report))
    else:
        _print_table(report)
    return 0


def is_file_command(options: argparse.Namespace) -> bool:
    """Say whether a command is one of this module's; ``evaluate`` is if there is no spec."""
    return options.command in _COMMANDS and getattr(options, "spec", None) is None


def _command(commands: Any, name: str, summary: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    command.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return command


def _add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--family", choices=("diffusers", "edm", "edm2", "var"), help="refuse a checkpoint of another family"
    )
    command.add_argument("--config", type=Path, help=_CONFIG_HELP)
    command.add_argument(
        "--patch-nums", help="tokens along the side of each scale, as in 1,2,3, of a VAR or VQVAE of another size"
    )


def _convert(options: argparse.Namespace) -> dict[str, Any]:
    if options.feature_network:
        from ddo_engine.evaluation import convert_features  # noqa: PLC0415  (torch)

        features = convert_features(options.source, options.destination)
        return {"destination": str(options.destination), **features.model_dump(mode="json")}
    from ddo_engine.conversion import convert  # noqa: PLC0415  (torch)

    manifest = convert(options.source, options.destination, _conversion_options(options))
    return {"destination": str(options.destination), **manifest.model_dump(mode="json")}


def _export(options: argparse.Namespace) -> dict[str, Any]:
    from ddo_engine.conversion import export  # noqa: PLC0415  (torch)

    export(options.source, options.destination, options.format, options.dtype)
    return {"destination": str(options.destination), "size_bytes": options.destination.stat().st_size}


def _inspect(options: argparse.Namespace) -> dict[str, Any]:
    from ddo_engine.conversion import inspect_checkpoint, sniff  # noqa: PLC0415  (torch)
    from ddo_engine.data import inspect_dataset  # noqa: PLC0415  (numpy)

    report: Settings
    if sniff(options.source) is None:
        report = inspect_dataset(options.source)
        return {"kind_of_file": "dataset", **report.model_dump(mode="json")}
    report = inspect_checkpoint(options.source, _conversion_options(options))
    return {"kind_of_file": "checkpoint", **report.model_dump(mode="json")}


def _encode(options: argparse.Namespace) -> dict[str, Any]:
    try:
        reading = DatasetReading(transform=options.transform, resolution=options.resolution, convert=options.convert)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "transform"
        raise InvalidSpec(f"--{name}: {first['msg']}", param=name) from error
    from ddo_engine.device import pick_device  # noqa: PLC0415  (torch)
    from ddo_engine.encode import encode  # noqa: PLC0415  (torch)

    info = encode(options.source, options.destination, options.autoencoder, reading, pick_device(options.device))
    return {"destination": str(options.destination), **info.model_dump(mode="json")}


def _reconstruct(options: argparse.Namespace) -> dict[str, Any]:
    from ddo_engine.reconstruction import reconstruct_average  # noqa: PLC0415  (torch)

    report = reconstruct_average(options.snapshots, options.output, std=options.std, kimg=options.kimg)
    return {"destination": str(options.output), **report}


def _evaluate(options: argparse.Namespace) -> dict[str, Any]:
    from ddo_engine.evaluate_by_hand import measured  # noqa: PLC0415  (torch)

    return measured(options)


_COMMANDS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "reconstruct": _reconstruct,
    "convert": _convert,
    "export": _export,
    "inspect": _inspect,
    "encode": _encode,
    "evaluate": _evaluate,
}


def _conversion_options(options: argparse.Namespace) -> ConversionOptions:
    patch_nums = options.patch_nums and tuple(options.patch_nums.split(","))
    network = None if options.config is None else _read_config(options.config)
    try:
        return ConversionOptions(family=options.family, network=network, patch_nums=patch_nums or None)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = {"network": "config", "patch_nums": "patch-nums"}.get(str(first["loc"][0]), str(first["loc"][0]))
        raise InvalidSpec(f"--{name}: {first['msg']}", param=name) from error


def _read_config(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return json.loads(file.read(_MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidSpec(f"--config: {path} cannot be read as JSON ({error})", param="config") from error


def _print_table(report: dict[str, Any]) -> None:
    from rich.console import Console  # noqa: PLC0415  (only people need it)
    from rich.table import Table  # noqa: PLC0415

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(report):
        table.add_row(name, value)
    # Markup off: names in files of others may hold square brackets.
    Console(markup=False, highlight=False).print(table, markup=False)


def _rows(report: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return a row per plain value; the names of nested ones have dots."""
    rows = []
    for name, value in report.items():
        if isinstance(value, dict) and value:
            rows += _rows(value, f"{prefix}{name}.")
        elif value is not None and value != {}:
            rows.append((f"{prefix}{name}", _in_words(value)))
    return rows


def _in_words(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
