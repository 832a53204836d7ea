"""What ``bench.training_step`` trains: a network at full size, its frozen reference and a batch of noise as images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.full_size import EDM_CIFAR10, built, var_d16
from bench.plain_training import plain_average, plain_diffusion_ratios, plain_loss, plain_var_ratios
from ddo_engine.ema import update_ema
from ddo_engine.families import get_family
from ddo_engine.families.diffusion.denoiser import Denoiser
from ddo_engine.families.diffusion.likelihood import NoiseDraw, draw_noise
from ddo_engine.families.protocol import Family, LabelledImages
from ddo_engine.families.var.transformer import VAR
from ddo_engine.objective import ddo_loss
from ddo_engine.spec import TrainingSettings
from ddo_engine.state import TrainingState

ALPHA, BETA, DECAY = 4.0, 0.02, 0.999
Phases = Mapping[str, Callable[[], object]]  # of a step, in order


@dataclass(frozen=True)
class Subject:
    """A network to be trained, and everything that a step of it needs.

    Attributes:
        family: Of the networks.
        reference: Frozen.
        state: Target, average and Adam, as a trial has them.
        real: B images of noise.
        fake: B others.
        both: All 2B, for maximum likelihood.
        training: Settings of a trial.
        generator: Of noise levels and noise.
    """

    family: Family
    reference: nn.Module
    state: TrainingState
    real: LabelledImages
    fake: LabelledImages
    both: LabelledImages
    training: TrainingSettings
    generator: torch.Generator

    @classmethod
    def of(cls, model: nn.Module, family_name: str, batch_size: int) -> "Subject":
        """Return a trial's networks around ``model``, which is the reference."""
        family = get_family(family_name)
        training = TrainingSettings(
            kimg=1000, batch_size=batch_size, learning_rate=1e-6, ema_half_life_kimg=250, evaluate_every_kimg=50
        )
        device = next(model.parameters()).device
        images = torch.randint(256, _image_shape(model, 2 * batch_size), dtype=torch.uint8)
        both = LabelledImages(images, torch.arange(2 * batch_size) % max(model.label_dim, 1)).to(device)
        real, fake = (
            LabelledImages(both.images_BCHW[rows], None if both.labels_B is None else both.labels_B[rows])
            for rows in (slice(0, batch_size), slice(batch_size, None))
        )
        state = TrainingState.fresh(family, model, training, ())
        generator = torch.Generator(device).manual_seed(0)
        return cls(family, model, state, real, fake, both, training, generator)

    @property
    def target(self) -> nn.Module:
        """The network that learns."""
        return self.state.target_model

    def ddo_loss(self) -> Tensor:
        """Return the engine's loss, the mean over rows."""
        ratios = self.family.log_likelihood_ratios(
            self.target, self.reference, self.real, self.fake, self.training, self.generator
        )
        return ddo_loss(ratios.real_B, ratios.fake_B, alpha=ALPHA, beta=BETA).mean()

    def mle_loss(self) -> Tensor:
        """Return the engine's loss of maximum likelihood on all 2B images, the mean over rows."""
        return self.family.pretraining_loss(self.target, self.both, self.training, self.generator).mean()

    def plain_loss(self) -> Tensor:
        """Return the DDO loss by four separate passes."""
        if isinstance(self.target, VAR) and isinstance(self.reference, VAR):
            ratios = plain_var_ratios(self.target, self.reference, self.real, self.fake)
        else:
            assert isinstance(self.target, Denoiser)
            assert isinstance(self.reference, Denoiser)
            noise = draw_noise(self.real.images_BCHW, self.training.P_mean, self.training.P_std, self.generator)
            ratios = plain_diffusion_ratios(
                self.target, self.reference, self.real, self.fake, noise.t_B, noise.eps_BCHW
            )
        return plain_loss(*ratios, alpha=ALPHA, beta=BETA)

    def ddo_step(self) -> Phases:
        """Return the engine's step."""
        return self._step(self.ddo_loss)

    def mle_step(self) -> Phases:
        """Return the engine's step of maximum likelihood on the same 2B images."""
        return self._step(self.mle_loss)

    def plain_step(self) -> Phases:
        """Return the plain loop's step: torch's own Adam as it comes, and one weight of the average after another."""
        optimizer = torch.optim.Adam(self.target.parameters(), lr=self.training.learning_rate)

        def update() -> None:
            torch.nn.utils.clip_grad_norm_(self.target.parameters(), float("inf"))
            optimizer.step()
            plain_average(self.state.ema_model, self.target, DECAY)

        return self._phases(self.plain_loss, optimizer, update)

    def reference_pass(self) -> Phases:
        """Return a call of the reference on the 2B images, and of nothing else: its inputs are made here."""
        if isinstance(self.reference, VAR):
            var, labels_B = self.reference, self.both.labels_B
            tokens_BL = var.tokenizer.encode(self.both.images_BCHW)
            inputs_BLZ = var.tokenizer.next_scale_inputs(tokens_BL)
            return {"forward": torch.no_grad()(lambda: var.logits(tokens_BL, labels_B, inputs_BLZ))}
        assert isinstance(self.reference, Denoiser)
        denoiser, labels_B = self.reference, self.both.labels_B
        noise: NoiseDraw = draw_noise(self.both.images_BCHW, self.training.P_mean, self.training.P_std, self.generator)
        x_t = self.both.images_BCHW / 127.5 - 1 + noise.t_B[:, None, None, None] * noise.eps_BCHW
        return {"forward": torch.no_grad()(lambda: denoiser.free_form(x_t, noise.t_B, labels_B))}

    def _step(self, loss: Callable[[], Tensor]) -> Phases:
        """Return what a trial does, in its order."""
        state = self.state

        def update() -> None:
            gradients = [parameter.grad for parameter in self.target.parameters() if parameter.grad is not None]
            assert bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients)))
            state.optimizer.step()
            update_ema(state.ema_model, self.target, DECAY)
            self.family.constrain_(self.target)

        return self._phases(loss, state.optimizer, update)

    def _phases(
        self, loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer, update: Callable[[], None]
    ) -> Phases:
        held: list[Tensor] = []

        def forward() -> None:
            optimizer.zero_grad(set_to_none=True)
            held.append(loss())

        return {"forward": forward, "backward": lambda: held.pop().backward(), "update": update}


