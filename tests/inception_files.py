"""Inception-v3 in the files that it is published in, with the weights of golden 19."""

from pathlib import Path

import pytest
import torch
from torch import nn

from ddo_engine.evaluation.networks.inception_names import graph_names
from tests.numerics.inception_weights import inception_weights


class Layer(nn.Module):
    """A convolution as NVIDIA's file has it: the normalization has no scale."""

    def __init__(self, port_name: str) -> None:
        super().__init__()
        weights = inception_weights()
        self.weight = nn.Parameter(weights[f"{port_name}.conv.weight"])
        for part, port_part in (("beta", "bias"), ("mean", "running_mean"), ("var", "running_var")):
            self.register_buffer(part, weights[f"{port_name}.bn.{port_part}"])
        self.stride = [1, 1]


class Folder(nn.Module):
    """What layers lie in."""


def write_torchscript(path: Path) -> Path:
    """Write the weights as a TorchScript program under the graph's names; its code fails."""
    program, weights = Folder(), inception_weights()
    for name, port_name in graph_names():
        *folders, last = ["layers", *name.split(".")]
        owner: nn.Module = program
        for folder in folders:
            if not hasattr(owner, folder):
                owner.add_module(folder, Folder())
            owner = owner.get_submodule(folder)
        owner.add_module(last, Layer(port_name))
    program.output = nn.Linear(1, 1)
    program.output.weight = nn.Parameter(weights["fc.weight"])
    program.output.bias = nn.Parameter(weights["fc.bias"])
    save_torchscript(program, path)
    return path


def save_torchscript(program: nn.Module, path: Path) -> None:
    with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
        torch.jit.script(program).save(str(path))


def without_scales() -> dict[str, torch.Tensor]:
    """The weights that are left when normalizations have no scale."""
    return {
        name: torch.ones_like(value) if name.endswith("bn.weight") else value
        for name, value in inception_weights().items()
    }
