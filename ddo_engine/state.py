"""Everything that changes while a trial runs, and how it is laid down and taken up again, to the bit."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ddo_engine.alarms import Alarms
from ddo_engine.errors import CorruptCheckpoint
from ddo_engine.families.protocol import Family
from ddo_engine.loss_scale import make_loss_scaler
from ddo_engine.optimization import make_optimizer
from ddo_engine.parallel.layout import Layout, Replicated
from ddo_engine.spec import TrainingSettings
from ddo_engine.state_file import SavedState, StateHeader
from ddo_engine.state_identity import numerics_of


@dataclass
class DiagnosticsWindow:
    """Sums of diagnostics since the last report, on the device and in float64.

    Attributes:
        names: What is summed, in order.
        sums_K: One sum per name.
        num_steps: Steps in the sums.
    """

    names: tuple[str, ...]
    sums_K: Tensor
    num_steps: int = 0

    def add(self, values_K: Tensor) -> None:
        """Add one step's values, in the order of the names."""
        self.sums_K += values_K
        self.num_steps += 1

    def take_means(self) -> dict[str, float]:
        """Return the means and start a new window."""
        means = (self.sums_K / self.num_steps).tolist()
        self.sums_K, self.num_steps = torch.zeros_like(self.sums_K), 0
        return dict(zip(self.names, means, strict=True))


