"""Feature networks, pluggable by file: safetensors whose manifest names an architecture of the registry."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ddo_engine.errors import InvalidFeatureNetwork
from ddo_engine.evaluation.feature_module import FeatureModule
from ddo_engine.evaluation.image_classifier import ImageClassifier, ImageClassifierConfig
from ddo_engine.files import sha256_of, write_atomically
from ddo_engine.spec import EvaluationSettings, Settings
from ddo_engine.tensor_file import MAX_HEADER_BYTES

MANIFEST_KEY = "ddo_manifest"
MAX_MANIFEST_CHARACTERS = 2**20


class FeatureManifest(Settings):
    """What a feature network's file says about itself."""

    format_version: Literal[1] = 1
    architecture: str
    config: dict[str, Any]
    provenance: dict[str, Any] = Field(default_factory=dict)


ARCHITECTURES: dict[str, Callable[[dict[str, Any]], FeatureModule]] = {
    "image_classifier": lambda config: ImageClassifier(ImageClassifierConfig.model_validate(config)),
}


@dataclass(frozen=True)
class FeatureNetwork:
    """A loaded feature network, in eval mode and without gradients.

    Attributes:
        module: As built by its architecture.
        manifest: As read from the file.
        sha256: Of the file: part of every evaluation's fingerprint.
        device: Where the module is.
    """

    module: FeatureModule
    manifest: FeatureManifest
    sha256: str
    device: torch.device

    @property
    def feature_dim(self) -> int:
        """Length of a feature vector."""
        return self.module.feature_dim

    def check_takes(self, img_resolution: int, img_channels: int) -> None:
        """Refuse images that the network was not made for.

        Raises:
            InvalidFeatureNetwork: Resolution or channels differ.
        """
        if (self.module.img_resolution, self.module.img_channels) != (img_resolution, img_channels):
            raise InvalidFeatureNetwork(
                f"the feature network takes images of {self.module.img_resolution} pixels a side and "
                f"{self.module.img_channels} channel(s), the dataset has {img_resolution} and {img_channels}: "
                "choose a feature network for these images",
                param="feature_network",
            )

    def check_measures(self, settings: EvaluationSettings) -> None:
        """Refuse to measure what the network does not compute.

        Raises:
            InvalidFeatureNetwork: The inception score is asked for, and it is no classifier.
        """
        if settings.inception_score_splits is not None and self.module.num_classes is None:
            raise InvalidFeatureNetwork(
                "the inception score needs a feature network that is a classifier, and this one computes no logits: "
                "set evaluation.inception_score_splits to null, or choose a classifier",
                param="evaluation.inception_score_splits",
            )

    @torch.no_grad()
    def __call__(self, images_NCHW: Tensor) -> dict[str, Tensor]:
        """Return "features" (N, feature_dim) and whatever else the architecture computes, float32 on ``device``.

        Args:
            images_NCHW: uint8, on any device.
        """
        self.check_takes(images_NCHW.shape[2], images_NCHW.shape[1])
        outputs: dict[str, Tensor] = self.module(images_NCHW.to(self.device))
        return outputs


def load_features(path: str | Path, device: str | torch.device = "cpu") -> FeatureNetwork:
    """Load a feature network. Nothing in the file is executed.

    Raises:
        InvalidFeatureNetwork: The file is not complete, its manifest names an unknown architecture, or its tensors
            are not that architecture's.
    """
    path = Path(path)
    try:
        _require_short_header(path)
        with safe_open(path, framework="pt") as file:
            manifest = _parse_manifest(path, file.metadata())
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
        sha256 = sha256_of(path)
    except (OSError, SafetensorError) as error:
        raise InvalidFeatureNetwork(
            f"{path.name} is not a complete safetensors file ({error}): upload it again, or convert it to safetensors"
        ) from error
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or not bool(torch.isfinite(tensor).all()):
            raise InvalidFeatureNetwork(f"{path.name}: {name} must be finite float32 numbers: save the network again")
    try:
        with torch.device("meta"):  # the file's own tensors are all the memory that a manifest can ask for
            module = ARCHITECTURES[manifest.architecture](manifest.config)
        module.load_state_dict(tensors, strict=True, assign=True)
    except (ValidationError, RuntimeError) as error:
        raise InvalidFeatureNetwork(
            f"{path.name}: its config and tensors are not those of a {manifest.architecture} ({error})"
        ) from error
    module.eval().requires_grad_(False).to(device)
    return FeatureNetwork(module, manifest, sha256, torch.device(device))


def save_features(path: str | Path, module: FeatureModule, manifest: FeatureManifest) -> None:
    """Write a feature network atomically; the same weights and manifest give the same bytes."""
    metadata = {MANIFEST_KEY: json.dumps(manifest.model_dump(mode="json"), sort_keys=True)}
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in module.state_dict().items()}
    write_atomically(Path(path), lambda temporary: save_file(tensors, temporary, metadata))


def _require_short_header(path: Path) -> None:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER_BYTES:
        raise InvalidFeatureNetwork(
            f"{path.name}: its header of {length} bytes is far longer than any network's: save the network again"
        )


def _parse_manifest(path: Path, metadata: dict[str, str] | None) -> FeatureManifest:
    text = (metadata or {}).get(MANIFEST_KEY)
    if text is None or len(text) > MAX_MANIFEST_CHARACTERS:
        raise InvalidFeatureNetwork(f"{path.name} has no {MANIFEST_KEY!r}: it is not a feature network of this service")
    try:
        manifest = FeatureManifest.model_validate_json(text)
    except ValidationError as error:
        raise InvalidFeatureNetwork(f"{path.name}: its manifest is not one we read ({error})") from error
    if manifest.architecture not in ARCHITECTURES:
        raise InvalidFeatureNetwork(
            f"{path.name}: there is no architecture {manifest.architecture[:80]!r}; "
            f"known: {', '.join(sorted(ARCHITECTURES))}"
        )
    return manifest