def _image_shape(model: Any, num_images: int) -> tuple[int, ...]:
    return (num_images, model.img_channels, model.img_resolution, model.img_resolution)


def edm_cifar10(batch_size: int, device: torch.device) -> Subject:
    """Return EDM's network of class-conditional CIFAR-10."""
    return Subject.of(built("edm", EDM_CIFAR10).to(device), "edm", batch_size)


def var_d16_of_fixed_tokens(batch_size: int, device: torch.device) -> Subject:
    """Return VAR-d16; the tokens of its images are looked up, so that no side of a comparison encodes them."""
    model = var_d16().to(device)
    subject = Subject.of(model, "var", batch_size)
    tokens_BL = torch.randint(model.vocab_size, (2 * batch_size, model.num_tokens)).to(device)
    known = {_first_bytes(image): row for image, row in zip(subject.both.images_BCHW, tokens_BL, strict=True)}
    model.tokenizer.encode = lambda images: torch.stack([known[_first_bytes(image)] for image in images])
    return subject


def _first_bytes(image_CHW: Tensor) -> bytes:
    return image_CHW.flatten()[:16].cpu().numpy().tobytes()


SUBJECTS: Mapping[str, tuple[str, Callable[[int, torch.device], Subject], int]] = {
    "edm": ("EDM CIFAR-10", edm_cifar10, 4),
    "var": ("VAR-d16", var_d16_of_fixed_tokens, 1),
}
