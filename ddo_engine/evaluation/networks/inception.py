"""Inception-v3 as TensorFlow released it on 2015-12-05: the network of published FIDs and inception scores.

Parts have the names of the published PyTorch port of its weights. It is not the network that is trained as
Inception-v3 today: 1,008 classes, images resized by TensorFlow's old rule, average pooling that counts no padding, and
maximum pooling in the last block.

Shapes: B images of H x W pixels, C channels.

Source: arXiv:1512.00567, section 6 and figures 5-7, 10; padding, pooling and resizing as in the released graph.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ddo_engine.evaluation.networks.feature_module import FeatureModule
from ddo_engine.evaluation.networks.tensorflow_resize import resize
from ddo_engine.spec import Settings

IMG_RESOLUTION = 299
NUM_CLASSES = 1008
SPATIAL_CHANNELS = 7  # 7 x 17 x 17 = 2,023: about as many as the other features


class InceptionConfig(Settings):
    """There is nothing to configure: the network is one."""


class Convolution(nn.Module):
    """Convolution, normalization by stored statistics, and ReLU.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        kernel_size: Rows and columns.
        stride: Of both.
        padded: Whether zeros around the input let the output have its size.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: tuple[int, int], stride: int = 1, *, padded: bool = True
    ) -> None:
        super().__init__()
        padding = (kernel_size[0] // 2, kernel_size[1] // 2) if padded else (0, 0)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return non-negative activations."""
        return F.relu(self.bn(self.conv(x_BCHW)), inplace=True)


# One step of a branch: a pooling by its name; a convolution's name, channels and kernel; or several convolutions that
# see the same input and are concatenated.
_Convolution = tuple[str, int, tuple[int, int]]
_Step = str | _Convolution | list[_Convolution]
_1X1, _3X3, _5X5, _1X7, _7X1, _1X3, _3X1 = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1), (1, 3), (3, 1)


