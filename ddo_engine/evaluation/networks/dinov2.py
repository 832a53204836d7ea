"""DINOv2 as the feature network of FD-DINOv2, by the transformers library, which is an optional extra.

Of the library, constructors alone are called, with values that were checked here: nothing of it reads a folder, runs
code from one, or asks a hub.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ddo_engine.errors import InvalidFeatureNetwork
from ddo_engine.evaluation.networks.dinov2_config import Dinov2Settings
from ddo_engine.evaluation.networks.feature_module import FeatureModule

SIDE = 224
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels in [0, 1]
# DINOv2's own code adds it to the number of patches a side before it resamples their positions.
_POSITION_OFFSET = 0.1


class Dinov2(FeatureModule):
    """The class token behind the last normalization."""

    img_resolution = None
    img_channels = None
    outputs = frozenset({"features"})
    mean: Tensor
    std: Tensor

    def __init__(self, settings: Dinov2Settings, model: nn.Module) -> None:
        """Take a loaded network and let its positions fit 224 pixels a side.

        Args:
            settings: What it was built from.
            model: A ``Dinov2Model`` of the library.
        """
        super().__init__()
        self.model = model
        self._settings = settings
        positions = model.get_parameter("embeddings.position_embeddings")
        positions.data = resampled_positions(positions.data, SIDE // settings.patch_size)
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1), persistent=False)

    def bytes_per_image(self, img_resolution: int) -> int:
        """Hidden states and the two layers of a perceptron, and the image itself."""
        patches = (SIDE // self._settings.patch_size) ** 2 + 1
        hidden = patches * self._settings.hidden_size * (6 + 2 * self._settings.mlp_ratio)
        return 4 * (hidden + self._settings.num_attention_heads * patches**2 + 3 * (img_resolution**2 + SIDE**2))

    def forward(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Return "features", shape (B, hidden_size), in the dtype of the weights.

        Args:
            images_BCHW: uint8 of any size; grey ones are taken for equal red, green and blue.
        """
        x_BCHW = images_BCHW.to(self.mean.dtype).expand(-1, 3, -1, -1)
        x_BCHW = F.interpolate(x_BCHW, size=(SIDE, SIDE), mode="bicubic", antialias=True)
        return {"features": self.model((x_BCHW / 255 - self.mean) / self.std).pooler_output}


def resampled_positions(positions_1PD: Tensor, side: int) -> Tensor:
    """Return embeddings of so many patches a side, that of the class token unchanged.

    The library would ask for the side itself; DINOv2's own code asks for a scale that is larger by a tenth of a patch,
    and features are compared with what that computes.

    Args:
        positions_1PD: Of the class token, then of a square of patches row by row.
        side: Patches.

    Returns:
        Shape (1, 1 + side², D).

    Source: https://github.com/facebookresearch/dinov2, ``interpolate_pos_encoding`` with ``interpolate_offset=0.1``.
    """
    old_side = round((positions_1PD.shape[1] - 1) ** 0.5)
    if old_side == side:
        return positions_1PD
    patches_1DHW = positions_1PD[:, 1:].transpose(1, 2).reshape(1, -1, old_side, old_side)
    scale = (side + _POSITION_OFFSET) / old_side
    patches_1DHW = F.interpolate(patches_1DHW, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([positions_1PD[:, :1], patches_1DHW.flatten(2).transpose(1, 2)], dim=1)


def build_dinov2(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Dinov2:
    """Build the network of a manifest.

    Args:
        config: Fields of :class:`Dinov2Settings`.
        tensors: By the names in the library's files.

    Raises:
        InvalidFeatureNetwork: The library is not installed.
        RuntimeError: The tensors are not those of this network.
        ValidationError: The config is not one of this network.
    """
    settings = Dinov2Settings.model_validate(config)
    library = _library()
    model, report = library.Dinov2Model.from_pretrained(
        None,
        config=library.Dinov2Config(**settings.model_dump(), use_mask_token=False),
        state_dict=dict(tensors),
        output_loading_info=True,
    )
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing or unexpected:
        raise RuntimeError(f"missing {missing[:3]}, unexpected {unexpected[:3]}")
    return Dinov2(settings, model)


def _library() -> Any:
    try:
        library = import_module("transformers")
    except ImportError as error:
        raise InvalidFeatureNetwork(
            "DINOv2 is run by the transformers library, which is not installed here: install the extra "
            "ddo-finetuning-service[dinov2], or choose another feature network"
        ) from error
    # It draws progress bars and tables of what it loads; both cases are judged here.
    library.utils.logging.disable_progress_bar()
    library.utils.logging.set_verbosity(library.utils.logging.CRITICAL)
    return library
