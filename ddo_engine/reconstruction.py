"""An average of any length, put together from the snapshots that a trial wrote (``training.ema_snapshot_stds``)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddo_engine.checkpoint import CheckpointManifest, load_checkpoint, read_manifest, save_checkpoint
from ddo_engine.ema import PowerAverage, post_hoc_coefficients, reconstruct
from ddo_engine.errors import IncompatibleInputs, InvalidSpec
from ddo_engine.files import sha256_of
from ddo_engine.provenance import NOT_OF_THE_COURSE
from ddo_engine.version import ENGINE_VERSION

# What differs between the snapshots of one trial, which may have gone on under another engine; the rest of their
# provenance must be the same.
_OF_ONE_SNAPSHOT = frozenset({"ema_std", "images", "kimg", "step", "engine_version"})


def reconstruct_average(
    snapshots: Sequence[Path], destination: Path, *, std: float, kimg: float | None = None
) -> dict[str, Any]:
    """Write the average of this length as a checkpoint.

    Args:
        snapshots: Of one trial, in any order. Two lengths, each stored at several evaluations, give those between well.
        destination: Where to; replaced if it exists.
        std: Relative standard deviation of the wanted profile, 0.001 … 0.28, as in ``training.ema_std``.
        kimg: When the average is taken, in thousands of the trial's images; None: as the latest snapshot.

    Returns:
        The length, the time, and how much of each snapshot went in.

    Raises:
        CorruptCheckpoint: A file is no checkpoint of ours.
        IncompatibleInputs: They are not snapshots of one trial.
        InvalidSpec: No such average can be made of them.

    Source: arXiv:2312.02696, section 3.2.
    """
    manifests = [read_manifest(path) for path in snapshots]
    stored = [_average_of(path, manifest) for path, manifest in zip(snapshots, manifests, strict=True)]
    _require_one_trial(snapshots, manifests)
    images = max(average.images for average in stored) if kimg is None else kimg * 1000
    try:
        coefficients_S = post_hoc_coefficients(stored, [PowerAverage(images=images, std=std)])[:, 0]
    except ValueError as error:
        raise InvalidSpec(f"no average of std {std:g} can be put together: {error}", param="std") from error
    model = reconstruct((load_checkpoint(path).model for path in snapshots), coefficients_S)
    shared = {key: value for key, value in manifests[0].provenance.items() if key not in _OF_ONE_SNAPSHOT}
    sources = {sha256_of(path): float(share) for path, share in zip(snapshots, coefficients_S, strict=True)}
    provenance = shared | {
        "ema_std": std,
        "images": images,
        "kimg": images / 1000,
        "reconstructed_from": sources,
        "engine_version": ENGINE_VERSION,
    }
    save_checkpoint(destination, model, manifests[0].model_copy(update={"provenance": provenance}))
    shares = {path.name: float(share) for path, share in zip(snapshots, coefficients_S, strict=True)}
    return {"ema_std": std, "kimg": images / 1000, "coefficients": shares}


def _average_of(path: Path, manifest: CheckpointManifest) -> PowerAverage:
    images, std = (manifest.provenance.get(name) for name in ("images", "ema_std"))
    is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (images, std))
    if not is_number or "reconstructed_from" in manifest.provenance:
        raise IncompatibleInputs(
            f"{path.name} is not a snapshot: give files that a trial with training.ema_snapshot_stds wrote",
            param="snapshots",
        )
    assert images is not None
    assert std is not None
    return PowerAverage(images=float(images), std=float(std))


def _require_one_trial(paths: Sequence[Path], manifests: Sequence[CheckpointManifest]) -> None:
    first = _of_trial(manifests[0])
    for path, manifest in zip(paths, manifests, strict=True):
        if _of_trial(manifest) != first:
            raise IncompatibleInputs(
                f"{path.name} is not of the same trial as {paths[0].name}: give snapshots of one trial",
                param="snapshots",
            )


def _of_trial(manifest: CheckpointManifest) -> Mapping[str, Any]:
    shared = {key: value for key, value in manifest.provenance.items() if key not in _OF_ONE_SNAPSHOT}
    if isinstance(training := shared.get("training"), Mapping):
        shared["training"] = {key: value for key, value in training.items() if key not in NOT_OF_THE_COURSE}
    return manifest.model_copy(update={"provenance": shared}).model_dump(mode="json")