class Block(nn.Module):
    """Branches that see the same input and are concatenated.

    Args:
        in_channels: Of the input.
        branches: Steps of each.
        halves: Whether the last step of each branch has stride 2 and no padding.
    """

    def __init__(self, in_channels: int, branches: Sequence[Sequence[_Step]], *, halves: bool = False) -> None:
        super().__init__()
        self._branches = branches
        self._halves = halves
        for branch in branches:
            channels = in_channels
            for step in branch:
                for name, out_channels, kernel_size in _convolutions(step):
                    strided = halves and step is branch[-1]
                    convolution = Convolution(
                        channels, out_channels, kernel_size, 2 if strided else 1, padded=not strided
                    )
                    self.add_module(name, convolution)
                channels = next((step[1] for step in _convolutions(step)), channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the branches' outputs side by side."""
        return torch.cat([self._run(branch, x_BCHW) for branch in self._branches], dim=1)

    def _run(self, branch: Sequence[_Step], x_BCHW: Tensor) -> Tensor:
        for step in branch:
            if step == "average":
                x_BCHW = F.avg_pool2d(x_BCHW, 3, stride=1, padding=1, count_include_pad=False)
            elif step == "maximum":
                x_BCHW = F.max_pool2d(x_BCHW, 3, stride=2) if self._halves else F.max_pool2d(x_BCHW, 3, 1, padding=1)
            else:
                outputs = [self.get_submodule(name)(x_BCHW) for name, *_ in _convolutions(step)]
                x_BCHW = torch.cat(outputs, dim=1)
        return x_BCHW


def _convolutions(step: _Step) -> list[_Convolution]:
    if isinstance(step, list):
        return step
    return [] if isinstance(step, str) else [step]


class Inception(FeatureModule):
    """The network, from uint8 images of any size to all of its levels."""

    img_resolution = None
    img_channels = None
    outputs = frozenset({"64", "192", "768", "2048", "logits_unbiased", "features", "spatial", "logits"})

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, _3X3, stride=2, padded=False)
        self.Conv2d_2a_3x3 = Convolution(32, 32, _3X3, padded=False)
        self.Conv2d_2b_3x3 = Convolution(32, 64, _3X3)
        self.Conv2d_3b_1x1 = Convolution(64, 80, _1X1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, _3X3, padded=False)
        self.Mixed_5b = _block_5(192, pool_channels=32)
        self.Mixed_5c = _block_5(256, pool_channels=64)
        self.Mixed_5d = _block_5(288, pool_channels=64)
        self.Mixed_6a = _block_6a()
        self.Mixed_6b = _block_6(128)
        self.Mixed_6c = _block_6(160)
        self.Mixed_6d = _block_6(160)
        self.Mixed_6e = _block_6(192)
        self.Mixed_7a = _block_7a()
        self.Mixed_7b = _block_7(1280, "average")
        self.Mixed_7c = _block_7(2048, "maximum")
        self.fc = nn.Linear(2048, NUM_CLASSES)

    def bytes_per_image(self, img_resolution: int) -> int:
        """Four activations as large as the largest, behind the third convolution, and the image itself."""
        return 4 * (4 * 64 * 147 * 147 + 3 * img_resolution * max(img_resolution, IMG_RESOLUTION))

    def forward(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Return every level, in the dtype of the weights.

        Args:
            images_BCHW: uint8 of any size; grey ones are taken for equal red, green and blue.

        Returns:
            By the port's names: "64", "192", "768" (means over pixels) and "2048" (``pool_3``), shapes (B, that many),
            and "logits_unbiased" (B, 1008). By use: "features" is "2048"; "spatial" (B, 2023) are the first 7 channels
            of ``mixed_6/conv``, row by row with channels innermost, as sFID takes them; "logits" are those without the
            last layer's bias, as the published inception scores are computed.
        """
        x_BCHW = images_BCHW.to(self.fc.weight.dtype).expand(-1, 3, -1, -1)
        x_BCHW = (resize(x_BCHW, IMG_RESOLUTION) - 128) / 128
        x_BCHW = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x_BCHW)))
        pool1_BCHW = F.max_pool2d(x_BCHW, 3, stride=2)
        pool2_BCHW = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(pool1_BCHW)), 3, stride=2)
        x_BCHW = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(pool2_BCHW))))
        mixed_6d_BCHW = self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x_BCHW)))
        mixed_6e_BCHW = self.Mixed_6e(mixed_6d_BCHW)
        pool3_BD = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(mixed_6e_BCHW))).mean(dim=(2, 3))
        logits_BK = F.linear(pool3_BD, self.fc.weight)
        return {
            "64": pool1_BCHW.mean(dim=(2, 3)),
            "192": pool2_BCHW.mean(dim=(2, 3)),
            "768": mixed_6e_BCHW.mean(dim=(2, 3)),
            "2048": pool3_BD,
            "logits_unbiased": logits_BK,
            "features": pool3_BD,
            # mixed_6/conv is the first branch of the block, so its channels come first.
            "spatial": mixed_6d_BCHW[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1),
            "logits": logits_BK,
        }


def _block_5(in_channels: int, pool_channels: int) -> Block:
    return Block(
        in_channels,
        [
            [("branch1x1", 64, _1X1)],
            [("branch5x5_1", 48, _1X1), ("branch5x5_2", 64, _5X5)],
            [("branch3x3dbl_1", 64, _1X1), ("branch3x3dbl_2", 96, _3X3), ("branch3x3dbl_3", 96, _3X3)],
            ["average", ("branch_pool", pool_channels, _1X1)],
        ],
    )


def _block_6a() -> Block:
    return Block(
        288,
        [
            [("branch3x3", 384, _3X3)],
            [("branch3x3dbl_1", 64, _1X1), ("branch3x3dbl_2", 96, _3X3), ("branch3x3dbl_3", 96, _3X3)],
            ["maximum"],
        ],
        halves=True,
    )


def _block_6(channels: int) -> Block:
    """Return a block whose 7 x 7 convolutions are cut into rows and columns."""
    return Block(
        768,
        [
            [("branch1x1", 192, _1X1)],
            [("branch7x7_1", channels, _1X1), ("branch7x7_2", channels, _1X7), ("branch7x7_3", 192, _7X1)],
            [
                ("branch7x7dbl_1", channels, _1X1),
                ("branch7x7dbl_2", channels, _7X1),
                ("branch7x7dbl_3", channels, _1X7),
                ("branch7x7dbl_4", channels, _7X1),
                ("branch7x7dbl_5", 192, _1X7),
            ],
            ["average", ("branch_pool", 192, _1X1)],
        ],
    )


def _block_7a() -> Block:
    return Block(
        768,
        [
            [("branch3x3_1", 192, _1X1), ("branch3x3_2", 320, _3X3)],
            [
                ("branch7x7x3_1", 192, _1X1),
                ("branch7x7x3_2", 192, _1X7),
                ("branch7x7x3_3", 192, _7X1),
                ("branch7x7x3_4", 192, _3X3),
            ],
            ["maximum"],
        ],
        halves=True,
    )


def _block_7(in_channels: int, pooling: str) -> Block:
    """Return a block that ends in rows and columns side by side."""
    return Block(
        in_channels,
        [
            [("branch1x1", 320, _1X1)],
            [("branch3x3_1", 384, _1X1), [("branch3x3_2a", 384, _1X3), ("branch3x3_2b", 384, _3X1)]],
            [
                ("branch3x3dbl_1", 448, _1X1),
                ("branch3x3dbl_2", 384, _3X3),
                [("branch3x3dbl_3a", 384, _1X3), ("branch3x3dbl_3b", 384, _3X1)],
            ],
            [pooling, ("branch_pool", 192, _1X1)],
        ],
    )
