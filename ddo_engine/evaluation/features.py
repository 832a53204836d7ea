"""Feature networks, pluggable by file."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ddo_engine.device import full_float32, queued_to_device
from ddo_engine.errors import InvalidFeatureNetwork
from ddo_engine.evaluation.networks.building import build_features
from ddo_engine.evaluation.networks.feature_file import FeatureManifest
from ddo_engine.evaluation.networks.feature_module import FeatureModule
from ddo_engine.evaluation.networks.foreign_features import open_features
from ddo_engine.evaluation.networks.named_networks import path_of
from ddo_engine.evaluation.networks.program import load_program
from ddo_engine.files import sha256_of_tree
from ddo_engine.spec import EvaluationSettings

_MOST_IMAGES, _FEWEST_IMAGES = 256, 16  # in one call; CPUs compute multiples of 16 rows alike
_CALL_BYTES = {"cpu": 1 << 29}
_CALL_BYTES_ELSEWHERE = 1 << 32


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
            InvalidFeatureNetwork: The inception score is asked for, and it is no classifier; or sFID, and it computes
                no spatial features.
        """
        if settings.inception_score_splits is not None and not self.computes("logits"):
            raise InvalidFeatureNetwork(
                "the inception score needs a feature network that is a classifier, and this one computes no logits: "
                "set evaluation.inception_score_splits to null, or choose a classifier",
                param="evaluation.inception_score_splits",
            )
        if settings.sfid and not self.computes("spatial"):
            raise InvalidFeatureNetwork(
                "sFID needs a feature network with spatial features, as Inception has, and this one computes none: set "
                "evaluation.sfid to false, or choose such a network",
                param="evaluation.sfid",
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
            outputs: dict[str, Tensor] = self.module(queued_to_device(images_NCHW, self.device))
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
