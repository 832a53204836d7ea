"""DINOv2 as the transformers library saves it: a folder with ``config.json`` and ``model.safetensors``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ddo_engine.errors import InvalidFeatureNetwork
from ddo_engine.evaluation.networks.dinov2_config import Dinov2Settings
from ddo_engine.stored_tensor import StoredTensor
from ddo_engine.tensor_file import read_tensor_file

_MAX_CONFIG_BYTES = 1 << 20
_MASK = "embeddings.mask_token"  # of training alone


def read_dinov2_folder(folder: Path) -> tuple[dict[str, Any], Mapping[str, StoredTensor]]:
    """Return the network's configuration and its tensors, unread, by the names in the file.

    Raises:
        InvalidFeatureNetwork: A file is missing, or describes another network.
        CorruptCheckpoint: The tensors' file is damaged.
    """
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise InvalidFeatureNetwork(
                f"{folder.name} has no {name}: a folder as feature network is one of a DINOv2 model, as "
                "Dinov2Model.save_pretrained writes it"
            )
    try:
        with (folder / "config.json").open("rb") as file:
            config = json.loads(file.read(_MAX_CONFIG_BYTES))
    except (ValueError, RecursionError) as error:
        raise InvalidFeatureNetwork(f"{folder.name}: config.json is not JSON ({error})") from error
    if not isinstance(config, dict) or config.get("model_type") != "dinov2":
        found = config.get("model_type") if isinstance(config, dict) else None
        raise InvalidFeatureNetwork(
            f"{folder.name} holds a model of type {str(found)[:80]!r}: of the transformers library's models, 'dinov2' "
            "is taken as a feature network"
        )
    known = {name: config[name] for name in Dinov2Settings.model_fields if name in config}
    try:
        settings = Dinov2Settings.model_validate(known)
    except ValidationError as error:
        raise InvalidFeatureNetwork(f"{folder.name}: its config.json is not one of DINOv2's ({error})") from error
    tensors = read_tensor_file(folder / "model.safetensors").tensors
    return settings.model_dump(mode="json"), {name: stored for name, stored in tensors.items() if name != _MASK}
