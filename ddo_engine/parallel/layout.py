"""How the processes of a run hold what a trial trains: each all of it, or each some rows.

The rest of the engine works on what this process has, tensor by tensor: Adam, averages, clipping and EDM2's norms are
the same on a tensor and on its rows. What needs more is here.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ddo_engine.parallel.ranks import ALONE, Ranks


class Layout(Protocol):
    """Where the weights of a trial, and all that has their shapes, are.

    ``model`` is what a process holds: a module whose parameters are the weights, or rows of them. Whatever is said to
    be summed, agreed on or whole is a meeting, and where weights lie in rows every call of a network is one.
    """

    @property
    def ranks(self) -> Ranks:
        """The processes."""

    @property
    def numerics(self) -> dict[str, str]:
        """What a state's header says of it: sums may be in another order."""

    def network(self, model: nn.Module) -> nn.Module:
        """Return the network that computes with what ``model`` holds, now and after every change of it."""

    def frozen_network(self, model: nn.Module) -> nn.Module:
        """Return one that computes so without gradients; ``model`` never changes."""

    def whole_shape(self, parameter: str) -> tuple[int, ...] | None:
        """Return the shape of a parameter of which this process has but its rows, by name; None for others."""

    def whole(self, model: nn.Module) -> AbstractContextManager[nn.Module]:
        """Return a plain network of the whole weights, in every process, for the time of a block."""

    def own(self, parameter: str, whole: Tensor) -> Tensor:
        """Return what this process holds of a tensor that has a parameter's shape.

        Raises:
            ValueError: It has another shape.
        """

    def in_backward(self) -> AbstractContextManager[None]:
        """Return what makes of an error of any process in the forward and backward passes of a block one of all."""

    def sum_gradients_(self, model: nn.Module, network: nn.Module) -> None:
        """After backward, leave in ``model`` the gradients of the whole batch."""

    def sums(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of 0-dim values that were taken of what this process holds of parameters, by their names."""

    def total_norm(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """Return the norm of all gradients together, 0-dim, from what this process holds of them, by name."""

    def agree_on_overflow_(self, scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> None:
        """Let a scaler that has found an overflow in any process have found it in all."""


@dataclass(frozen=True)
class Replicated:
    """Every process holds everything.

    Attributes:
        ranks: The processes.
    """

    ranks: Ranks = ALONE

    @property
    def numerics(self) -> dict[str, str]:
        """See :attr:`Layout.numerics`: nothing."""
        return {}

    def network(self, model: nn.Module) -> nn.Module:
        """See :meth:`Layout.network`: the same."""
        return model

    def frozen_network(self, model: nn.Module) -> nn.Module:
        """See :meth:`Layout.frozen_network`: the same."""
        return model

    def whole_shape(self, parameter: str) -> None:
        """See :meth:`Layout.whole_shape`: there is none."""
        return

    @contextmanager
    def whole(self, model: nn.Module) -> Iterator[nn.Module]:
        """See :meth:`Layout.whole`: the same."""
        yield model

    def own(self, parameter: str, whole: Tensor) -> Tensor:
        """See :meth:`Layout.own`: all of it."""
        return whole

    def in_backward(self) -> AbstractContextManager[None]:
        """See :meth:`Layout.in_backward`: they meet at its end."""
        return self.ranks.in_step()

    def sum_gradients_(self, model: nn.Module, network: nn.Module) -> None:
        """See :meth:`Layout.sum_gradients_`."""
        self.ranks.sum_gradients_(model.parameters())

    def sums(self, values: Mapping[str, Tensor]) -> Tensor:
        """See :meth:`Layout.sums`."""
        return torch.stack(list(values.values())).sum()

    def total_norm(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """See :meth:`Layout.total_norm`."""
        return torch.nn.utils.get_total_norm(list(gradients.values()))

    def agree_on_overflow_(self, scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> None:
        """See :meth:`Layout.agree_on_overflow_`: they have the same gradients."""
