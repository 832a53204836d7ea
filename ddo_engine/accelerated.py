"""Other kernels for the same networks: blocks compiled by torch, images with their channels last.

Weights, files and samples know nothing of it: the network that computes in training is a second module around the same
tensors. It may compute with other last bits, so both are settings of a trial and part of its identity. What draws
samples, the average as well as the reference, stays as it is.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddo_engine import compiler
from ddo_engine.errors import InvalidSpec
from ddo_engine.families.protocol import Family
from ddo_engine.parallel.layout import Replicated
from ddo_engine.parallel.ranks import Ranks
from ddo_engine.spec import TrainingSettings

_SIZES_OF_AN_OCTAVE = 4

Call = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Accelerated(Replicated):
    """Every process holds everything, and computes with it by other kernels.

    Attributes:
        family: Of the network.
        compiles: Whether blocks are compiled, each for every shape that it is called with.
        channels_last: Whether images lie in memory with their channels last: what enters a block does.
        on_compiled: Called with the number of blocks that are compiled, and that of all: it takes minutes.
        backend: Of torch.compile.
        compiler: What its kernels are built by, with version; None without.
    """

    family: Family
    compiles: bool = False
    channels_last: bool = False
    on_compiled: Callable[[int, int], None] = field(default=lambda done, total: None)
    backend: str
    compiler: str | None = None

    @property
    def numerics(self) -> dict[str, str]:
        """See :attr:`ddo_engine.parallel.layout.Layout.numerics`: that these are other kernels, the settings say."""
        return {} if self.compiler is None else {"compiler": self.compiler}

    def network(self, model: nn.Module) -> nn.Module:
        """See :meth:`ddo_engine.parallel.layout.Layout.network`: a module of the same parameters."""
        return self._around({id(tensor): tensor for tensor in model.parameters()}, model)

    def frozen_network(self, model: nn.Module) -> nn.Module:
        """See :meth:`ddo_engine.parallel.layout.Layout.frozen_network`.

        Compiled, it computes by the very graphs of the network that learns, or two equal networks would differ in last
        bits and their log-likelihood ratio would not be 0. What these keep for a backward pass is let go at once.
        """
        if not self.compiles:
            return self.network(model)
        network = self._around({id(tensor): nn.Parameter(tensor.detach()) for tensor in model.parameters()}, model)
        plan = self.family.block_plan(network)
        setattr(plan.root, plan.call, _as_if_it_learned(getattr(plan.root, plan.call)))
        return network

    def _around(self, parameters: dict[int, Any], model: nn.Module) -> nn.Module:
        """Return the module that computes, made of a model whose parameters are replaced by these."""
        buffers = {id(tensor): tensor for tensor in model.buffers()}
        network = deepcopy(model, parameters | buffers)
        plan = self.family.block_plan(network)
        inner = {module for block in plan.blocks for module in block.modules() if module is not block}
        blocks = [block for block in plan.blocks if block not in inner]
        for index, block in enumerate(blocks):
            if self.compiles:
                block.forward = self._compiled(block.forward, index, len(blocks))
            if self.channels_last:
                block.forward = _channels_last(block.forward)
        if self.compiles and plan.rows_vary:
            setattr(plan.root, plan.call, _with_few_sizes(getattr(plan.root, plan.call)))
        return network

    def _compiled(self, forward: Call, index: int, num_blocks: int) -> Call:
        compiled = torch.compile(forward, fullgraph=True, dynamic=False, backend=self.backend)
        known: set[torch.Size] = set()

        def reported(x: Tensor, *rest: object) -> object:
            out = compiled(x, *rest)
            if x.shape not in known:
                known.add(x.shape)
                self.on_compiled(index + 1, num_blocks)
            return out

        return reported


def setting_of_kernels(training: TrainingSettings) -> str | None:
    """Return which setting asks for other kernels; None where none does."""
    if training.compile:
        return "training.compile"
    return None if training.memory_format == "contiguous" else "training.memory_format"


def check_kernels(family: Family, model: nn.Module, training: TrainingSettings) -> None:
    """Refuse other kernels for a network that has no blocks, or whose blocks see no images.

    Raises:
        InvalidSpec: Naming the setting.
    """
    asked = setting_of_kernels(training)
    if asked is None:
        return
    try:
        plan = family.block_plan(model)
    except InvalidSpec as error:
        raise InvalidSpec(f"{asked}: {error.message}; leave it out", param=asked) from error
    if training.memory_format == "channels_last" and not plan.of_images:
        raise InvalidSpec(
            f"training.memory_format: a {type(model).__name__} computes with tokens, which have no channels to lie "
            "last; leave it out",
            param="training.memory_format",
        )


def accelerated(
    family: Family,
    device: torch.device,
    training: TrainingSettings,
    ranks: Ranks,
    cache: Path | None,
    on_compiled: Callable[[int, int], None],
) -> Accelerated:
    """Return the layout of a trial that asks for other kernels, once it is known that this machine can make them.

    Args:
        family: Of a network that :func:`check_kernels` does not refuse.
        device: That trains.
        training: The trial's settings.
        ranks: The processes.
        cache: Where later runs find kernels again; None: where torch keeps them.
        on_compiled: See :class:`Accelerated`.

    Raises:
        InvalidSpec: Blocks are to be compiled, and there is no compiler here.
    """
    return Accelerated(
        ranks=ranks,
        family=family,
        compiles=training.compile,
        channels_last=training.memory_format == "channels_last",
        on_compiled=on_compiled,
        backend=compiler.BACKEND,
        compiler=compiler.working_compiler(device, cache) if training.compile else None,
    )


def _as_if_it_learned(call: Call) -> Call:
    def with_graph(*inputs: object) -> Tensor:
        with torch.enable_grad():
            out: Tensor = call(*inputs)
        return out.detach()

    return with_graph


def _channels_last(call: Call) -> Call:
    def with_channels_last(x_BCHW: Tensor, *rest: object) -> object:
        return call(x_BCHW.contiguous(memory_format=torch.channels_last), *rest)

    return with_channels_last


def _with_few_sizes(call: Call) -> Call:
    """Let a network see few numbers of rows, each of which is compiled: the last row is repeated up to the next one."""

    def padded(*inputs: Tensor | None) -> Tensor:
        assert inputs[0] is not None
        num_rows = len(inputs[0])
        size = next_size(num_rows)
        rows = torch.arange(size, device=inputs[0].device).clamp_max(num_rows - 1)
        out: Tensor = call(*(each if each is None or size == num_rows else each[rows] for each in inputs))
        return out[:num_rows]

    return padded


def next_size(num_rows: int) -> int:
    """Return the least of 1 … 8, 10, 12, 14, 16, 20, … that is no less: four in an octave."""
    step = 1 << max(num_rows.bit_length() - _SIZES_OF_AN_OCTAVE.bit_length(), 0)
    return -(-num_rows // step) * step
