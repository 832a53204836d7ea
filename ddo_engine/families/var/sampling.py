"""Sampling of tokens, scale by scale, with cached keys and values.

Shapes: B batch, L tokens of all scales, l those of one, V vocabulary; with guidance the network sees 2B rows, the
second half without class.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ddo_engine.errors import NonFiniteLoss
from ddo_engine.families.var.filtering import filtered
from ddo_engine.families.var.noise import RaceNoise
from ddo_engine.families.var.precision import Precision, computing_in
from ddo_engine.families.var.transformer import VAR
from ddo_engine.families.var.transformer_layers import KeyValueCache
from ddo_engine.spec import AutoregressiveSettings


class ScaleByScale:
    """The model's logits for one scale after the other, as tokens are decided on.

    Use: as often as there are scales, :meth:`logits`, then :meth:`accept` with the tokens of that scale.
    """

    def __init__(
        self,
        model: VAR,
        labels_B: Tensor | None,
        num_rows: int,
        guidance_scale: float = 0.0,
        precision: Precision = "float32",
    ) -> None:
        """Start an image per row.

        Args:
            model: With a tokenizer, in eval mode.
            labels_B: int64 class indices on the model's device; None for no class.
            num_rows: B.
            guidance_scale: s; at scale k of K the guidance is ``t = s k / (K - 1)``.
            precision: What the network computes in; the tokenizer always computes in float32.
        """
        self._model = model
        self._precision = precision
        self._tokenizer = model.tokenizer
        self._guidance_scale = guidance_scale
        self._copies = 1 if guidance_scale == 0 else 2
        condition_BC = model.condition(labels_B, num_rows)
        if guidance_scale != 0:
            condition_BC = torch.cat([condition_BC, model.condition(None, num_rows)])
        self._condition_BC = condition_BC
        with self._computing():
            self._modulations = model.modulations(condition_BC)
        self._caches = [KeyValueCache() for _ in self._modulations]
        self._scale = 0
        self._f_hat_BChw: Tensor | None = None
        self._embedded_BlC = model.first_scale(condition_BC)

    def logits(self) -> Tensor:
        """Return the guided logits of the scale at hand, float32, shape (B, l, V).

        Source: arXiv:2404.02905's sampler: ``(1 + t) cond - t uncond``.
        """
        with self._computing():
            logits = self._model.transformed(
                self._embedded_BlC + self._model.places(self._scale, self._scale + 1),
                self._condition_BC,
                self._modulations,
                caches=self._caches,
            )
        if self._copies == 1:
            return logits
        t = self._guidance_scale * self._scale / (len(self._model.patch_nums) - 1)
        with_class, without_class = logits.chunk(2)
        return (1 + t) * with_class - t * without_class

    def accept(self, tokens_Bl: Tensor) -> None:
        """Go on to the next scale, given the tokens of this one."""
        if self._scale < len(self._model.patch_nums) - 1:
            self._f_hat_BChw, inputs = self._tokenizer.next_scale_input(self._f_hat_BChw, tokens_Bl, self._scale)
            with self._computing():
                self._embedded_BlC = self._model.embedded(inputs).repeat(self._copies, 1, 1)
        self._scale += 1

    def _computing(self) -> torch.autocast:
        return computing_in(self._precision, self._condition_BC.device)


@torch.no_grad()
def sample_tokens(
    model: VAR,
    labels_B: Tensor | None,
    noise: RaceNoise,
    num_rows: int,
    sampler: AutoregressiveSettings,
    on_step: Callable[[int], None] | None = None,
    precision: Precision = "float32",
) -> Tensor:
    """Draw the tokens of images.

    Args:
        model: With a tokenizer, in eval mode.
        labels_B: int64 class indices on the model's device; None for no class.
        noise: Of B samples.
        num_rows: B.
        sampler: Guidance, top-k and top-p.
        on_step: Called with the number of finished scales.
        precision: What the network computes in.

    Returns:
        int64, shape (B, L), on the model's device.

    Raises:
        NonFiniteLoss: A logit is NaN or infinite.

    Source: arXiv:2404.02905, section 3.1.
    """
    images = ScaleByScale(model, labels_B, num_rows, sampler.guidance_scale, precision)
    tokens = []
    for scale, num_tokens in enumerate(model.tokens_per_scale):
        logits_BlV = images.logits()
        # A race among NaN has a winner, and nobody would know.
        if not bool(torch.isfinite(logits_BlV).all()):
            raise NonFiniteLoss(
                "the checkpoint gives tokens NaN or infinite logits: its weights are not those of a working model; "
                "use an earlier checkpoint",
                param="checkpoint",
            )
        probabilities = filtered(logits_BlV, top_k=sampler.top_k, top_p=sampler.top_p).softmax(-1)
        race = noise.exponentials(num_tokens, model.vocab_size).to(probabilities.device)
        winners_Bl = (probabilities / race).argmax(-1)
        images.accept(winners_Bl)
        tokens.append(winners_Bl)
        if on_step is not None:
            on_step(scale + 1)
    return torch.cat(tokens, dim=1)
