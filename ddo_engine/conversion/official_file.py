"""A checkpoint in whatever format its authors publish: the manifest it would have, and where its tensors lie."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddo_engine.checkpoint import MANIFEST_KEY, CheckpointManifest, manifest_of
from ddo_engine.conversion.nvlabs_configuration import latent_scaling_of, network_of, origin_of
from ddo_engine.conversion.nvlabs_pickle import read_nvlabs_pickle
from ddo_engine.conversion.options import ConversionOptions
from ddo_engine.conversion.sniffing import FileFormat, sniff
from ddo_engine.conversion.state_dict_configuration import network_of_state_dict
from ddo_engine.conversion.torch_file import read_legacy_state_dict, read_zip_state_dict
from ddo_engine.errors import CorruptCheckpoint, InvalidSpec
from ddo_engine.families.diffusers import import_folder
from ddo_engine.files import sha256_of_tree
from ddo_engine.stored_tensor import StoredTensor
from ddo_engine.tensor_file import read_tensor_file

_LICENCES = {
    "edm": "as published by NVIDIA: CC BY-NC-SA 4.0; see the source of the file",
    "edm2": "as published by NVIDIA: CC BY-NC-SA 4.0; see the source of the file",
    "diffusers": "as its publisher says; see the model card",
    "var": "as published by the authors of VAR: MIT; the DDO authors' weights: CC BY-NC-SA 4.0; see the source of the "
    "file",
}


@dataclass(frozen=True)
class OfficialFile:
    """A checkpoint whose weights have not been read yet.

    Attributes:
        format: What it is.
        manifest: What its weights are weights of.
        tensors: By official name.
    """

    format: FileFormat
    manifest: CheckpointManifest
    tensors: Mapping[str, StoredTensor]


def open_official(
    path: str | Path, options: ConversionOptions | None = None, *, origin: Path | None = None
) -> OfficialFile:
    """Find out what a checkpoint is, by its content; nothing in it is run, and its weights are not read.

    Args:
        path: An EDM or EDM2 ``.pkl``, a VAR or VQVAE ``.pth``, ``.safetensors`` with or without our manifest, or a
            folder of a model of the diffusers library.
        options: What the file does not say itself.
        origin: The archive that ``path`` was unpacked from, to be named in the provenance.

    Raises:
        CorruptCheckpoint: The file is damaged, of another format, or its network is not one of the families'.
        InvalidSpec: The options do not fit it.
    """
    path, options = Path(path), options or ConversionOptions()
    found = sniff(path)
    if found is None:
        raise CorruptCheckpoint(
            f"{path.name} is not a checkpoint: expected are an EDM or EDM2 .pkl, a VAR or VQVAE .pth, .safetensors, "
            "or a folder of a diffusers model"
        )
    official = _open_folder(path, origin or path, options) if path.is_dir() else _open(path, found, options)
    if options.family not in (None, official.manifest.family):
        raise InvalidSpec(
            f"--family: {path.name} holds a network of the family {official.manifest.family!r}, not {options.family!r}",
            param="family",
        )
    return official


def _open(path: Path, found: FileFormat, options: ConversionOptions) -> OfficialFile:
    if found is FileFormat.NVLABS_PICKLE:
        _require_no_configuration(options)
        pickle = read_nvlabs_pickle(path)
        family, network = network_of(pickle, path)
        manifest = CheckpointManifest(
            family=family,
            network=network,
            latent_scaling=latent_scaling_of(pickle, path),
            provenance={**_provenance(path, found, family), **origin_of(pickle)},
        )
        return OfficialFile(found, manifest, pickle.tensors)
    if found is FileFormat.SAFETENSORS:
        file = read_tensor_file(path)
        tensors = file.tensors
        if MANIFEST_KEY in file.metadata:
            _require_no_configuration(options)
            return OfficialFile(found, manifest_of(path, file), tensors)
    elif found is FileFormat.TORCH_ZIP:
        tensors = read_zip_state_dict(path)
    else:
        tensors = read_legacy_state_dict(path)
    family, network = network_of_state_dict(tensors, options, path)
    manifest = CheckpointManifest(family=family, network=network, provenance=_provenance(path, found, family))
    return OfficialFile(found, manifest, tensors)


def _open_folder(path: Path, origin: Path, options: ConversionOptions) -> OfficialFile:
    _require_no_configuration(options)
    found, family = FileFormat.DIFFUSERS_FOLDER, "diffusers"
    imported = import_folder(path)
    provenance = {**_provenance(origin, found, family), "diffusers": imported.provenance}
    manifest = CheckpointManifest(family=family, network=imported.config, provenance=provenance)
    return OfficialFile(found, manifest, imported.tensors)


def _require_no_configuration(options: ConversionOptions) -> None:
    for param, value in (("config", options.network), ("patch_nums", options.patch_nums)):
        if value is not None:
            raise InvalidSpec(
                f"--{param.replace('_', '-')}: the file says itself what its network is; leave the option out",
                param=param,
            )


def _provenance(path: Path, found: FileFormat, family: str) -> dict[str, Any]:
    return {
        "converted_from": {"name": path.name, "format": found.value, "sha256": sha256_of_tree(path)},
        "licence": _LICENCES[family],
    }
