"""What ``bench.training_step`` trains: trials of a network at full size whose images are noise in memory."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.full_size import EDM_CIFAR10, built, var_d16
from bench.plain_training import plain_average, plain_diffusion_ratios, plain_loss, plain_var_ratios
from ddo_engine.batches import BatchSource, DataOrder
from ddo_engine.checkpoint import CheckpointManifest, LoadedCheckpoint, info_of
from ddo_engine.data import InMemoryDataset
from ddo_engine.events import EventWriter
from ddo_engine.families import get_family
from ddo_engine.families.diffusion.denoiser import Denoiser
from ddo_engine.families.diffusion.likelihood import draw_noise
from ddo_engine.families.protocol import Family, LabelledImages
from ddo_engine.families.var.tokens import encoded
from ddo_engine.families.var.transformer import VAR
from ddo_engine.interruption import StopRequest
from ddo_engine.online import StoredFakes
from ddo_engine.parallel.layout import Layout, Replicated
from ddo_engine.parallel.ranks import Ranks
from ddo_engine.provenance import InputHashes
from ddo_engine.randomness import generator_for
from ddo_engine.run_context import RunContext
from ddo_engine.spec import DDOObjective, FileRef, MLEObjective, TrainingSettings, TrainSpec
from ddo_engine.state import TrainingState
from ddo_engine.training_loss import DDOTrainingLoss, MLETrainingLoss
from ddo_engine.trial import Trial, diagnostics_of

OBJECTIVE = DDOObjective(alpha=4.0, beta=0.02)
DECAY, SEED = 0.999, 0
REPLICATED = Replicated()
Step = Callable[[], object]


@dataclass(frozen=True)
class Subject:
    """The engine's own trials of a network, and what a plain loop in their place needs.

    Attributes:
        loss: Of the DDO trial.
        ddo: A trial on B real images and B fakes a step; no label is dropped.
        mle: One of maximum likelihood on all 2B images a step. It has the same state, so changes the same weights.
    """

    loss: DDOTrainingLoss
    ddo: Trial
    mle: Trial

    @classmethod
    def of(
        cls,
        model: nn.Module,
        family_name: str,
        batch_size: int,
        images: Callable[[int], Tensor] | None = None,
        layout: Layout = REPLICATED,
    ) -> "Subject":
        """Return the trials around ``model``, which is their base and the reference.

        Args:
            model: On the device that trains.
            family_name: In the registry of families.
            batch_size: B.
            images: Makes so many uint8 images, or int64 tokens; default: pixels of noise.
            layout: Of the model's weights; its processes do the steps together.
        """
        family, device = get_family(family_name), next(model.parameters()).device
        settings = TrainingSettings(
            kimg=1000,
            batch_size=batch_size,
            learning_rate=1e-6,
            ema_half_life_kimg=250,
            evaluate_every_kimg=50,
            label_dropout=0.0,
        )
        training = family.with_defaults(model, settings, "ddo")
        twice = training.model_copy(update={"batch_size": 2 * batch_size})
        both = (images or _noise_for(model))(2 * batch_size)
        labels_2B = torch.arange(2 * batch_size) % model.label_dim if model.label_dim else None

        def batches(rows: slice, stream: str) -> BatchSource:
            dataset = InMemoryDataset(both[rows], None if labels_2B is None else labels_2B[rows])
            return BatchSource(dataset, DataOrder(len(dataset), SEED, stream), len(dataset), device)

        loss = DDOTrainingLoss(
            family,
            layout.frozen_network(model.requires_grad_(requires_grad=False)),
            batches(slice(batch_size), "real"),
            StoredFakes(batches(slice(batch_size, None), "fake")),
            OBJECTIVE,
            training,
            SEED,
        )
        state = TrainingState.fresh(family, model, training, diagnostics_of(training, loss), layout)
        on_all = MLETrainingLoss(family, batches(slice(None), "real"), twice, SEED)
        base = _loaded(model, family)
        specs = (
            _spec(training, objective=OBJECTIVE, reference_set=(FileRef(path="fakes"),)),
            _spec(twice, objective=MLEObjective()),
        )
        ddo, mle = (
            Trial(spec, _nowhere(device, layout.ranks), base, InputHashes("", ""), each, state, None)
            for spec, each in zip(specs, (loss, on_all), strict=True)
        )
        return cls(loss, ddo, mle)

    def computing_by(self, layout: Layout) -> "Subject":
        """Return the same trials, on the same weights and moments, by what another layout computes with."""
        state = replace(self.ddo.state, layout=layout)
        loss = replace(self.loss, reference_model=layout.frozen_network(self.reference))
        ddo = replace(self.ddo, loss=loss, state=state)
        return replace(self, loss=loss, ddo=ddo, mle=replace(self.mle, state=state))

    @property
    def target(self) -> nn.Module:
        """The network that learns."""
        return self.ddo.state.target_model

    @property
    def reference(self) -> nn.Module:
        """The frozen one."""
        return self.loss.reference_model

    def ddo_step(self) -> Step:
        """Return the engine's step."""
        return self.ddo.advance

    def mle_step(self) -> Step:
        """Return the engine's step of maximum likelihood on the same 2B images."""
        return self.mle.advance

    def mle_loss(self) -> Tensor:
        """Return the loss of that step, the mean over rows."""
        return self.mle.loss(self.target, 0, range(self.mle.spec.training.batch_size))[:, 0].mean()

    def plain_loss(self) -> Tensor:
        """Return the DDO loss by four separate passes, on the images and the noise that the engine's step has."""
        step, training = self.ddo.state.step, self.loss.training
        real = self.loss.real.batch(step, range(training.batch_size))
        fake = self.loss.fake.beside(real, step)
        if isinstance(self.target, VAR) and isinstance(self.reference, VAR):
            ratios = plain_var_ratios(self.target, self.reference, real, fake)
        else:
            assert isinstance(self.target, Denoiser)
            assert isinstance(self.reference, Denoiser)
            generator = generator_for(self.loss.real.device, SEED, "noise", step)
            noise = draw_noise(real.images_BCHW, training.P_mean, training.P_std, generator)
            ratios = plain_diffusion_ratios(self.target, self.reference, real, fake, noise.t_B, noise.eps_BCHW)
        assert isinstance(OBJECTIVE.beta, float)
        loss = plain_loss(*ratios, alpha=OBJECTIVE.alpha, beta=OBJECTIVE.beta)
        return loss / max(OBJECTIVE.alpha, 1.0) if training.normalise_by_alpha else loss

    def plain_step(self) -> Step:
        """Return the plain loop's step: torch's own Adam as it comes, and one weight of the average after another."""
        optimizer = torch.optim.Adam(self.target.parameters(), lr=self.loss.training.learning_rate)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            self.plain_loss().backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.target.parameters(), float("inf"))
            optimizer.step()
            plain_average(self.ddo.state.ema_model, self.target, DECAY)

        return step

    def reference_pass(self) -> Step:
        """Return a call of the reference on the 2B images, and of nothing else: its inputs are made here."""
        both = self._both()
        if isinstance(self.reference, VAR):
            var = self.reference
            tokens_BL = encoded(var.tokenizer, both.images_BCHW)
            inputs_BLZ = var.tokenizer.next_scale_inputs(tokens_BL)
            return torch.no_grad()(lambda: var.logits(tokens_BL, both.labels_B, inputs_BLZ))
        assert isinstance(self.reference, Denoiser)
        denoiser, training = self.reference, self.loss.training
        generator = generator_for(self.loss.real.device, SEED, "noise", 0)
        noise = draw_noise(both.images_BCHW, training.P_mean, training.P_std, generator)
        x_t = both.images_BCHW / 127.5 - 1 + noise.t_B[:, None, None, None] * noise.eps_BCHW
        return torch.no_grad()(lambda: denoiser.free_form(x_t, noise.t_B, both.labels_B))

    def _both(self) -> LabelledImages:
        loss = self.mle.loss
        assert isinstance(loss, MLETrainingLoss)
        return loss.real.batch(0, range(loss.real.batch_size))


