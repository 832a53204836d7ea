"""The VAR family as the rest of the engine sees it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ddo_engine.errors import IncompatibleInputs, InvalidSpec
from ddo_engine.families.diffusion.precision import forbid_tf32
from ddo_engine.families.protocol import BlockPlan, LabelledImages, LikelihoodRatios, ObjectiveKind
from ddo_engine.families.var.networks import build_network
from ddo_engine.families.var.noise import RowNoise, SampleNoise
from ddo_engine.families.var.sampling import sample_tokens
from ddo_engine.families.var.tokens import decoded, encoded
from ddo_engine.families.var.transformer import VAR
from ddo_engine.families.var.vqvae import VQVAE
from ddo_engine.spec import AutoregressiveSettings, OnlineReferenceSet, SamplerSettings, TrainingSettings

DROPPED_IN_DDO = 0.5  # share of labels, arXiv:2503.01103, section 5.3

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

    def check_sampler(
        self,
        model: nn.Module,
        guide: nn.Module | None,
        sampler: SamplerSettings,
        discriminator: nn.Module | None = None,
    ) -> None:
        """See :meth:`ddo_engine.families.protocol.Family.check_sampler`."""
        _checked_sampler(_checked(model), guide, discriminator, sampler)

    def check_training(self, model: nn.Module, training: TrainingSettings) -> None:
        """See :meth:`ddo_engine.families.protocol.Family.check_training`."""
        if training.augment_probability > 0:
            raise InvalidSpec(
                "training.augment_probability: EDM's augmentation is for networks with augmentation labels, a VAR has "
                "none; set it to 0",
                param="training.augment_probability",
            )
        has_labels = _checked(model).label_dim > 0
        if training.label_dropout and not has_labels:
            raise InvalidSpec(
                "training.label_dropout: the model is unconditional and has no labels to drop; leave it out",
                param="training.label_dropout",
            )
        if training.unconditional_rows == "mle" and (training.label_dropout == 0 or not has_labels):
            raise InvalidSpec(
                "training.unconditional_rows: no row loses its label: set training.label_dropout, or leave it out",
                param="training.unconditional_rows",
            )

    def with_defaults(self, model: nn.Module, training: TrainingSettings, objective: ObjectiveKind) -> TrainingSettings:
        """See :meth:`ddo_engine.families.protocol.Family.with_defaults`.

        Half of all labels are dropped in DDO (arXiv:2503.01103, section 5.3), else as many as in pretraining; and the
        loss is divided by max(alpha, 1), as in the authors' code.
        """
        var, filled = _checked(model), {}
        if training.label_dropout is None:
            rate = DROPPED_IN_DDO if objective == "ddo" else var.cond_drop_rate
            filled["label_dropout"] = rate if var.label_dim else 0.0
        if training.normalise_by_alpha is None:
            filled["normalise_by_alpha"] = True
        return training.model_copy(update=filled)

    def check_online_reference_set(self, model: nn.Module) -> None:
        """See :meth:`ddo_engine.families.protocol.Family.check_online_reference_set`: a VAR draws in one pass."""

    @torch.no_grad()
    def draw_fakes(
        self,
        reference_model: nn.Module,
        seeds: Sequence[int],
        labels_B: Tensor | None,
        online: OnlineReferenceSet,
        training: TrainingSettings,
    ) -> Tensor:
        """See :meth:`ddo_engine.families.protocol.Family.draw_fakes`: no guidance, no top-k, no top-p."""
        forbid_tf32()
        var = _checked(reference_model)
        noise = RowNoise(seeds, var.head.weight.device)
        labels_B = labels_B if var.label_dim else None
        tokens_BL = sample_tokens(
            var, labels_B, noise, len(seeds), AutoregressiveSettings(), precision=training.precision
        )
        return decoded(var.tokenizer, tokens_BL) if online.decode else tokens_BL

    def constrain_(self, model: nn.Module) -> None:
        """See :meth:`ddo_engine.families.protocol.Family.constrain_`: these weights are free."""

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """See :meth:`ddo_engine.families.protocol.Family.decays`: matrices do, but for embeddings of places.

        Source: VAR's training (https://github.com/FoundationVision/VAR), which leaves out the same.
        """
        return parameter.ndim > 1 and not name.endswith("bias") and not any(part in name for part in _NOT_DECAYING)

    def block_plan(self, model: nn.Module) -> BlockPlan:
        """See :meth:`ddo_engine.families.protocol.Family.block_plan`: at the blocks.

        What the class does to a block, a third of its parameters, is computed for all blocks before the first of them.
        """
        var = _checked(model)
        cuts = [module for block in var.transformer_blocks for module in (block.ada_lin.linear, block)]
        # rows whose label is dropped have no fake
        return BlockPlan(var, cuts, call="logits", of_images=False, rows_vary=True)

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
        discriminator: nn.Module | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """See :meth:`ddo_engine.families.protocol.Family.sample`.

        An unconditional model takes no notice of labels.
        """
        var = _checked(model)
        settings = _checked_sampler(var, guide, discriminator, sampler)
        tokenizer = var.tokenizer
        forbid_tf32()
        noise = SampleNoise(seeds, var.label_dim)
        chosen = noise.labels_B if labels_B is None or var.label_dim == 0 else labels_B
        labels_on_device = None if chosen is None else chosen.to(var.head.weight.device)
        tokens_BL = sample_tokens(var, labels_on_device, noise, len(seeds), settings, on_step)
        return decoded(tokenizer, tokens_BL)

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
        tokenizer, precision, num_real = target.tokenizer, training.precision, len(real.images_BCHW)
        counted = _with_label(fake)
        labels_B = _labels_of(target, real, counted)
        tokens_BL = torch.cat([encoded(tokenizer, batch.images_BCHW) for batch in (real, counted)])
        with torch.no_grad():
            inputs_BLZ = tokenizer.next_scale_inputs(tokens_BL)
            reference_BL = reference.token_log_likelihood(tokens_BL, labels_B, inputs_BLZ, precision=precision)
        target_BL = target.token_log_likelihood(tokens_BL, labels_B, inputs_BLZ, precision=precision)
        ratios_B = (target_BL - reference_BL).sum(1)
        real_B, fake_B = ratios_B[:num_real], ratios_B[num_real:]
        if fake.dropped_B is not None:
            fake_B = fake_B.new_zeros(len(fake.images_BCHW)).masked_scatter(~fake.dropped_B, fake_B)
        return LikelihoodRatios(real_B, fake_B, -reference_BL[:num_real].sum(1))

    def pretraining_loss(
        self, model: nn.Module, real: LabelledImages, training: TrainingSettings, generator: torch.Generator
    ) -> Tensor:
        """See :meth:`ddo_engine.families.protocol.Family.pretraining_loss`: the cross-entropy of all tokens, in nats.

        Labels are dropped with the model's ``cond_drop_rate``, or ``training.label_dropout``, so that guidance keeps
        working; the generator gives one uniform number a row for that.

        Raises:
            IncompatibleInputs: The model has no tokenizer.
            ValueError: A conditional model gets images without labels.
        """
        forbid_tf32()
        var = _checked(model)
        labels_B = _labels_of(var, real)
        if labels_B is not None:
            uniform_B = torch.rand(real.rows.batch_size, generator=generator, device=labels_B.device)
            rate = var.cond_drop_rate if training.label_dropout is None else training.label_dropout
            labels_B = labels_B.masked_fill(real.rows.rows_of(uniform_B) < rate, var.num_classes)
        tokens_BL = encoded(var.tokenizer, real.images_BCHW)
        return -var.token_log_likelihood(tokens_BL, labels_B, precision=training.precision).sum(1)


def _checked(model: nn.Module) -> VAR:
    if not isinstance(model, VAR):
        raise TypeError(f"{type(model).__name__} is not a network that draws images of the family 'var'")
    return model


def _checked_sampler(
    model: VAR, guide: nn.Module | None, discriminator: nn.Module | None, sampler: SamplerSettings
) -> AutoregressiveSettings:
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
    if discriminator is not None:
        raise InvalidSpec(
            "discriminator: it corrects the score of a diffusion model, and a VAR has none: leave it out",
            param="discriminator",
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
    labels = []
    for batch in batches:
        if batch.labels_B is None:
            raise ValueError("the model is class-conditional: real and fake images must have labels")
        dropped_B = batch.dropped_B
        labels.append(batch.labels_B if dropped_B is None else batch.labels_B.masked_fill(dropped_B, model.num_classes))
    return torch.cat(labels)


def _with_label(batch: LabelledImages) -> LabelledImages:
    """Return the rows whose label is not dropped."""
    if batch.dropped_B is None:
        return batch
    kept_B = ~batch.dropped_B
    labels_B = None if batch.labels_B is None else batch.labels_B[kept_B]
    return LabelledImages(batch.images_BCHW[kept_B], labels_B)
