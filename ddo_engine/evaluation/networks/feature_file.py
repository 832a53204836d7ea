"""Our file of a feature network: safetensors whose manifest names an architecture."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from torch import Tensor

from ddo_engine.errors import InvalidFeatureNetwork
from ddo_engine.files import write_atomically
from ddo_engine.spec import Settings
from ddo_engine.stored_tensor import StoredTensor
from ddo_engine.tensor_file import write_tensor_file

MANIFEST_KEY = "ddo_manifest"
MAX_MANIFEST_CHARACTERS = 2**20


class FeatureManifest(Settings):
    """What a feature network's file says about itself."""

    format_version: Literal[1] = 1
    architecture: str
    config: dict[str, Any]
    provenance: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class FeatureFile:
    """A feature network whose weights have not been read yet.

    Attributes:
        manifest: What they are weights of.
        tensors: By the architecture's names.
    """

    manifest: FeatureManifest
    tensors: Mapping[str, StoredTensor | Tensor]


def parse_manifest(name: str, text: str) -> FeatureManifest:
    """Return the manifest of the file of this name.

    Raises:
        InvalidFeatureNetwork: It is not one that this version reads.
    """
    if len(text) > MAX_MANIFEST_CHARACTERS:
        raise InvalidFeatureNetwork(f"{name}: its manifest is far longer than any network's: save the network again")
    try:
        return FeatureManifest.model_validate_json(text)
    except ValidationError as error:
        raise InvalidFeatureNetwork(f"{name}: its manifest is not one we read ({error})") from error


def write_feature_file(path: Path, file: FeatureFile) -> None:
    """Write a feature network atomically; the same weights and manifest give the same bytes."""
    metadata = {MANIFEST_KEY: json.dumps(file.manifest.model_dump(mode="json"), sort_keys=True)}
    write_atomically(path, lambda temporary: write_tensor_file(temporary, file.tensors, metadata))