def _loaded(model: nn.Module, family: Family) -> LoadedCheckpoint:
    manifest = CheckpointManifest(family=family.name, network={"class_name": type(model).__name__})
    return LoadedCheckpoint(model, family, manifest, info_of(manifest, model))


def _spec(training: TrainingSettings, **own: object) -> TrainSpec:
    """Return the spec of a trial whose files nobody opens."""
    task = {"checkpoint": FileRef(path="base"), "dataset": FileRef(path="data"), "training": training, "seed": SEED}
    return TrainSpec.model_validate(task | own)


def _nowhere(device: torch.device, ranks: Ranks) -> RunContext:
    return RunContext(Path(), device, EventWriter(io.StringIO()), StopRequest(), ranks=ranks)


def _noise_for(model: Any) -> Callable[[int], Tensor]:
    shape = (model.img_channels, model.img_resolution, model.img_resolution)
    return lambda count: torch.randint(256, (count, *shape), dtype=torch.uint8)


def edm_cifar10(batch_size: int, device: torch.device) -> Subject:
    """Return EDM's network of class-conditional CIFAR-10."""
    return Subject.of(built("edm", EDM_CIFAR10).to(device), "edm", batch_size)


def var_d16_of_fixed_tokens(batch_size: int, device: torch.device) -> Subject:
    """Return VAR-d16; its dataset and its fakes are tokens, so that no side of a comparison encodes any."""
    model = var_d16().to(device)
    return Subject.of(model, "var", batch_size, tokens_of(model))


def tokens_of(model: VAR) -> Callable[[int], Tensor]:
    """Return what makes so many random token maps of a model."""
    return lambda count: torch.randint(model.vocab_size, (count, model.num_tokens))


SUBJECTS: Mapping[str, tuple[str, Callable[[int, torch.device], Subject], int]] = {
    "edm": ("EDM CIFAR-10", edm_cifar10, 4),
    "var": ("VAR-d16", var_d16_of_fixed_tokens, 1),
}
