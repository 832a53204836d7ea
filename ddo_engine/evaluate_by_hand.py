"""``python -m ddo_engine evaluate`` without a spec: a checkpoint, or images at hand, against a dataset.

A checkpoint goes the way of a job's: networks in their authors' formats are converted as validation does it, and the
unit ``evaluate`` measures, so that numbers and fingerprints are those of a job with the same settings. Images at hand,
in any format of ``docs/datasets.md``, come before the same judge, and of them only a batch is held at a time.
"""

import argparse
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ddo_engine import evaluate
from ddo_engine.checkpoint import read_manifest
from ddo_engine.converted_inputs import Network, convert_files
from ddo_engine.data import ImageDataset, open_on_demand
from ddo_engine.device import make_deterministic, pick_device
from ddo_engine.errors import IncompatibleInputs, InvalidSpec
from ddo_engine.evaluate_options import (
    DEFAULT_NUM_SAMPLES,
    check_paths,
    evaluation_of,
    feature_file_of,
    reading_of,
    sampler_of,
    validated,
)
from ddo_engine.evaluation import Judge
from ddo_engine.evaluation.judge import fingerprint_of
from ddo_engine.events import EventWriter, terminal_view
from ddo_engine.families import get_family
from ddo_engine.files import sha256_of_tree
from ddo_engine.inputs import (
    blaming,
    check_features_fit_dataset,
    local_path,
    open_feature_network,
    open_reference_statistics,
)
from ddo_engine.interruption import StopRequest
from ddo_engine.run_context import RunContext
from ddo_engine.spec import (
    IMAGES_AS_STORED,
    DatasetReading,
    EngineEvent,
    Evaluated,
    EvaluateSpec,
    FileRef,
    Finished,
    Progress,
)


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, and return what was found, and under which protocol.

    Raises:
        EngineError: An option is wrong, a file is damaged or unfit, or the run was asked to stop.
    """
    check_paths(options)
    stop = StopRequest()
    stop.install()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    make_deterministic()
    with _context(options, stop) as (context, evaluations):
        if options.images is not None:
            numbers = _measure_images(options, context)
        else:
            _measure_checkpoint(options, context)
            (evaluated,) = evaluations
            numbers = {name: getattr(evaluated, name) for name in ("metrics", "fingerprint", "protocol")}
    names = [
        name
        for name in ("checkpoint", "images", "dataset", "reference_statistics")
        if getattr(options, name) is not None
    ]
    return {**{name: str(getattr(options, name)) for name in names}, **numbers}


def _measure_images(options: argparse.Namespace, context: RunContext) -> dict[str, Any]:
    reading = reading_of(options)
    images = _opened(options.images, "images")
    settings = evaluation_of(options, len(images))
    # Published statistics need no dataset; then the images themselves say what images are like.
    dataset = images if options.dataset is None else _opened(options.dataset, "dataset", reading)
    files = _ours({"feature_network": feature_file_of(options)}, context)
    network = open_feature_network(files["feature_network"], context.device)
    check_features_fit_dataset(network, dataset.info)
    on_reading = context.progress("reading", len(dataset))
    judge = Judge(
        network,
        dataset,
        None if options.dataset is None else sha256_of_tree(options.dataset),
        reading,
        context.cache,
        on_reading,
        reference_file=open_reference_statistics(_reference_file_of(options)),
        begin_comparing=partial(context.progress, "comparing"),
    )
    with context.stop.before_network_calls():
        metrics = judge.measure(images, settings, context.progress("measuring", settings.num_samples))
    protocol = judge.protocol(settings)
    return {"metrics": metrics, "fingerprint": fingerprint_of(protocol), "protocol": protocol}


def _measure_checkpoint(options: argparse.Namespace, context: RunContext) -> None:
    """Run the unit, which tells of its evaluation."""
    settings, reading = evaluation_of(options, DEFAULT_NUM_SAMPLES), reading_of(options)
    files: dict[Network, FileRef] = {"checkpoint": FileRef(path=str(options.checkpoint))}
    if options.autoencoder is not None:
        files["autoencoder"] = FileRef(path=str(options.autoencoder))
    if options.guide is not None:
        files["guide"] = FileRef(path=str(options.guide))
    files = _ours({**files, "feature_network": feature_file_of(options)}, context)
    family = get_family(read_manifest(local_path(files["checkpoint"], "checkpoint")).family)
    content: dict[str, Any] = {
        **{name: file.model_dump() for name, file in files.items()},
        "dataset": str(options.dataset),
        "reference_statistics": _reference_file_of(options),
        "sampler": sampler_of(options.sampler or (), family.default_sampler),
        "evaluations": [settings.model_dump()],
        "dataset_reading": reading.model_dump(),
    }
    if options.grey_levels is not None:
        content["grey_levels"] = options.grey_levels
    evaluate.run(validated(EvaluateSpec, content), context)


def _opened(path: Path, param: str, reading: DatasetReading = IMAGES_AS_STORED) -> ImageDataset:
    with blaming(param):
        dataset = open_on_demand(path, reading)
    if dataset.info.kind == "latents":
        raise IncompatibleInputs(f"--{param}: {path} holds latents: give the images behind them", param=param)
    return dataset


def _reference_file_of(options: argparse.Namespace) -> FileRef | None:
    path = options.reference_statistics
    return None if path is None else FileRef(path=str(path))


def _ours(files: Mapping[Network, FileRef], context: RunContext) -> dict[Network, FileRef]:
    """Return the files in our format, which is what fingerprints know them by."""
    ours = dict(files)
    ours.update(convert_files(files, context))
    return ours


@contextmanager
def _context(options: argparse.Namespace, stop: StopRequest) -> Iterator[tuple[RunContext, list[Evaluated]]]:
    """Yield where a unit runs, and what it tells of its evaluations; its progress goes to the terminal, if any."""
    view, evaluations = terminal_view(), list[Evaluated]()

    def listen(event: EngineEvent) -> None:
        if isinstance(event, Evaluated):
            evaluations.append(event)
        elif isinstance(event, Progress) and view is not None:
            view(event)

    try:
        if options.cache is not None:
            options.cache.mkdir(parents=True, exist_ok=True)
        workdir = TemporaryDirectory(prefix="ddo-evaluate-", dir=options.cache)
    except OSError as error:
        raise InvalidSpec(f"--cache: {options.cache} cannot be made a folder ({error})", param="cache") from error
    with workdir as folder, Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        events = EventWriter(nowhere, listen)
        try:
            yield RunContext(Path(folder), pick_device(options.device), events, stop, options.cache), evaluations
        finally:
            if view is not None:
                view(Finished())
