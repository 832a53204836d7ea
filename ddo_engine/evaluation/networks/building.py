"""From a file's manifest and tensors to the network that they describe."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from ddo_engine.device import is_allocation_failure
from ddo_engine.errors import CorruptCheckpoint, InvalidFeatureNetwork
from ddo_engine.evaluation.networks.dinov2 import build_dinov2
from ddo_engine.evaluation.networks.dinov2_config import Dinov2Settings
from ddo_engine.evaluation.networks.feature_file import FeatureFile
from ddo_engine.evaluation.networks.feature_module import FeatureModule
from ddo_engine.evaluation.networks.foreign_features import COUNTERS
from ddo_engine.evaluation.networks.image_classifier import ImageClassifier, ImageClassifierConfig
from ddo_engine.evaluation.networks.inception import Inception, InceptionConfig
from ddo_engine.stored_tensor import StoredTensor, pieces_of


def _inception(config: Mapping[str, Any]) -> Inception:
    InceptionConfig.model_validate(config)
    return Inception()


# Networks of our own, which are checked and filled by names and shapes; DINOv2 is filled by its library.
_OURS: dict[str, Callable[[Mapping[str, Any]], FeatureModule]] = {
    "image_classifier": lambda config: ImageClassifier(ImageClassifierConfig.model_validate(config)),
    "inception": _inception,
}
_DINOV2 = "dinov2"


def build_features(path: Path, file: FeatureFile) -> FeatureModule:
    """Read the tensors of a file into the network that its manifest names.

    Raises:
        InvalidFeatureNetwork: There is no such architecture, or these are not its tensors.
    """
    module = check_features(path, file)
    with _blaming(path, file):
        tensors = {name: _read(tensor) for name, tensor in file.tensors.items()}
        for name, tensor in tensors.items():
            require_finite(path, name, tensor)
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
        if is_allocation_failure(error):
            raise
        raise InvalidFeatureNetwork(
            f"{path.name}: its config and tensors are not those of a network {file.manifest.architecture!r} ({error})"
        ) from error


def _read(tensor: StoredTensor | Tensor) -> Tensor:
    return tensor.read() if isinstance(tensor, StoredTensor) else tensor


def require_finite(path: Path, name: str, tensor: StoredTensor | Tensor) -> None:
    """Refuse weights that are no finite float32 numbers.

    Raises:
        InvalidFeatureNetwork: Naming the tensor.
    """
    if tensor.dtype != torch.float32 or not all(bool(torch.isfinite(piece).all()) for piece in pieces_of(tensor)):
        raise InvalidFeatureNetwork(f"{path.name}: {name} must be finite float32 numbers: save the network again")
