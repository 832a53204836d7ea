"""Weights in rows over the processes: each is gathered where a block of the network needs it, and let go after it.

The network that learns computes through FSDP2 (torch's ``fully_shard``), forward and backward; its gradients come out
summed, each process's rows. The frozen one needs no more than a hook before and after each block, and FSDP2 would keep
a record of every one of its passes for a backward pass that never comes. Parameters outside of blocks, a percent of the
large networks, and single numbers stay whole everywhere.

Source: arXiv:2304.11277 (sharded data parallelism in PyTorch).
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from ddo_engine.errors import InvalidSpec
from ddo_engine.families.protocol import Family
from ddo_engine.parallel.ranks import Ranks
from ddo_engine.parallel.rows import Rows, rows_of

# Of outputs that are views, which an operation in place could part from their hooks. The networks have none.
warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")


@dataclass(frozen=True)
class Sharded:
    """Every process holds its rows of every block's parameters; see :class:`ddo_engine.parallel.layout.Layout`.

    Attributes:
        ranks: The processes.
        family: Of the network.
        device: That trains.
        skeleton: The whole network, without weights.
        shapes: Of the parameters that lie in rows, whole, by name.
        mesh: The processes as torch's sharding knows them.
    """

    ranks: Ranks
    family: Family
    device: torch.device
    skeleton: nn.Module
    shapes: Mapping[str, tuple[int, ...]]
    mesh: DeviceMesh

    @classmethod
    def of(cls, model: nn.Module, family: Family, ranks: Ranks) -> "Sharded":
        """Cut a whole model, in place, and return the layout that its copies have too.

        Args:
            model: On the device that trains; the same in all processes.
            family: Of the model.
            ranks: The processes.

        Raises:
            InvalidSpec: The family cannot say where to cut the network.
        """
        assert ranks.data is not None
        try:
            blocks = family.block_plan(model).blocks
        except InvalidSpec as error:
            raise InvalidSpec(
                f"--shard-weights (DDO_SHARD_WEIGHTS of a worker): {error.message}; train it without",
                param="shard_weights",
            ) from error
        in_blocks = {id(parameter) for block in blocks for parameter in block.parameters()}
        shapes = {
            name: tuple(parameter.shape)
            for name, parameter in model.named_parameters()
            if id(parameter) in in_blocks and parameter.ndim > 0
        }
        skeleton = _without_weights(model)
        device = next(model.parameters()).device
        for name in shapes:
            parameter = model.get_parameter(name)
            parameter.data = rows_of(parameter.data, ranks).clone()
        mesh = DeviceMesh.from_group(ranks.data, device.type)
        return cls(ranks, family, device, skeleton, shapes, mesh)

    @property
    def numerics(self) -> dict[str, str]:
        """See :attr:`ddo_engine.parallel.layout.Layout.numerics`."""
        return {"weights": "sharded"}

    def network(self, model: nn.Module) -> nn.Module:
        """See :meth:`ddo_engine.parallel.layout.Layout.network`; the model's rows move into memory that is shared."""
        network = deepcopy(self.skeleton)
        plan = self.family.block_plan(network)
        kept = {parameter for name, parameter in network.named_parameters() if name not in self.shapes}
        for block in plan.blocks:
            self._shard_(block, kept)
        self._shard_(plan.root, kept)
        if plan.call != "forward":
            register_fsdp_forward_method(plan.root, plan.call)
        network.to_empty(device=self.device)
        for name, parameter in model.named_parameters():
            if name not in self.shapes:
                _put(network, name, parameter)
                continue
            rows = _rows_in(network.get_parameter(name))
            rows.copy_(parameter.detach())
            parameter.data = rows
            network.get_parameter(name).requires_grad_(parameter.requires_grad)
        for name, buffer in model.named_buffers():
            _put(network, name, buffer)
        return network

    def frozen_network(self, model: nn.Module) -> nn.Module:
        """See :meth:`ddo_engine.parallel.layout.Layout.frozen_network`."""
        network = self._filled(model, lambda rows: rows.own)
        names = {id(parameter): name for name, parameter in network.named_parameters() if name in self.shapes}
        for block in self.family.block_plan(network).blocks:
            # Those of a block inside of this one have come before it.
            found = {id(each): each for each in block.parameters() if id(each) in names}
            rows = {each: Rows(each.data, self.shapes[names.pop(key)], self.ranks) for key, each in found.items()}
            block.register_forward_pre_hook(partial(_gather_, rows))
            block.register_forward_hook(partial(_let_go_, rows))
        return network

    @contextmanager
    def whole(self, model: nn.Module) -> Iterator[nn.Module]:
        """See :meth:`ddo_engine.parallel.layout.Layout.whole`."""
        yield self._filled(model, Rows.whole)

    def whole_shape(self, parameter: str) -> tuple[int, ...] | None:
        """See :meth:`ddo_engine.parallel.layout.Layout.whole_shape`."""
        return self.shapes.get(parameter)

    def own(self, parameter: str, whole: Tensor) -> Tensor:
        """See :meth:`ddo_engine.parallel.layout.Layout.own`.

        Raises:
            ValueError: As there.
        """
        shape = self.shapes.get(parameter)
        if shape is None:
            return whole
        if tuple(whole.shape) != shape:
            raise ValueError(f"{parameter} has shape {tuple(whole.shape)}, not {shape}")
        return rows_of(whole, self.ranks).clone()  # a view would keep the whole in memory

    @contextmanager
    def in_backward(self) -> Iterator[None]:
        """See :meth:`ddo_engine.parallel.layout.Layout.in_backward`.

        Processes meet in every block here. One that has failed comes to no more of them: it ends, and so do the others.
        """
        with self.ranks.in_lockstep():
            yield

    def sum_gradients_(self, model: nn.Module, network: nn.Module) -> None:
        """See :meth:`ddo_engine.parallel.layout.Layout.sum_gradients_`; those of rows are sums already."""
        self.ranks.sum_gradients_(parameter for name, parameter in model.named_parameters() if name not in self.shapes)
        for name in self.shapes:
            sharded, parameter = network.get_parameter(name), model.get_parameter(name)
            parameter.grad = None if sharded.grad is None else _rows_in(sharded.grad)
            sharded.grad = None

    def sums(self, values: Mapping[str, Tensor]) -> Tensor:
        """See :meth:`ddo_engine.parallel.layout.Layout.sums`."""
        of_rows, of_all = (
            [value for name, value in values.items() if (name in self.shapes) is in_rows] for in_rows in (True, False)
        )
        total = self.ranks.sum_(torch.stack(of_rows).sum())
        return total + torch.stack(of_all).sum() if of_all else total

    def total_norm(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """See :meth:`ddo_engine.parallel.layout.Layout.total_norm`."""
        norms = torch._foreach_norm(list(gradients.values()))  # as in torch's own norm of many tensors
        squares = {name: norm.double().square() for name, norm in zip(gradients, norms, strict=True)}
        return self.sums(squares).sqrt().float()

    def agree_on_overflow_(self, scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> None:
        """See :meth:`ddo_engine.parallel.layout.Layout.agree_on_overflow_`."""
        if scaler.is_enabled():
            for found in scaler._found_inf_per_device(optimizer).values():
                self.ranks.most_(found)

    def _filled(self, model: nn.Module, of_rows: Callable[[Rows], Tensor]) -> nn.Module:
        """Return a frozen network of what a model holds, its rows turned into something else."""
        network = deepcopy(self.skeleton)
        for name, parameter in model.named_parameters():
            tensor = parameter.detach()
            if name in self.shapes:
                tensor = of_rows(Rows(tensor, self.shapes[name], self.ranks))
            _put(network, name, nn.Parameter(tensor, requires_grad=False))
        for name, buffer in model.named_buffers():
            _put(network, name, buffer)
        return network

    def _shard_(self, module: nn.Module, kept: set[nn.Parameter]) -> None:
        fully_shard(module, mesh=self.mesh, reshard_after_forward=True, ignored_params=kept)
        assert isinstance(module, FSDPModule)
        # A loss is the sum over all rows divided by their number already: sums of gradients, not means.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)


def _without_weights(model: nn.Module) -> nn.Module:
    """Return a copy whose parameters and buffers have shapes and nothing else."""
    memo: dict[int, Tensor] = {
        id(parameter): nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        for parameter in model.parameters()
    }
    memo |= {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    return deepcopy(model, memo)


def _gather_(rows: Mapping[nn.Parameter, Rows], *_: object) -> None:
    for parameter, own in rows.items():
        parameter.data = own.whole()


def _let_go_(rows: Mapping[nn.Parameter, Rows], *_: object) -> None:
    for parameter, own in rows.items():
        parameter.data = own.own


def _rows_in(tensor: Tensor) -> Tensor:
    """Return this process's part of a sharded tensor: the very memory."""
    assert isinstance(tensor, DTensor)
    with torch.no_grad():
        return tensor.to_local()


def _put(network: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(owner), leaf, tensor)
