"""A small convolutional classifier: the feature network of small images."""

from typing import Annotated

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor, nn

from ddo_engine.evaluation.networks.feature_module import FeatureModule
from ddo_engine.spec import Settings


class ImageClassifierConfig(Settings):
    """Constructor arguments of :class:`ImageClassifier`."""

    img_resolution: int = Field(ge=4, le=64)
    img_channels: Annotated[int, Field(ge=1, le=3)]
    num_classes: int = Field(ge=2, le=1000)
    model_channels: int = Field(default=32, ge=1, le=256)
    feature_dim: int = Field(default=64, ge=1, le=2048)


class ImageClassifier(FeatureModule):
    """Two convolutions and two linear layers; the penultimate activations are the features."""

    outputs = frozenset({"features", "logits"})

    img_resolution: int
    img_channels: int

    def __init__(self, config: ImageClassifierConfig) -> None:
        super().__init__()
        self.img_resolution = config.img_resolution
        self.img_channels = config.img_channels
        channels = config.model_channels
        halved = (config.img_resolution + 1) // 2
        self.conv0 = nn.Conv2d(config.img_channels, channels, kernel_size=3, padding=1)
        self.conv1 = nn.Conv2d(channels, 2 * channels, kernel_size=3, stride=2, padding=1)
        self.linear = nn.Linear(2 * channels * halved**2, config.feature_dim)
        self.head = nn.Linear(config.feature_dim, config.num_classes)

    def bytes_per_image(self, img_resolution: int) -> int:
        """The first convolution's output before and after its activation, and the image."""
        return 4 * img_resolution**2 * (2 * self.conv0.out_channels + self.img_channels)

    def forward(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Classify uint8 images.

        Returns:
            "features" (B, feature_dim) and "logits" (B, num_classes), float32.
        """
        x_BCHW = images_BCHW.to(torch.float32) / 127.5 - 1
        x_BCHW = F.silu(self.conv0(x_BCHW))
        x_BCHW = F.silu(self.conv1(x_BCHW))
        features_BD = F.relu(self.linear(x_BCHW.flatten(1)))
        return {"features": features_BD, "logits": self.head(features_BD)}
