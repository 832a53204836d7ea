"""The options of ``python -m ddo_engine evaluate`` that take the place of a spec. Imports no torch."""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from ddo_engine.errors import InvalidSpec
from ddo_engine.spec import INCEPTION, DatasetReading, EvaluationSettings, FileRef, Settings
from ddo_engine.spec_file import refusal_of

DEFAULT_NUM_SAMPLES = 50_000  # of the published protocols
_PATHS = ("checkpoint", "images", "dataset", "reference_statistics", "autoencoder", "guide")
_DRAWING = ("sampler", "seed", "grey_levels", "autoencoder", "guide")  # say how samples are drawn
_READING = ("transform", "resolution", "convert")
_NUMBERS = (
    "neighbours",
    "density_neighbours",
    "kid_subsets",
    "kid_subset_size",
    "sfid",
    "inception_score_splits",
    "confidence",
)
_BY_HAND = (*_PATHS, "features", "num_samples", *_NUMBERS, *_READING, *_DRAWING, "json")
_SettingsT = TypeVar("_SettingsT", bound=Settings)


def add_evaluate_options(command: argparse.ArgumentParser) -> None:
    """Add them to the command; what is not given is None."""
    command.usage = (
        f"{command.prog} spec.json --workdir DIR [OPTION …]\n"
        f"       {command.prog} (--images PATH | --checkpoint FILE) --dataset PATH [OPTION …]"
    )
    by_hand = command.add_argument_group("without a spec")
    measured = by_hand.add_mutually_exclusive_group()
    measured.add_argument("--checkpoint", type=Path, help="of any supported format: its samples are measured")
    measured.add_argument("--images", type=Path, help="generated images: a folder, zip, tar or npz")
    by_hand.add_argument("--dataset", type=Path, help="what they are compared with: a folder, zip, tar or npz")
    by_hand.add_argument(
        "--features", help="the feature network; default: inception, which DDO_INCEPTION_WEIGHTS names"
    )
    by_hand.add_argument(
        "--num-samples", type=int, help="default: 50,000 of a checkpoint, all images at hand; else the first so many"
    )
    by_hand.add_argument("--neighbours", type=int, help="k of precision and recall; default: 3; 0 leaves them out")
    by_hand.add_argument("--density-neighbours", type=int, help="also density and coverage with this k, usually 5")
    by_hand.add_argument("--kid-subsets", type=int, help="also KID, over so many subsets, usually 100")
    by_hand.add_argument("--kid-subset-size", type=int, help="images in each; default: 1,000")
    by_hand.add_argument("--sfid", action="store_true", default=None, help="also sFID, of spatial features")
    by_hand.add_argument("--inception-score-splits", type=int, help="also the inception score, over so many splits")
    by_hand.add_argument(
        "--confidence", action="store_true", default=None, help="also how far FID would move with other samples"
    )
    by_hand.add_argument("--reference-statistics", type=Path, help="published file that FID and sFID are taken against")
    by_hand.add_argument("--transform", help="what is done to the dataset's images first; see docs/datasets.md")
    by_hand.add_argument("--resolution", type=int, help="pixels a side of the dataset's images after the transform")
    by_hand.add_argument("--convert", help="colours of the dataset's images: rgb or grey")
    by_hand.add_argument("--seed", type=int, help="of a checkpoint's first sample; default: 0")
    by_hand.add_argument(
        "--sampler",
        nargs="+",
        metavar="NAME=VALUE",
        help="what is other than in the default of the checkpoint's family, such as num_steps=18 labels=balanced",
    )
    by_hand.add_argument("--grey-levels", type=int, help="values that a pixel takes; default: 256")
    by_hand.add_argument("--autoencoder", type=Path, help="of a checkpoint that works on latents or tokens")
    by_hand.add_argument("--guide", type=Path, help="the network that guides, for the sampler's guidance_scale")
    by_hand.add_argument("--json", action="store_true", default=None, help="one JSON object instead of a table")


def wrong_evaluate_option(options: argparse.Namespace) -> str | None:
    """Return what is wrong with the options together; None if they are a spec's, or take the place of one."""
    return next(_wrong_with_spec(options) if options.spec is not None else _wrong_by_hand(options), None)


