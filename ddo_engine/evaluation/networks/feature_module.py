"""What the architecture of a feature network must offer."""

from torch import Tensor, nn


class FeatureModule(nn.Module):
    """Base of all architectures.

    ``forward`` takes uint8 images of shape (B, img_channels, img_resolution, img_resolution), does its own
    scaling, and returns "features" of shape (B, feature_dim) beside whatever else it computes: a classifier its
    "logits" of shape (B, num_classes), a network for sFID "spatial" features.
    """

    img_resolution: int | None  # None takes every size
    img_channels: int | None  # None takes grey and colour
    outputs: frozenset[str] | None  # names of what ``forward`` returns; None: nobody knows before it has run

    def bytes_per_image(self, img_resolution: int) -> int:
        """Return about how much memory one image more in a call takes.

        Args:
            img_resolution: Of the image as it comes.
        """
        raise NotImplementedError

    def forward(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Return at least "features", float32."""
        raise NotImplementedError
