"""Folders as the library's ``save_pretrained`` writes them, and what of them goes into a checkpoint of ours.

a pipeline         model_index.json, unet/config.json, unet/<weights>, scheduler/scheduler_config.json
an old pipeline    config.json, <weights>, scheduler_config.json
an autoencoder     config.json, <weights>
"""

import json
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from ddo_engine.conversion.sniffing import without_wrapper
from ddo_engine.errors import CorruptCheckpoint
from ddo_engine.families.diffusers.autoencoder import AutoencoderArguments, AutoencoderConfig
from ddo_engine.families.diffusers.scheduler import read_scheduler
from ddo_engine.families.diffusers.unet_config import UNetArguments, UNetConfig
from ddo_engine.families.diffusers.weights import read_weights, weights_file
from ddo_engine.spec import Settings
from ddo_engine.stored_tensor import StoredTensor

_CONFIG = "config.json"
_MAX_JSON_BYTES = 1 << 24
_LATENT_PARTS = ("vae", "vqvae", "movq")

SettingsT = TypeVar("SettingsT", bound=Settings)


class ImportedFolder(NamedTuple):
    """What a folder holds.

    Attributes:
        config: The ``network`` of a manifest of the family ``diffusers``.
        tensors: By the library's present names.
        provenance: Library version, classes and file of weights.
    """

    config: dict[str, Any]
    tensors: dict[str, StoredTensor]
    provenance: dict[str, Any]


def import_folder(folder: str | Path) -> ImportedFolder:
    """Read the model in a folder of the library. Nothing in the folder is run, and nothing outside it is asked for.

    Args:
        folder: Of a pipeline around a ``UNet2DModel``, or of an ``AutoencoderKL``; or what holds it alone.

    Raises:
        CorruptCheckpoint: The folder is of another layout, a file in it is damaged, or it is of a model or a scheduler
            that we cannot finetune; the message names the file and the field.
    """
    root = without_wrapper(Path(folder))
    _refuse_latent_pipeline(root)
    inner = root / "unet" if (root / "unet" / _CONFIG).is_file() else root
    path = inner / _CONFIG
    raw = _read_json(path, root)
    class_name = raw.get("_class_name")
    arguments = {key: value for key, value in raw.items() if not key.startswith("_")}
    provenance = {
        "diffusers_version": str(raw.get("_diffusers_version", "unknown"))[:40],
        "weights_file": weights_file(inner).relative_to(root).as_posix(),
    }
    if class_name == "AutoencoderKL":
        vae = _validated(AutoencoderArguments, arguments, path, root)
        config: Settings = AutoencoderConfig(class_name="AutoencoderKL", vae=vae)
    elif class_name == "UNet2DModel":
        unet = _validated(UNetArguments, arguments, path, root)
        scheduler_path = _scheduler_path(root)
        name, facts = read_scheduler(_read_json(scheduler_path, root), scheduler_path.name)
        provenance["scheduler"] = name
        facts = {"class_name": class_name, "unet": unet, **facts}
        config = _validated(UNetConfig, facts, scheduler_path, root)
    else:
        raise CorruptCheckpoint(
            f"{path.relative_to(root)} is of a {str(class_name)[:80]}: of the diffusers library UNet2DModel and "
            "AutoencoderKL are supported; choose such a model",
            param="class_name",
        )
    return ImportedFolder(config.model_dump(mode="json"), read_weights(inner), provenance)


def _refuse_latent_pipeline(root: Path) -> None:
    parts = [part for part in _LATENT_PARTS if (root / part).is_dir()]
    if parts:
        raise CorruptCheckpoint(
            f"the pipeline's UNet works on latents of its {parts[0]!r}: only pipelines of pixels are supported; to "
            f"import the autoencoder alone, give the folder {parts[0]!r}"
        )


def _scheduler_path(root: Path) -> Path:
    for path in (root / "scheduler" / "scheduler_config.json", root / "scheduler_config.json"):
        if path.is_file():
            return path
    raise CorruptCheckpoint(
        "the folder holds a UNet2DModel but neither scheduler/scheduler_config.json nor scheduler_config.json, so "
        "nothing says what noise its timesteps stand for: add the scheduler that it was trained with, or give the "
        "folder of the whole pipeline"
    )


def _read_json(path: Path, root: Path) -> dict[str, Any]:
    name = path.relative_to(root).as_posix()
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise CorruptCheckpoint(f"{name} is far larger than any configuration: fetch it again")
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CorruptCheckpoint(
            f"{name} is missing: give a folder that save_pretrained of the diffusers library wrote"
        ) from error
    except (OSError, RecursionError, ValueError) as error:
        if isinstance(error, CorruptCheckpoint):
            raise
        raise CorruptCheckpoint(f"{name} is not JSON ({str(error)[:200]}): fetch it again") from error
    if not isinstance(content, dict):
        raise CorruptCheckpoint(f"{name} must hold a JSON object, as save_pretrained writes it")
    return content


def _validated(kind: type[SettingsT], values: dict[str, Any], path: Path, root: Path) -> SettingsT:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise CorruptCheckpoint(
            f"{path.relative_to(root).as_posix()}: {where}: {first['msg']}: this model is not among those of the "
            "library that are supported; choose one that is",
            param=where,
        ) from error