def _wrong_with_spec(options: argparse.Namespace) -> Iterator[str]:
    if options.workdir is None:
        yield "a spec needs --workdir"
    for name in _given(options, *_BY_HAND):
        yield f"{_flag(name)} takes the place of a spec: give one of the two"


def _wrong_by_hand(options: argparse.Namespace) -> Iterator[str]:
    if options.checkpoint is None and options.images is None:
        yield "give a spec, or --checkpoint or --images"
    if options.dataset is None and options.checkpoint is not None:
        yield "--dataset is missing: give what the samples are compared with"
    if options.dataset is None and options.reference_statistics is None:
        yield "--dataset is missing: give what the images are compared with, or --reference-statistics"
    if options.dataset is None:
        for name in _given(options, *_READING):
            yield f"{_flag(name)} is done to the dataset's images: give --dataset, or leave it out"
    if options.workdir is not None:
        yield "--workdir is for a spec; --cache keeps what later runs use again"
    if options.images is not None:
        for name in _given(options, *_DRAWING):
            yield f"{_flag(name)} says how samples are drawn, and images at hand are measured as they are: leave it out"


def check_paths(options: argparse.Namespace) -> None:
    """Refuse files and folders that are not there.

    Raises:
        InvalidSpec: Naming the option.
    """
    for name in _PATHS:
        path = getattr(options, name)
        if path is not None and not path.exists():
            raise InvalidSpec(f"{_flag(name)}: there is no {path}", param=name)


def feature_file_of(options: argparse.Namespace) -> FileRef:
    """Return where the feature network lies, which may be a name.

    Raises:
        InvalidSpec: There is nothing.
    """
    name = options.features or INCEPTION
    if name != INCEPTION and not Path(name).exists():
        raise InvalidSpec(f"--features: there is no {name}", param="features")
    return FileRef(path=name)


def reading_of(options: argparse.Namespace) -> DatasetReading:
    """Return what is done to the dataset's images.

    Raises:
        InvalidSpec: Naming the option.
    """
    return validated(DatasetReading, _given(options, *_READING))


def evaluation_of(options: argparse.Namespace, num_samples: int) -> EvaluationSettings:
    """Return what is measured.

    Args:
        options: As given.
        num_samples: How many images, if the options do not say.

    Raises:
        InvalidSpec: Naming the option.
    """
    given = _given(options, "num_samples", "seed", *_NUMBERS)
    content: dict[str, Any] = {"num_samples": num_samples, **given}
    # Precision and recall are of a dataset: without one they are not measured, unless somebody asks for them.
    if content.get("neighbours", 0 if options.dataset is None else None) == 0:
        content["neighbours"] = None
    return validated(EvaluationSettings, content)


def sampler_of(pairs: Sequence[str], default: Settings) -> dict[str, Any]:
    """Return a sampler's settings: the default's where it is of the same kind and nothing else is said.

    Args:
        pairs: NAME=VALUE, each value JSON, or a word.
        default: Of the checkpoint's family.

    Raises:
        InvalidSpec: One of them is something else.
    """
    given: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (name and equals):
            raise InvalidSpec(f"--sampler: {pair!r} is not NAME=VALUE, such as num_steps=18", param="sampler")
        if name in given:
            raise InvalidSpec(f"--sampler: {name} is given twice", param="sampler")
        try:
            given[name] = json.loads(text)
        except ValueError:
            given[name] = text
    defaults = default.model_dump()
    return {**defaults, **given} if given.get("kind", defaults["kind"]) == defaults["kind"] else given


def validated(model: type[_SettingsT], content: dict[str, Any]) -> _SettingsT:
    """Return settings that options make.

    Raises:
        InvalidSpec: Naming the first wrong one.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        refusal = refusal_of(error, content)
        option, dot, rest = (refusal.param or "").partition(".")
        message = refusal.message.removeprefix(f"{refusal.param}: ")
        where = f"{_flag(option)}: {rest}{': ' if dot else ''}" if option else ""
        raise InvalidSpec(f"{where}{message}", param=refusal.param) from error


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
