"""The VAR family as the rest of the engine sees it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ddo_engine.errors import IncompatibleInputs, InvalidSpec, NonFiniteLoss
from ddo_engine.families.diffusion.precision import forbid_tf32
from ddo_engine.families.protocol import LabelledImages, LikelihoodRatios
from ddo_engine.families.var.networks import build_network
from ddo_engine.families.var.noise import SampleNoise
from ddo_engine.families.var.sampling import sample_tokens
from ddo_engine.families.var.transformer import VAR
from ddo_engine.families.var.vqvae import VQVAE
from ddo_engine.spec import AutoregressiveSettings, SamplerSettings, TrainingSettings

# So many keep each of the full-size decoder's largest activations below 0.7 GB, and the rows of a call the same.
IMAGES_OF_A_TOKENIZER_CALL = 16

_NOT_DECAYING = ("pos_start", "pos_1LC", "lvl_embed", "scale_mul", "ada_gss")


class VARFamily:
    """``VAR``, and its tokenizer ``VQVAE``."""

    name = "var"
    default_sampler: SamplerSettings = AutoregressiveSettings()

    def build(self, config: dict[str, Any]) -> nn.Module:
        """See :meth:`ddo_engine.families.protocol.Family.build`."""
        return build_network(config).eval()

    def attach_autoencoder(self, model: nn.Module, autoencoder: nn.Module) -> None:
        """See :meth:`ddo_engine.families.protocol.Family.attach_autoencoder`."""
        if not isinstance(autoencoder, VQVAE):
            raise IncompatibleInputs(
                f"a {type(autoencoder).__name__} does not turn tokens into pixels: give the VQVAE that the checkpoint "
                "was trained with",
                param="autoencoder",
            )
        _checked(model).attach_tokenizer(autoencoder)

    def check_sampler(self, model: nn.Module, guide: nn.Module | None, sampler: SamplerSettings) -> None:
        """See :meth:`ddo_engine.families.protocol.Family.check_sampler`."""
        _checked_sampler(_checked(model), guide, sampler)

    def check_training(self, model: nn.Module, training: TrainingSettings) -> None:
        """See :meth:`ddo_engine.families.protocol.Family.check_training`."""
        if training.augment_probability > 0:
            raise InvalidSpec(
                "training.augment_probability: EDM's augmentation is for networks with augmentation labels, a VAR has "
                "none; set it to 0",
                param="training.augment_probability",
            )

    def constrain_(self, model: nn.Module) -> None:
        """See :meth:`ddo_engine.families.protocol.Family.constrain_`: these weights are free."""

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """See :meth:`ddo_engine.families.protocol.Family.decays`: matrices do, but for embeddings of places.

        Source: VAR's training (https://github.com/FoundationVision/VAR), which leaves out the same.
        """
        return parameter.ndim > 1 and not name.endswith("bias") and not any(part in name for part in _NOT_DECAYING)

    def draw_labels(self, model: nn.Module, seeds: Sequence[int]) -> Tensor | None:
        """See :meth:`ddo_engine.families.protocol.Family.draw_labels`."""
        return SampleNoise(seeds, _checked(model).label_dim).labels_B

    @torch.no_grad()
    def sample(
        self,
        model: nn.Module,
        seeds: Sequence[int],
        labels_B: Tensor | None,
        sampler: SamplerSettings,
        *,
        guide: nn.Module | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """See :meth:`ddo_engine.families.protocol.Family.sample`.

        An unconditional model takes no notice of labels.
        """
        var = _checked(model)
        settings = _checked_sampler(var, guide, sampler)
        tokenizer = var.tokenizer
        forbid_tf32()
        noise = SampleNoise(seeds, var.label_dim)
        chosen = noise.labels_B if labels_B is None or var.label_dim == 0 else labels_B
        labels_on_device = None if chosen is None else chosen.to(var.head.weight.device)
        tokens_BL = sample_tokens(var, labels_on_device, noise, len(seeds), settings, on_step)
        return torch.cat([_decoded(tokenizer, part) for part in torch.split(tokens_BL, IMAGES_OF_A_TOKENIZER_CALL)])

    def log_likelihood_ratios(
        self,
        target_model: nn.Module,
        reference_model: nn.Module,
        real: LabelledImages,
        fake: LabelledImages,
        training: TrainingSettings,
        generator: torch.Generator,
    ) -> LikelihoodRatios:
        """See :meth:`ddo_engine.families.protocol.Family.log_likelihood_ratios`. Exact; draws nothing.

        The difference is taken token by token: those of whole images are differences of nearly equal sums.

        Raises:
            IncompatibleInputs: The target has no tokenizer.
            ValueError: A conditional model gets images without labels.
        """
        forbid_tf32()
        target, reference = _checked(target_model), _checked(reference_model)
        labels_B = _labels_of(target, real, fake)
        tokens_BL = encoded(target.tokenizer, torch.cat([real.images_BCHW, fake.images_BCHW]))
        with torch.no_grad():
            inputs_BLZ = target.tokenizer.next_scale_inputs(tokens_BL)
            reference_BL = reference.token_log_likelihood(tokens_BL, labels_B, inputs_BLZ)
        target_BL = target.token_log_likelihood(tokens_BL, labels_B, inputs_BLZ)
        ratios_B = (target_BL - reference_BL).sum(1)
        real_B, fake_B = torch.split(ratios_B, [len(real.images_BCHW), len(fake.images_BCHW)])
        return LikelihoodRatios(real_B, fake_B, -reference_BL[: len(real_B)].sum(1))

    def pretraining_loss(
        self, model: nn.Module, real: LabelledImages, training: TrainingSettings, generator: torch.Generator
    ) -> Tensor:
        """See :meth:`ddo_engine.families.protocol.Family.pretraining_loss`: the cross-entropy of all tokens, in nats.

        Labels are dropped with the model's ``cond_drop_rate``, so that guidance keeps working; the generator gives one
        uniform number a row for that.

        Raises:
            IncompatibleInputs: The model has no tokenizer.
            ValueError: A conditional model gets images without labels.
        """
        forbid_tf32()
        var = _checked(model)
        labels_B = _labels_of(var, real)
        if labels_B is not None:
            uniform_B = torch.rand(real.rows.batch_size, generator=generator, device=labels_B.device)
            labels_B = labels_B.masked_fill(real.rows.rows_of(uniform_B) < var.cond_drop_rate, var.num_classes)
        return -var.log_likelihood(encoded(var.tokenizer, real.images_BCHW), labels_B)


def encoded(tokenizer: VQVAE, images_BCHW: Tensor) -> Tensor:
    """Return the tokens of uint8 images, int64, shape (B, L), a few images at a time."""
    return torch.cat([tokenizer.encode(part) for part in torch.split(images_BCHW, IMAGES_OF_A_TOKENIZER_CALL)])


def _checked(model: nn.Module) -> VAR:
    if not isinstance(model, VAR):
        raise TypeError(f"{type(model).__name__} is not a network that draws images of the family 'var'")
    return model


def _checked_sampler(model: VAR, guide: nn.Module | None, sampler: SamplerSettings) -> AutoregressiveSettings:
    if not isinstance(sampler, AutoregressiveSettings):
        raise InvalidSpec(
            f"sampler.kind: {sampler.kind!r} samples diffusion models, this is a VAR; choose 'autoregressive'",
            param="sampler.kind",
        )
    if guide is not None:
        raise InvalidSpec(
            "guide: a VAR is guided by itself without labels, not by another network; leave the guide out and set "
            "sampler.guidance_scale",
            param="guide",
        )
    if sampler.is_guided and model.label_dim == 0:
        raise InvalidSpec(
            "sampler.guidance_scale: the model is unconditional, so there is no class to guide towards; 0 turns "
            "guidance off",
            param="sampler.guidance_scale",
        )
    return sampler


def _labels_of(model: VAR, *batches: LabelledImages) -> Tensor | None:
    if model.label_dim == 0:
        return None
    labels = [batch.labels_B for batch in batches if batch.labels_B is not None]
    if len(labels) < len(batches):
        raise ValueError("the model is class-conditional: real and fake images must have labels")
    return torch.cat(labels)


def _decoded(tokenizer: VQVAE, tokens_BL: Tensor) -> Tensor:
    """Return uint8 images on the CPU, rounded as VAR's sampler does: ``255 (x + 1) / 2``, truncated."""
    pixels_BCHW = tokenizer.decode_unclamped(tokenizer.f_hat(tokens_BL))
    # Clamped and as uint8 they would be black or white, and nobody would know.
    if not bool(torch.isfinite(pixels_BCHW).all()):
        raise NonFiniteLoss(
            "the autoencoder decodes tokens to NaN or infinite pixels: its weights are not those of a working model; "
            "give another autoencoder",
            param="autoencoder",
        )
    return ((pixels_BCHW.clamp(-1, 1) + 1) / 2 * 255).to(torch.uint8).cpu()
