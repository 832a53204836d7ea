"""The training run of a discriminator: its loop, and everything that changes in it.

As in a trial (:mod:`ddo_engine.trial`), randomness is a function of seed and step, and a state is a point between
events: a run that goes on from one repeats exactly the later ones.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ddo_engine.checkpoint import CheckpointManifest, save_checkpoint
from ddo_engine.device import out_of_memory_blames
from ddo_engine.discriminator_loss import DiscriminatorLoss
from ddo_engine.errors import CorruptCheckpoint, Interrupted, NonFiniteLoss
from ddo_engine.events import ProgressReporter
from ddo_engine.families.discriminator.network import Discriminator
from ddo_engine.learning_rate import cosine_learning_rate
from ddo_engine.performance import StepMeter
from ddo_engine.provenance import InputHashes
from ddo_engine.run_context import RunContext
from ddo_engine.schedule import ends_window, passes_multiple_of
from ddo_engine.spec import DiscriminatorSpec, DiscriminatorTraining, FileRole, Metric
from ddo_engine.state import DiagnosticsWindow, below, load_optimizer, optimizer_tensors
from ddo_engine.state_file import SavedState, StateHeader, write_state
from ddo_engine.state_identity import numerics_of
from ddo_engine.version import ENGINE_VERSION

STATE_FILE, DISCRIMINATOR_FILE = "state.safetensors", "discriminator.safetensors"


@dataclass
class DiscriminatorState:
    """Everything that changes.

    Attributes:
        network: In training.
        optimizer: Over its parameters.
        window: Diagnostics not yet reported.
        step: Finished optimizer steps.
    """

    network: Discriminator
    optimizer: torch.optim.Optimizer
    window: DiagnosticsWindow
    step: int = 0

    @classmethod
    def fresh(
        cls, network: Discriminator, training: DiscriminatorTraining, diagnostics: tuple[str, ...]
    ) -> "DiscriminatorState":
        """Return the state at step 0.

        Args:
            network: On the device that trains.
            training: Adam's settings.
            diagnostics: Names of what every step reports besides loss and gradient norm.
        """
        network.requires_grad_(True)
        optimizer = torch.optim.Adam(network.parameters(), lr=training.learning_rate, fused=True)
        names = ("loss", "gradient_norm", *diagnostics)
        device = network.output.weight.device
        window = DiagnosticsWindow(names, torch.zeros(len(names), dtype=torch.float64, device=device))
        return cls(network, optimizer, window)

    def save(self, identity: dict[str, Any], kimg: float) -> SavedState:
        """Return the state as a file holds it; tensors are shared, not copied."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= optimizer_tensors(self.optimizer) | {"window": self.window.sums_K}
        header = StateHeader(
            identity=identity,
            step=self.step,
            kimg=kimg,
            evaluated_step=0,
            best_fid=None,
            window_steps=self.window.num_steps,
            numerics=numerics_of(self.window.sums_K.device),
        )
        return SavedState(header, tensors)

    def restore(self, saved: SavedState) -> None:
        """Take up a saved state in the place of this one.

        Raises:
            CorruptCheckpoint: Its tensors are not those of this network.
        """
        try:
            self.network.load_state_dict(below("network.", saved.tensors), strict=True)
            load_optimizer(self.optimizer, saved.tensors)
            self.window.sums_K.copy_(saved.tensors["window"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CorruptCheckpoint(
                f"the training state's tensors are not those of this discriminator: {error}", param="state"
            ) from error
        self.window.num_steps, self.step = saved.header.window_steps, saved.header.step


@dataclass
class DiscriminatorTrial:
    """A training run of a discriminator, ready to go.

    Attributes:
        spec: What to do.
        context: Where to do it, and whom to tell.
        config: The network's constructor arguments.
        hashes: Of its inputs.
        loss: What a step minimises.
        state: What a step changes.
    """

    spec: DiscriminatorSpec
    context: RunContext
    config: dict[str, Any]
    hashes: InputHashes
    loss: DiscriminatorLoss
    state: DiscriminatorState

    @cached_property
    def meter(self) -> StepMeter:
        """What times the steps."""
        return StepMeter(self.context.device)

    @property
    def kimg(self) -> float:
        """Thousands of real images seen so far."""
        return self.state.step * self.spec.training.batch_size / 1000

    @property
    def identity(self) -> dict[str, Any]:
        """All that the course of the run follows from; only states of the same identity are taken up."""
        settings = self.spec.model_dump(
            mode="json",
            include={"kind", "network", "training", "dataset_reading", "grey_levels", "seed"},
            exclude={"training": {"save_state_every_kimg"}},
        )
        return settings | self.hashes.as_provenance()

    def run(self) -> None:
        """Train to the end from wherever the state is, and write the discriminator.

        Raises:
            Interrupted: A stop was requested; the state is on disk.
            NonFiniteLoss: Loss or gradient is NaN or infinite; nothing was overwritten.
            OutOfMemory: The device ran out of memory.
        """
        training = self.spec.training
        progress = ProgressReporter(self.context.events, "training", training.num_steps * training.batch_size)
        try:
            while True:
                progress.update(self.state.step * training.batch_size)
                if self.state.step == training.num_steps:
                    break
                self.context.check_stop()
                self._step()
        except Interrupted:
            self._save_state()
            raise
        self._save()

    def _step(self) -> None:
        """Take one optimizer step and report what is due."""
        training, state = self.spec.training, self.state
        with self.meter.step_of(training.batch_size), out_of_memory_blames("training.batch_size"):
            values_K = self._optimize()
        state.step += 1
        state.window.add(values_K)
        if ends_window(state.step, training.num_steps):
            means = state.window.take_means()
            values = {name: means[name] for name in ("loss", "gradient_norm")} | self.loss.report(means)
            values["learning_rate"] = self._learning_rate(state.step - 1)
            self.context.events.emit(Metric(step=state.step, kimg=self.kimg, values=values))
            self.context.events.emit(self.meter.take(step=state.step, kimg=self.kimg))
        every = training.save_state_every_kimg
        if every is not None and passes_multiple_of(every, state.step, training.batch_size):
            self._save_state()

    def _optimize(self) -> Tensor:
        """Change the weights; return the step's diagnostics in the order of the window's names, float64."""
        state = self.state
        for group in state.optimizer.param_groups:
            group["lr"] = self._learning_rate(state.step)
        state.optimizer.zero_grad(set_to_none=True)
        loss, counts_K = self.loss(state.network, state.step)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad for parameter in state.network.parameters() if parameter.grad is not None]
        loss = loss.detach()
        values_K = torch.cat([torch.stack([loss, torch.nn.utils.get_total_norm(gradients)]).double(), counts_K])
        # Looked at before the weights are touched: the last good state stays the last good state.
        if not bool(torch.isfinite(values_K).all()):
            what = "the gradient" if math.isfinite(loss.item()) else "the loss"
            raise NonFiniteLoss(
                f"{what} is not finite after {state.step} steps ({self.kimg:g} kimg): the discriminator diverged; "
                "lower training.learning_rate",
                param="training.learning_rate",
            )
        state.optimizer.step()
        return values_K

    def _learning_rate(self, step: int) -> float:
        training = self.spec.training
        return cosine_learning_rate(
            (step + 1) * training.batch_size,
            peak=training.learning_rate,
            warmup_images=0,
            total_images=training.num_steps * training.batch_size,
            final_factor=0,
        )

    def _save_state(self) -> None:
        path = self.context.workdir / STATE_FILE
        write_state(path, self.state.save(self.identity, self.kimg))
        self.context.announce_file(FileRole.STATE, path, kimg=self.kimg)

    def _save(self) -> None:
        """Write the network, with where it comes from."""
        provenance = self.identity | {"kimg": self.kimg, "step": self.state.step, "engine_version": ENGINE_VERSION}
        manifest = CheckpointManifest(family=Discriminator.family, network=self.config, provenance=provenance)
        path = self.context.workdir / DISCRIMINATOR_FILE
        save_checkpoint(path, self.state.network, manifest)
        info = manifest.model_dump(mode="json")
        self.context.announce_file(FileRole.DISCRIMINATOR, path, kimg=self.kimg, info=info)
