"""Networks that are named in their authors' formats, converted once: of a job at its validation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from ddo_engine.checkpoint import MANIFEST_KEY, read_manifest
from ddo_engine.conversion import (
    ConversionOptions,
    FileFormat,
    convert_features_in_sandbox,
    convert_in_sandbox,
    sniff,
)
from ddo_engine.errors import CorruptCheckpoint, InvalidFeatureNetwork, InvalidSpec
from ddo_engine.evaluation.networks.program import is_trusted
from ddo_engine.families import get_family
from ddo_engine.families.var.transformer import VAR
from ddo_engine.files import sha256_of
from ddo_engine.inputs import BASELINES, CHECKPOINT, FEATURE_NETWORK, blaming, local_path, verified_sha256
from ddo_engine.run_context import RunContext
from ddo_engine.spec import FileRef, ValidateSpec
from ddo_engine.tensor_file import read_tensor_file

Network = Literal["checkpoint", "autoencoder", "guide", "baseline_guide", "feature_network"]
_NAMES: dict[Network, str] = {
    "checkpoint": CHECKPOINT,
    "autoencoder": "autoencoder",
    "guide": "guide",
    "baseline_guide": BASELINES,
    "feature_network": FEATURE_NETWORK,
}


def convert_inputs(spec: ValidateSpec, context: RunContext) -> dict[Network, FileRef]:
    """Convert the networks of a job, as :func:`convert_files` does."""
    files: dict[Network, FileRef | None] = {network: getattr(spec, network) for network in _NAMES}
    return convert_files({network: file for network, file in files.items() if file is not None}, context)


def convert_files(files: Mapping[Network, FileRef], context: RunContext) -> dict[Network, FileRef]:
    """Convert into the work folder what is not in our format yet, each file in a process of its own.

    Args:
        files: By what they are.
        context: Work folder, and whether to stop.

    Returns:
        What takes the place of files; nothing for those that are ours already.

    Raises:
        CorruptCheckpoint: A file is damaged, hostile, or of no format that we read; names the job's field.
        InvalidFeatureNetwork: The same of the feature network, or it is a program that nobody trusts.
        Interrupted: A stop was requested.
    """
    converted: dict[Network, FileRef] = {}
    for network, name in _NAMES.items():
        if network not in files:
            continue
        context.stop.check()
        file = files[network]
        sha256 = verified_sha256(file, network)
        source, destination = local_path(file, network), context.workdir / f"{network}.safetensors"
        if network == "feature_network":
            with blaming(name):
                was_converted = _convert_features(source, destination, sha256)
        else:
            base = converted.get("checkpoint", files["checkpoint"])
            patch_nums = _patch_nums_of(base) if network == "autoencoder" else None
            with blaming(name):
                was_converted = _convert(source, destination, patch_nums)
        if not was_converted:
            continue
        converted[network] = FileRef(
            path=str(destination), sha256=sha256_of(destination), size_bytes=destination.stat().st_size
        )
    return converted


def _convert(source: Path, destination: Path, patch_nums: tuple[int, ...] | None) -> bool:
    """Convert a file, which has these scales if it has scales and does not say which; False for one of ours."""
    if _is_ours(source):
        return False
    if patch_nums is not None:
        # Given first: of ten scales, the official ten would be taken for granted.
        try:
            convert_in_sandbox(source, destination, options=ConversionOptions(patch_nums=patch_nums))
            return True
        except InvalidSpec as error:
            if error.param != "patch_nums":
                raise
    convert_in_sandbox(source, destination)
    return True


def _convert_features(source: Path, destination: Path, sha256: str) -> bool:
    """Convert a feature network; False for one of ours, and for a program that is trusted, which stays as it is."""
    try:
        if is_trusted(sha256) or _is_ours(source):
            return False
    except CorruptCheckpoint as error:
        raise InvalidFeatureNetwork(error.message) from error
    convert_features_in_sandbox(source, destination)
    return True


def _is_ours(path: Path) -> bool:
    return sniff(path) is FileFormat.SAFETENSORS and MANIFEST_KEY in read_tensor_file(path).metadata


def _patch_nums_of(checkpoint: FileRef) -> tuple[int, ...] | None:
    """Return the scales of a VAR, which its VQVAE has too but does not say in its file; None for other networks."""
    with blaming(CHECKPOINT):
        manifest = read_manifest(local_path(checkpoint, "checkpoint"))
        with torch.device("meta"):
            model = get_family(manifest.family).build(manifest.network)
    return model.patch_nums if isinstance(model, VAR) else None
