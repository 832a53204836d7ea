"""A diffusion family as the rest of the engine sees it; each has its own networks and little else."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ddo_engine.errors import IncompatibleInputs, InvalidSpec, NonFiniteLoss
from ddo_engine.families.diffusion.denoiser import Denoiser
from ddo_engine.families.diffusion.discriminator_guidance import corrected, discriminator_of
from ddo_engine.families.diffusion.dpm_solver_v3 import StepGrid, dpm_solver_v3
from ddo_engine.families.diffusion.guidance import computing_in, guide_of, guided
from ddo_engine.families.diffusion.heun import heun, noise_levels
from ddo_engine.families.diffusion.likelihood import (
    NoiseDraw,
    compare_at_noise,
    denoising_loss,
    draw_noise,
)
from ddo_engine.families.diffusion.precision import dropout_off, forbid_tf32
from ddo_engine.families.diffusion.space import Autoencoder, LatentSpace
from ddo_engine.families.diffusion.streams import SampleStreams
from ddo_engine.families.diffusion.training_settings import refusal_of_online_fakes, refuse_settings_of_tokens
from ddo_engine.families.protocol import BatchPart, BlockPlan, LabelledImages, LikelihoodRatios, ObjectiveKind
from ddo_engine.spec import (
    AutoregressiveSettings,
    DPMSolverSettings,
    HeunSettings,
    OnlineReferenceSet,
    SamplerSettings,
    TrainingSettings,
)


class DiffusionFamily:
    """Diffusion under EDM's preconditioning, in pixels or latents. Subclasses say what networks they have."""

    name: str
    default_sampler: SamplerSettings = HeunSettings()

    def build(self, config: dict[str, Any]) -> nn.Module:
        """See :meth:`ddo_engine.families.protocol.Family.build`."""
        raise NotImplementedError

    def attach_autoencoder(self, model: nn.Module, autoencoder: nn.Module) -> None:
        """See :meth:`ddo_engine.families.protocol.Family.attach_autoencoder`."""
        denoiser = self._denoiser(model)
        if not isinstance(denoiser.space, LatentSpace):
            raise IncompatibleInputs(
                "the checkpoint works on pixels and needs no autoencoder: leave it out", param="autoencoder"
            )
        if not isinstance(autoencoder, Autoencoder):
            raise IncompatibleInputs(
                f"a {type(autoencoder).__name__} does not turn latents into pixels: give an AutoencoderKL",
                param="autoencoder",
            )
        if autoencoder.latent_channels != denoiser.img_channels:
            raise IncompatibleInputs(
                f"the autoencoder has latents of {autoencoder.latent_channels} channels, the checkpoint of "
                f"{denoiser.img_channels}: give the autoencoder that the checkpoint was trained with",
                param="autoencoder",
            )
        denoiser.space = replace(denoiser.space, autoencoder=autoencoder)

    def check_sampler(
        self,
        model: nn.Module,
        guide: nn.Module | None,
        sampler: SamplerSettings,
        discriminator: nn.Module | None = None,
    ) -> None:
        """See :meth:`ddo_engine.families.protocol.Family.check_sampler`."""
        if isinstance(sampler, AutoregressiveSettings):
            raise InvalidSpec(
                "sampler.kind: 'autoregressive' samples VAR models, this is a diffusion model; "
                "choose 'heun' or 'dpm_solver_v3'",
                param="sampler.kind",
            )
        if isinstance(sampler, DPMSolverSettings):
            StepGrid.of(sampler)
        else:
            noise_levels(sampler)
        guide_of(self._denoiser(model), None if guide is None else self._denoiser(guide), sampler)
        discriminator_of(self._denoiser(model), discriminator, sampler)

    def constrain_(self, model: nn.Module) -> None:
        """See :meth:`ddo_engine.families.protocol.Family.constrain_`: these weights are free."""

    def check_training(self, model: nn.Module, training: TrainingSettings) -> None:
        """See :meth:`ddo_engine.families.protocol.Family.check_training`: these networks know no augmentation."""
        refuse_settings_of_tokens(training)
        if training.augment_probability > 0:
            raise InvalidSpec(
                f"training.augment_probability: networks of the family {self.name!r} cannot be told how their images "
                "were augmented, and would learn to draw augmented ones; set it to 0",
                param="training.augment_probability",
            )

    def with_defaults(self, model: nn.Module, training: TrainingSettings, objective: ObjectiveKind) -> TrainingSettings:
        """See :meth:`ddo_engine.families.protocol.Family.with_defaults`: all labels, and the loss as in the paper."""
        return training.model_copy(
            update={"label_dropout": 0.0, "normalise_by_alpha": bool(training.normalise_by_alpha)}
        )

    def check_online_reference_set(self, model: nn.Module) -> None:
        """See :meth:`ddo_engine.families.protocol.Family.check_online_reference_set`: none of this family does."""
        raise refusal_of_online_fakes()

    def draw_fakes(
        self,
        reference_model: nn.Module,
        seeds: Sequence[int],
        labels_B: Tensor | None,
        online: OnlineReferenceSet,
        training: TrainingSettings,
    ) -> Tensor:
        """See :meth:`ddo_engine.families.protocol.Family.draw_fakes`: refused."""
        raise refusal_of_online_fakes()

    def augment(
        self,
        x0_BCHW: Tensor,
        training: TrainingSettings,
        generator: torch.Generator,
        rows: BatchPart,
        *,
        num_batches: int = 1,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the images to train on and their augmentation labels: here the images, None, and nothing drawn.

        Args:
            x0_BCHW: One or more batches of equal size, one after another, float32.
            training: Which :meth:`check_training` does not refuse.
            generator: On the images' device.
            rows: Which of its batch each batch holds.
            num_batches: So many; row i is augmented alike in all of them.
        """
        return x0_BCHW, None

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """See :meth:`ddo_engine.families.protocol.Family.decays`: matrices and kernels; biases and gains not."""
        return parameter.ndim > 1

    def block_plan(self, model: nn.Module) -> BlockPlan:
        """See :meth:`ddo_engine.families.protocol.Family.block_plan`: refused, unless a family says otherwise."""
        raise InvalidSpec(f"a {type(model).__name__} of the family {self.name!r} has no blocks to cut it at")

    def draw_labels(self, model: nn.Module, seeds: Sequence[int]) -> Tensor | None:
        """See :meth:`ddo_engine.families.protocol.Family.draw_labels`."""
        return _open_streams(self._denoiser(model), seeds)[2]

    @torch.no_grad()
    def sample(
        self,
        model: nn.Module,
        seeds: Sequence[int],
        labels_B: Tensor | None,
        sampler: SamplerSettings,
        *,
        guide: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """See :meth:`ddo_engine.families.protocol.Family.sample`."""
        denoiser = self._denoiser(model)
        x_BCHW = self.sample_in_model_space(
            model, seeds, labels_B, sampler, guide=guide, discriminator=discriminator, on_step=on_step
        )
        # As uint8 they would be black images, and nobody would know.
        if not bool(torch.isfinite(x_BCHW).all()):
            raise NonFiniteLoss(
                "the checkpoint draws images that hold NaN or infinite values: its weights are not those of a working "
                "model; use an earlier checkpoint",
                param="checkpoint",
            )
        return denoiser.space.to_images(x_BCHW).cpu()

    @torch.no_grad()
    def sample_in_model_space(
        self,
        model: nn.Module,
        seeds: Sequence[int],
        labels_B: Tensor | None,
        sampler: SamplerSettings,
        *,
        guide: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Return what :meth:`sample` turns into images: pixels in about [-1, 1], or scaled latents.

        Args and errors: as there.

        Returns:
            float64 or float32, whatever the sampler's state is, shape (B, C, H, W), on the model's device.
        """
        forbid_tf32()
        denoiser = self._denoiser(model)
        guiding = None if guide is None else self._denoiser(guide)
        streams, latents_BCHW, drawn_labels_B = _open_streams(denoiser, seeds)
        device = next(denoiser.parameters()).device
        chosen = labels_B if labels_B is not None else drawn_labels_B
        labels_on_device = None if chosen is None else chosen.to(device)
        networks = [network for network in (denoiser, guiding) if network is not None]
        self.check_sampler(model, guide, sampler, discriminator)
        assert not isinstance(sampler, AutoregressiveSettings)
        denoise = guided(denoiser, guiding, labels_on_device, sampler)
        correcting = discriminator_of(denoiser, discriminator, sampler)
        if correcting is not None:
            denoise = corrected(denoise, correcting, labels_on_device, sampler.discriminator_weight)
        with dropout_off(*networks), computing_in(getattr(torch, sampler.network_dtype), *networks):
            if isinstance(sampler, HeunSettings):
                return heun(
                    denoise,
                    latents_BCHW.to(device),
                    sampler,
                    churn_noise=lambda: streams.normal(latents_BCHW.shape[1:], getattr(torch, sampler.state_dtype)),
                    on_call=on_step,
                )
            return dpm_solver_v3(denoise, latents_BCHW.to(device), sampler, on_call=on_step)

    def log_likelihood_ratios(
        self,
        target_model: nn.Module,
        reference_model: nn.Module,
        real: LabelledImages,
        fake: LabelledImages,
        training: TrainingSettings,
        generator: torch.Generator,
    ) -> LikelihoodRatios:
        """See :meth:`ddo_engine.families.protocol.Family.log_likelihood_ratios`.

        One forward pass of 2B rows per network, both without dropout whatever mode they are in. Randomness, in this
        order: what the model's space draws for real and for fake rows (pixels: nothing); then :meth:`augment`, then
        :func:`ddo_engine.families.diffusion.likelihood.draw_noise`, each for the batch of ``real``.

        Raises:
            InvalidSpec: See :meth:`check_training`.
            ValueError: ``real`` and ``fake`` differ in shape or rows; or a conditional model gets images without
                labels.
        """
        if real.images_BCHW.shape != fake.images_BCHW.shape:
            raise ValueError(
                f"row i of fake shares its noise with row i of real, but their shapes are "
                f"{tuple(fake.images_BCHW.shape)} and {tuple(real.images_BCHW.shape)}"
            )
        rows = real.rows
        if rows != fake.rows:
            raise ValueError(f"real and fake are not the same rows of their batches: {rows} and {fake.rows}")
        forbid_tf32()
        target, reference = self._denoiser(target_model), self._denoiser(reference_model)
        for network in (target, reference):
            self.check_training(network, training)
        x0_BCHW = torch.cat([target.space.to_model(batch, generator) for batch in (real, fake)])
        x0_BCHW, augment_labels_BA = self.augment(x0_BCHW, training, generator, rows, num_batches=2)
        noise = draw_noise(x0_BCHW[: rows.num_rows], training.P_mean, training.P_std, generator, rows)
        labels_B = _labels_of(target, real, fake)
        twice = NoiseDraw(noise.t_B.repeat(2), noise.eps_BCHW.repeat(2, 1, 1, 1), augment_labels_BA)
        with dropout_off(target, reference):
            ratios_B, reference_loss_B = compare_at_noise(target, reference, x0_BCHW, labels_B, twice)
        real_B, fake_B = ratios_B.chunk(2)
        return LikelihoodRatios(real_B, fake_B, reference_loss_B[: rows.num_rows])

    def pretraining_loss(
        self, model: nn.Module, real: LabelledImages, training: TrainingSettings, generator: torch.Generator
    ) -> Tensor:
        """See :meth:`ddo_engine.families.protocol.Family.pretraining_loss`.

        Without dropout, as in the DDO loss: the control differs from DDO in nothing but the loss, and dropout's
        global generator would make a resumed run another run.

        Raises:
            InvalidSpec: See :meth:`check_training`.
            ValueError: A conditional model gets images without labels.
        """
        forbid_tf32()
        denoiser = self._denoiser(model)
        self.check_training(denoiser, training)
        x0_BCHW = denoiser.space.to_model(real, generator)
        x0_BCHW, augment_labels_BA = self.augment(x0_BCHW, training, generator, real.rows)
        noise = draw_noise(x0_BCHW, training.P_mean, training.P_std, generator, real.rows)
        noise = replace(noise, augment_labels_BA=augment_labels_BA)
        with dropout_off(denoiser):
            return self.loss_at_noise(denoiser, x0_BCHW, _labels_of(denoiser, real), noise)

    def loss_at_noise(self, denoiser: Denoiser, x0_BCHW: Tensor, labels_B: Tensor | None, noise: NoiseDraw) -> Tensor:
        """Return what :meth:`pretraining_loss` minimises, once the noise is drawn: EDM's loss unless overridden.

        Args:
            denoiser: Of this family, without dropout.
            x0_BCHW: In the model's space, float32.
            labels_B: int64 class indices; None for an unconditional model.
            noise: For these rows.

        Returns:
            Summed over C·H·W, not averaged, in every family. Shape (B,), float32.
        """
        return denoising_loss(denoiser, x0_BCHW, labels_B, noise)

    def _denoiser(self, model: nn.Module) -> Denoiser:
        if not isinstance(model, Denoiser) or model.family != self.name:
            raise TypeError(f"{type(model).__name__} is not a network of the family {self.name!r}")
        return model


def _labels_of(model: Denoiser, *batches: LabelledImages) -> Tensor | None:
    if model.label_dim == 0:
        return None
    labels = [batch.labels_B for batch in batches if batch.labels_B is not None]
    if len(labels) < len(batches):
        raise ValueError("the model is class-conditional: real and fake images must have labels")
    return torch.cat(labels)


def _open_streams(model: Denoiser, seeds: Sequence[int]) -> tuple[SampleStreams, Tensor, Tensor | None]:
    """Return the streams, past the draws of latents and labels, and those draws."""
    streams = SampleStreams(seeds)
    latents_BCHW = streams.normal((model.img_channels, model.img_resolution, model.img_resolution))
    labels_B = streams.integers(model.label_dim) if model.label_dim else None
    return streams, latents_BCHW, labels_B
