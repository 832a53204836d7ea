"""The names that TensorFlow's graph gives the parts of Inception-v3, as the TorchScript file of EDM has them."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ddo_engine.stored_tensor import StoredTensor

_STEM = {
    "conv": "Conv2d_1a_3x3",
    "conv_1": "Conv2d_2a_3x3",
    "conv_2": "Conv2d_2b_3x3",
    "conv_3": "Conv2d_3b_1x1",
    "conv_4": "Conv2d_4a_3x3",
}
_BLOCK_5 = {
    "conv": "branch1x1",
    "tower.conv": "branch5x5_1",
    "tower.conv_1": "branch5x5_2",
    "tower_1.conv": "branch3x3dbl_1",
    "tower_1.conv_1": "branch3x3dbl_2",
    "tower_1.conv_2": "branch3x3dbl_3",
    "tower_2.conv": "branch_pool",
}
_BLOCK_6A = {
    "conv": "branch3x3",
    "tower.conv": "branch3x3dbl_1",
    "tower.conv_1": "branch3x3dbl_2",
    "tower.conv_2": "branch3x3dbl_3",
}
_BLOCK_6 = {
    "conv": "branch1x1",
    "tower.conv": "branch7x7_1",
    "tower.conv_1": "branch7x7_2",
    "tower.conv_2": "branch7x7_3",
    "tower_1.conv": "branch7x7dbl_1",
    "tower_1.conv_1": "branch7x7dbl_2",
    "tower_1.conv_2": "branch7x7dbl_3",
    "tower_1.conv_3": "branch7x7dbl_4",
    "tower_1.conv_4": "branch7x7dbl_5",
    "tower_2.conv": "branch_pool",
}
_BLOCK_7A = {
    "tower.conv": "branch3x3_1",
    "tower.conv_1": "branch3x3_2",
    "tower_1.conv": "branch7x7x3_1",
    "tower_1.conv_1": "branch7x7x3_2",
    "tower_1.conv_2": "branch7x7x3_3",
    "tower_1.conv_3": "branch7x7x3_4",
}
_BLOCK_7 = {
    "conv": "branch1x1",
    "tower_conv": "branch3x3_1",
    "tower_mixed_conv": "branch3x3_2a",
    "tower_mixed_conv_1": "branch3x3_2b",
    "tower_1_conv": "branch3x3dbl_1",
    "tower_1_conv_1": "branch3x3dbl_2",
    "tower_1_mixed_conv": "branch3x3dbl_3a",
    "tower_1_mixed_conv_1": "branch3x3dbl_3b",
    "tower_2_conv": "branch_pool",
}
_BLOCKS = {
    "mixed": ("Mixed_5b", _BLOCK_5),
    "mixed_1": ("Mixed_5c", _BLOCK_5),
    "mixed_2": ("Mixed_5d", _BLOCK_5),
    "mixed_3": ("Mixed_6a", _BLOCK_6A),
    "mixed_4": ("Mixed_6b", _BLOCK_6),
    "mixed_5": ("Mixed_6c", _BLOCK_6),
    "mixed_6": ("Mixed_6d", _BLOCK_6),
    "mixed_7": ("Mixed_6e", _BLOCK_6),
    "mixed_8": ("Mixed_7a", _BLOCK_7A),
    "mixed_9": ("Mixed_7b", _BLOCK_7),
    "mixed_10": ("Mixed_7c", _BLOCK_7),
}
_PARTS = {"weight": "conv.weight", "beta": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}


def graph_names() -> Iterator[tuple[str, str]]:
    """Yield every convolution's name in the graph and in the port."""
    yield from _STEM.items()
    for block, (ported_block, names) in _BLOCKS.items():
        for name, ported in names.items():
            yield f"{block}.{name}", f"{ported_block}.{ported}"


_PORTED = {
    **{
        f"layers.{name}.{part}": f"{ported}.{ported_part}"
        for name, ported in graph_names()
        for part, ported_part in _PARTS.items()
    },
    "output.weight": "fc.weight",
    "output.bias": "fc.bias",
}


def is_graph(names: set[str]) -> bool:
    """Say whether tensors have the names of the graph, all and no others."""
    return names == _PORTED.keys()


def ported(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor | Tensor]:
    """Return the graph's tensors under the port's names; its normalizations have no scale, which is a scale of 1."""
    scales = {
        f"{name}.bn.weight": torch.ones(tensors[f"layers.{graph_name}.beta"].shape)
        for graph_name, name in graph_names()
    }
    return {**{_PORTED[name]: tensor for name, tensor in tensors.items()}, **scales}
