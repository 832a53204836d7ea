"""What the architecture of a feature network must offer."""

from torch import Tensor, nn


class FeatureModule(nn.Module):
    """Base of all architectures.

    ``forward`` takes uint8 images of shape (B, img_channels, img_resolution, img_resolution), does its own
    scaling, and returns "features" of shape (B, feature_dim) beside whatever else it computes: a classifier its
    "logits" of shape (B, num_classes).
    """

    img_resolution: int
    img_channels: int
    feature_dim: int
    num_classes: int | None = None  # None for what is no classifier

    def forward(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Return at least "features", float32."""
        raise NotImplementedError