@dataclass
class TrainingState:
    """What a trial changes. The reference model is no part of it.

    Models are what this process holds of them (:class:`ddo_engine.parallel.layout.Layout`).

    Attributes:
        target_model: The model being trained.
        ema_model: Average of its weights, which is what gets evaluated and published.
        snapshots: Averages by power function beside it, by their length, for reconstruction.
        optimizer: Over the target's parameters.
        window: Diagnostics not yet reported.
        step: Finished optimizer steps.
        evaluated_step: Step of the last finished evaluation; 0 before the first.
        evaluated_scales: How many guidance scales the evaluation that is due has done already.
        best_fid: Lowest FID so far, of those that rank.
        best_step: The step that it is of, whose checkpoint was kept; 0 before the first.
        beta: What the probe found for the objective's beta 'auto'; None otherwise.
        alarms: What was said of the run.
        loss_scaler: Scales the loss in float16; does nothing otherwise.
        layout: Where the weights are.
        network: Computes with the target's weights.
    """

    target_model: nn.Module
    ema_model: nn.Module
    optimizer: torch.optim.Optimizer
    window: DiagnosticsWindow
    step: int = 0
    evaluated_step: int = 0
    evaluated_scales: int = 0
    best_fid: float | None = field(default=None)
    best_step: int = 0
    snapshots: dict[float, nn.Module] = field(default_factory=dict)
    beta: float | None = None
    alarms: Alarms = field(default_factory=Alarms)
    loss_scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler("cpu", enabled=False))
    layout: Layout = field(default_factory=Replicated)
    network: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        self.network = self.layout.network(self.target_model)

    @classmethod
    def fresh(
        cls,
        family: Family,
        base_model: nn.Module,
        training: TrainingSettings,
        diagnostics: tuple[str, ...],
        layout: Layout | None = None,
    ) -> "TrainingState":
        """Return the state at step 0: target and EMA are copies of the base.

        Args:
            family: Of the base.
            base_model: In eval mode, which both copies keep: no dropout (arXiv:2503.01103, appendix C).
            training: Adam's settings.
            diagnostics: Names of what every step reports.
            layout: Of the base, and so of the copies; None: every process holds them whole.
        """
        target_model = deepcopy(base_model).requires_grad_(True)
        device = next(target_model.parameters()).device
        return cls(
            target_model=target_model,
            ema_model=deepcopy(base_model).requires_grad_(False),
            snapshots={std: deepcopy(base_model).requires_grad_(False) for std in training.ema_snapshot_stds},
            optimizer=make_optimizer(family, target_model, training),
            window=DiagnosticsWindow(diagnostics, torch.zeros(len(diagnostics), dtype=torch.float64, device=device)),
            loss_scaler=make_loss_scaler(training, device),
            layout=layout or Replicated(),
        )

    def save(self, identity: dict[str, Any], kimg: float) -> SavedState:
        """Return the state as a file holds it; tensors are shared, not copied."""
        tensors = {
            f"{prefix}{name}": tensor
            for prefix, model in self._models().items()
            for name, tensor in model.state_dict().items()
        }
        tensors |= optimizer_tensors(self.optimizer)
        tensors["window"] = self.window.sums_K
        shapes = {
            name: self.layout.whole_shape(self._parameter_behind(name))
            for name, tensor in tensors.items()
            if tensor.ndim > 0
        }
        header = StateHeader(
            identity=identity,
            step=self.step,
            kimg=kimg,
            evaluated_step=self.evaluated_step,
            evaluated_scales=self.evaluated_scales,
            best_fid=self.best_fid,
            best_step=self.best_step,
            window_steps=self.window.num_steps,
            beta=self.beta,
            warnings_raised=self.alarms.raised,
            saturated_windows=self.alarms.saturated_windows,
            loss_scale=self.loss_scaler.state_dict(),
            numerics=numerics_of(self.window.sums_K.device, self.layout),
        )
        return SavedState(header, tensors, {name: shape for name, shape in shapes.items() if shape is not None})

    def restore(self, saved: SavedState) -> None:
        """Take up a saved state in the place of this one.

        Raises:
            CorruptCheckpoint: Its tensors are not those of this model.
        """
        try:
            for prefix, model in self._models().items():
                own = self._own(prefix, saved)
                model.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in own.items()}, strict=True)
            load_optimizer(self.optimizer, self._own("optimizer.", saved))
            self.window.sums_K.copy_(saved.tensors["window"])
        except (RuntimeError, ValueError, LookupError) as error:
            raise CorruptCheckpoint(
                f"the training state's tensors are not those of this model: {error}", param="state"
            ) from error
        header = saved.header
        self.window.num_steps = header.window_steps
        self.step = header.step
        self.evaluated_step, self.evaluated_scales = header.evaluated_step, header.evaluated_scales
        self.best_fid, self.best_step = header.best_fid, header.best_step
        if header.loss_scale:
            self.loss_scaler.load_state_dict(dict(header.loss_scale))
        self.beta, self.alarms = header.beta, Alarms(header.warnings_raised, header.saturated_windows)

    def _models(self) -> dict[str, nn.Module]:
        """Return the models by what their tensors' names start with in a state file."""
        snapshots = {f"snapshot.{index}.": snapshot for index, snapshot in enumerate(self.snapshots.values())}
        return {"target.": self.target_model, "ema.": self.ema_model} | snapshots

    def _own(self, prefix: str, saved: SavedState) -> dict[str, Tensor]:
        """Return what this process holds of the tensors whose names start so, read one after the other."""
        own: dict[str, Tensor] = {}
        for name in saved.tensors:
            if name.startswith(prefix):
                tensor = saved.tensors[name]
                own[name] = self.layout.own(self._parameter_behind(name), tensor) if tensor.ndim > 0 else tensor
        return own

    def _parameter_behind(self, name: str) -> str:
        """Return the name of the parameter whose shape a tensor in a state file has; something else of others."""
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            return self._in_optimizer[int(rest.partition(".")[0])]
        return rest.partition(".")[2] if kind == "snapshot" else rest

    @cached_property
    def _in_optimizer(self) -> list[str]:
        """Names of the parameters in the optimizer's order."""
        names = {id(parameter): name for name, parameter in self.target_model.named_parameters()}
        return [names[id(parameter)] for group in self.optimizer.param_groups for parameter in group["params"]]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the moments of an optimizer as a state file names them."""
    moments = optimizer.state_dict()["state"]
    return {f"optimizer.{index}.{name}": tensor for index, own in moments.items() for name, tensor in own.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Take up the moments that :func:`optimizer_tensors` named; the groups stay as they are.

    Raises:
        ValueError: They are not those of the optimizer's parameters.
    """
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in below("optimizer.", tensors).items():
        index, moment = name.split(".")
        moments.setdefault(int(index), {})[moment] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names start so, under the rest of their names."""
    return {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}
