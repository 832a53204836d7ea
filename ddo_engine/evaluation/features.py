"""Feature networks, pluggable by file."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from ddo_engine.device import full_float32
from ddo_engine.errors import CorruptCheckpoint, InvalidFeatureNetwork
from ddo_engine.evaluation.dinov2 import build_dinov2
from ddo_engine.evaluation.dinov2_config import Dinov2Settings
from ddo_engine.evaluation.feature_file import FeatureFile, FeatureManifest, write_feature_file
from ddo_engine.evaluation.feature_module import FeatureModule
from ddo_engine.evaluation.foreign_features import COUNTERS, open_features
from ddo_engine.evaluation.image_classifier import ImageClassifier, ImageClassifierConfig
from ddo_engine.evaluation.inception import Inception, InceptionConfig
from ddo_engine.evaluation.named_networks import path_of
from ddo_engine.evaluation.program import load_program, untrusted
from ddo_engine.files import sha256_of_tree
from ddo_engine.spec import EvaluationSettings
from ddo_engine.stored_tensor import StoredTensor, pieces_of

_MOST_IMAGES, _FEWEST_IMAGES = 256, 16  # in one call; CPUs compute multiples of 16 rows alike
_CALL_BYTES = {"cpu": 1 << 29}
_CALL_BYTES_ELSEWHERE = 1 << 32


# Networks of our own, which are checked and filled by names and shapes; DINOv2 is filled by its library.
_OURS: dict[str, Callable[[Mapping[str, Any]], FeatureModule]] = {
    "image_classifier": lambda config: ImageClassifier(ImageClassifierConfig.model_validate(config)),
    "inception": lambda config: Inception(InceptionConfig.model_validate(config)),
}
_DINOV2 = "dinov2"


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

    def check_takes(self, img_resolution: int, img_channels: int) -> None:
        """Refuse images that the network was not made for.

        Raises:
            InvalidFeatureNetwork: Resolution or channels differ.
        """
        side, channels = self.module.img_resolution, self.module.img_channels
        if side not in (None, img_resolution) or img_channels not in ((1, 3) if channels is None else (channels,)):
            takes = "any size" if side is None else f"{side} pixels a side"
            raise InvalidFeatureNetwork(
                f"the feature network takes images of {takes} and {channels or '1 or 3'} channel(s), the dataset has "
                f"{img_resolution} and {img_channels}: choose a feature network for these images",
                param="feature_network",
            )

    def check_measures(self, settings: EvaluationSettings) -> None:
        """Refuse to measure what the network does not compute.

        Raises:
            InvalidFeatureNetwork: The inception score is asked for, and it is no classifier.
        """
        if settings.inception_score_splits is not None and not self.computes("logits"):
            raise InvalidFeatureNetwork(
                "the inception score needs a feature network that is a classifier, and this one computes no logits: "
                "set evaluation.inception_score_splits to null, or choose a classifier",
                param="evaluation.inception_score_splits",
            )

    def computes(self, output: str) -> bool:
        """Say whether the network has an output of this name; of a program of its own code nobody knows."""
        return self.module.outputs is None or output in self.module.outputs

    def images_per_call(self, img_resolution: int) -> int:
        """Return how many images of this size go through the network together.

        It depends on the size and the kind of device alone, so that features do not depend on how images were made.
        """
        room = _CALL_BYTES.get(self.device.type, _CALL_BYTES_ELSEWHERE)
        num_images = room // self.module.bytes_per_image(img_resolution)
        return max(_FEWEST_IMAGES, min(num_images - num_images % _FEWEST_IMAGES, _MOST_IMAGES))

    @torch.no_grad()
    def __call__(self, images_NCHW: Tensor) -> dict[str, Tensor]:
        """Return "features" (N, feature_dim) and whatever else the architecture computes, on ``device``.

        Args:
            images_NCHW: uint8, on any device.

        Returns:
            In the dtype that the network was loaded in; float32 is full float32, on GPUs too.
        """
        self.check_takes(images_NCHW.shape[2], images_NCHW.shape[1])
        with full_float32():
            outputs: dict[str, Tensor] = self.module(images_NCHW.to(self.device))
        return outputs


def load_features(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    run_code: bool = False,
) -> FeatureNetwork:
    """Load a feature network. Nothing in the file is executed, unless it is a program and trusted.

    Args:
        path: Any file or folder that docs/evaluation.md lists, or "inception" for what ``DDO_INCEPTION_WEIGHTS`` names.
        device: Where to.
        dtype: Of weights and computation; programs of their own code keep theirs.
        run_code: Whether the file may be a program whose code runs here.

    Raises:
        InvalidFeatureNetwork: The file is not complete, its manifest names an unknown architecture, its tensors are not
            that architecture's, or it is a program that nobody trusts.
    """
    path, device = path_of(path), torch.device(device)
    with open_features(path) as file:
        sha256 = sha256_of_tree(path)
        if file is None:
            module: FeatureModule = load_program(path, sha256, device, run_code=run_code)
            return FeatureNetwork(module, FeatureManifest(architecture="program", config={}), sha256, device)
        module = build_features(path, file)
    module.eval().requires_grad_(False).to(device, dtype)
    return FeatureNetwork(module, file.manifest, sha256, device)


def build_features(path: Path, file: FeatureFile) -> FeatureModule:
    """Read the tensors of a file into the network that its manifest names.

    Raises:
        InvalidFeatureNetwork: There is no such architecture, or these are not its tensors.
    """
    module = check_features(path, file)
    with _blaming(path, file):
        tensors = {name: _read(tensor) for name, tensor in file.tensors.items()}
        for name, tensor in tensors.items():
            _require_finite(path, name, tensor)
        if module is None:
            return build_dinov2(file.manifest.config, tensors)
        module.load_state_dict(tensors, strict=True, assign=True)
    return module


def check_features(path: Path, file: FeatureFile) -> FeatureModule | None:
    """Check what can be checked without reading the tensors, and return the empty network if it is one of ours.

    Raises:
        InvalidFeatureNetwork: There is no such architecture, or these are not its config and tensors.
    """
    architecture, config = file.manifest.architecture, file.manifest.config
    known = sorted((*_OURS, _DINOV2))
    if architecture not in known:
        raise InvalidFeatureNetwork(
            f"{path.name}: there is no architecture {architecture[:80]!r}; known: {', '.join(known)}"
        )
    with _blaming(path, file):
        if architecture == _DINOV2:
            Dinov2Settings.model_validate(config)
            return None
        with torch.device("meta"):  # the file's own tensors are all the memory that a manifest can ask for
            module = _OURS[architecture](config)
        expected = {name: value.shape for name, value in module.state_dict().items() if not name.endswith(COUNTERS)}
        found = {name: tensor.shape for name, tensor in file.tensors.items()}
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        if wrong:
            raise RuntimeError(f"missing, not of it, or of another shape: {', '.join(name[:80] for name in wrong[:3])}")
        return module


@contextmanager
def _blaming(path: Path, file: FeatureFile) -> Iterator[None]:
    try:
        yield
    except (ValidationError, RuntimeError, CorruptCheckpoint) as error:
        raise InvalidFeatureNetwork(
            f"{path.name}: its config and tensors are not those of a network {file.manifest.architecture!r} ({error})"
        ) from error


def _read(tensor: StoredTensor | Tensor) -> Tensor:
    return tensor.read() if isinstance(tensor, StoredTensor) else tensor


def _require_finite(path: Path, name: str, tensor: StoredTensor | Tensor) -> None:
    if tensor.dtype != torch.float32 or not all(bool(torch.isfinite(piece).all()) for piece in pieces_of(tensor)):
        raise InvalidFeatureNetwork(f"{path.name}: {name} must be finite float32 numbers: save the network again")


def save_features(path: str | Path, module: FeatureModule, manifest: FeatureManifest) -> None:
    """Write a feature network atomically; the same weights and manifest give the same bytes."""
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in module.state_dict().items()}
    write_feature_file(Path(path), FeatureFile(manifest, tensors))


def convert_features(source: str | Path, destination: str | Path) -> FeatureManifest:
    """Write a feature network of any supported format as one of ours; nothing in it is run.

    The weights go from file to file a few megabytes at a time.

    Args:
        source: As for :func:`load_features`, but no program.
        destination: Where to, in an existing folder; a file that is there is replaced.

    Raises:
        InvalidFeatureNetwork: As there.
    """
    source, destination = Path(source), Path(destination)
    with open_features(source, workspace=destination.parent) as file:
        if file is None:
            raise untrusted(source.name, sha256_of_tree(source))
        check_features(source, file)
        for name, tensor in file.tensors.items():
            _require_finite(source, name, tensor)
        write_feature_file(destination, file)
        return file.manifest
