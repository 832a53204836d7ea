"""VAR: an autoregressive transformer over the scales of a token pyramid.

Shapes: B batch, L tokens of all scales, l those of one, C embedding, V vocabulary, Z channels of the tokenizer's
features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ddo_engine.errors import CorruptCheckpoint, IncompatibleInputs
from ddo_engine.families.var.initialisation import initialise_
from ddo_engine.families.var.precision import Precision, computing_in
from ddo_engine.families.var.transformer_layers import Block, HeadNorm, KeyValueCache
from ddo_engine.families.var.vqvae import VQVAE


@dataclass(frozen=True)
class SharedTokenizer:
    """A tokenizer that belongs to no model: not to its parameters, not to its state dict, not to its copies."""

    vqvae: VQVAE | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "SharedTokenizer":
        """Copies of a model share the tokenizer, which nothing changes."""
        return self


class VAR(nn.Module):
    """Next-scale prediction: all tokens of a scale at once, given all coarser scales and the class.

    Nothing in it is random, in training mode neither: dropped labels are labels that the caller gives, and drop-path
    is never applied, since it would turn log-likelihood ratios into noise.

    Args:
        num_classes: Classes; 0 for an unconditional model.
        depth: Blocks.
        embed_dim: C.
        num_heads: Attention heads.
        patch_nums: Side of each scale's token map.
        vocab_size: V, of its tokenizer.
        z_channels: Z, of its tokenizer.
        mlp_ratio: Width of the feed-forward layers in units of C.
        norm_eps: Of the layer norms.
        cond_drop_rate: Share of labels that pretraining drops.
        drop_path_rate: Of the official pretraining. Part of a checkpoint's description, and of no effect.

    Attributes:
        label_dim: ``num_classes``.
        num_tokens: L.

    Source: arXiv:2404.02905, section 3.3.
    """

    family: ClassVar[str] = "var"
    works_on: ClassVar[Literal["tokens"]] = "tokens"

    lvl_1L: Tensor
    attn_bias_for_masking: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        depth: int,
        embed_dim: int,
        num_heads: int,
        patch_nums: Sequence[int],
        vocab_size: int,
        z_channels: int,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-6,
        cond_drop_rate: float = 0.1,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.label_dim = num_classes
        self.patch_nums = tuple(patch_nums)
        self.tokens_per_scale = [side**2 for side in self.patch_nums]
        self.num_tokens = sum(self.tokens_per_scale)
        self.vocab_size = vocab_size
        self.z_channels = z_channels
        self.cond_drop_rate = cond_drop_rate
        self.drop_path_rate = drop_path_rate
        self._shared = SharedTokenizer()

        self.word_embed = nn.Linear(z_channels, embed_dim)
        self.class_emb = nn.Embedding(num_classes + 1, embed_dim)
        self.pos_start = nn.Parameter(torch.empty(1, self.tokens_per_scale[0], embed_dim))
        self.pos_1LC = nn.Parameter(torch.empty(1, self.num_tokens, embed_dim))
        self.lvl_embed = nn.Embedding(len(self.patch_nums), embed_dim)
        scales_1L = _scale_of_token(self.tokens_per_scale)
        self.register_buffer("lvl_1L", scales_1L)
        self.register_buffer("attn_bias_for_masking", _block_causal_bias(scales_1L))
        hidden_dim = round(embed_dim * mlp_ratio)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, hidden_dim, norm_eps) for _ in range(depth))
        self.head_nm = HeadNorm(embed_dim, norm_eps)
        self.head = nn.Linear(embed_dim, vocab_size)
        initialise_(
            embed_dim,
            [self.pos_start, self.pos_1LC],
            [self.word_embed, self.class_emb, self.lvl_embed, self.head],
            self.transformer_blocks,
            self.head_nm,
        )
        self.register_load_state_dict_post_hook(_require_buffers_of_the_architecture)  # type: ignore[no-untyped-call]

    @property
    def tokenizer(self) -> VQVAE:
        """The attached tokenizer.

        Raises:
            IncompatibleInputs: There is none.
        """
        if self._shared.vqvae is None:
            raise IncompatibleInputs(
                "the checkpoint draws tokens, and nothing says what they stand for: give the VQVAE that it was trained "
                "with as the autoencoder, or call attach_tokenizer",
                param="autoencoder",
            )
        return self._shared.vqvae

    def attach_tokenizer(self, vqvae: VQVAE) -> None:
        """Use this tokenizer, on the model's device, from now on; copies of the model share it.

        Raises:
            IncompatibleInputs: Its tokens are not those of this model.
        """
        for name in ("patch_nums", "vocab_size", "z_channels"):
            theirs, ours = getattr(vqvae, name), getattr(self, name)
            if theirs != ours:
                raise IncompatibleInputs(
                    f"the autoencoder has {name} {theirs}, the checkpoint {ours}: give the VQVAE that the checkpoint "
                    "was trained with",
                    param="autoencoder",
                )
        self._shared = SharedTokenizer(vqvae)

    @property
    def img_resolution(self) -> int:
        """Pixels a side with a tokenizer, tokens a side of the finest scale without."""
        vqvae = self._shared.vqvae
        return self.patch_nums[-1] if vqvae is None else vqvae.img_resolution

    @property
    def img_channels(self) -> int:
        """Of the pixels with a tokenizer, of its features without."""
        vqvae = self._shared.vqvae
        return self.z_channels if vqvae is None else vqvae.img_channels

    @property
    def transformer_blocks(self) -> list[Block]:
        """Its blocks, in the order of their calls."""
        return [block for block in self.blocks if isinstance(block, Block)]

    def logits(
        self, tokens_BL: Tensor, labels_B: Tensor | Sequence[int] | None = None, inputs_BLZ: Tensor | None = None
    ) -> Tensor:
        """Return the logits of every token, given all tokens of coarser scales (teacher forcing).

        Args:
            tokens_BL: int64, all scales one after the other, as the tokenizer encodes them.
            labels_B: Class indices, integers; ``num_classes``, or None for all rows, stands for no class.
            inputs_BLZ: ``tokenizer.next_scale_inputs(tokens_BL)``, where the caller has it already.

        Returns:
            float32 (float64 of a float64 model), shape (B, L, V).

        Raises:
            IncompatibleInputs: No tokenizer is attached, and no inputs are given.
            ValueError: Tokens or labels are not this model's.
        """
        if inputs_BLZ is None:
            with torch.no_grad():
                inputs_BLZ = self.tokenizer.next_scale_inputs(tokens_BL)
        condition_BC = self.condition(labels_B, len(tokens_BL))
        x = torch.cat([self.first_scale(condition_BC), self.embedded(inputs_BLZ)], dim=1)
        x = x + self.places(0, len(self.patch_nums))
        return self.transformed(x, condition_BC, self.modulations(condition_BC), bias_11LL=self.attn_bias_for_masking)

    def forward(
        self, tokens_BL: Tensor, labels_B: Tensor | Sequence[int] | None = None, inputs_BLZ: Tensor | None = None
    ) -> Tensor:
        """Same as :meth:`logits`."""
        return self.logits(tokens_BL, labels_B, inputs_BLZ)

    def token_log_likelihood(
        self,
        tokens_BL: Tensor,
        labels_B: Tensor | Sequence[int] | None = None,
        inputs_BLZ: Tensor | None = None,
        *,
        precision: Precision = "float32",
    ) -> Tensor:
        """Return the log-likelihood of each token in nats, float32 or wider, shape (B, L).

        Arguments and errors as in :meth:`logits`; ``precision`` is the network's, not the tokenizer's nor that of the
        softmax.
        """
        if inputs_BLZ is None:
            with torch.no_grad():
                inputs_BLZ = self.tokenizer.next_scale_inputs(tokens_BL)
        with computing_in(precision, tokens_BL.device):
            logits_BLV = self.logits(tokens_BL, labels_B, inputs_BLZ)
        # By rows: the kernel for (B, V, L) has no deterministic form on every device.
        return -functional.cross_entropy(logits_BLV.flatten(0, 1), tokens_BL.flatten(), reduction="none").reshape(
            tokens_BL.shape
        )

    def log_likelihood(
        self, tokens_BL: Tensor, labels_B: Tensor | Sequence[int] | None = None, inputs_BLZ: Tensor | None = None
    ) -> Tensor:
        """Return ``log p(tokens | label)`` in nats, summed over all tokens: float32 or wider, shape (B,).

        Arguments and errors as in :meth:`logits`.

        Source: arXiv:2503.01103, eq. 1.
        """
        return self.token_log_likelihood(tokens_BL, labels_B, inputs_BLZ).sum(1)

    def condition(self, labels_B: Tensor | Sequence[int] | None, num_rows: int) -> Tensor:
        """Return the embedding of classes, shape (B, C). Labels and errors as in :meth:`logits`."""
        if labels_B is None:
            labels_B = torch.full((num_rows,), self.num_classes)
        labels_B = torch.as_tensor(labels_B).to(self.class_emb.weight.device)
        if labels_B.shape != (num_rows,) or labels_B.is_floating_point():
            raise ValueError(
                f"labels must be integers of shape ({num_rows},), not {labels_B.dtype} of {tuple(labels_B.shape)}"
            )
        if not bool(((labels_B >= 0) & (labels_B <= self.num_classes)).all()):
            raise ValueError(f"labels must lie in 0 … {self.num_classes}, which stands for no class")
        embedding: Tensor = self.class_emb(labels_B.to(torch.int64))
        return embedding

    def first_scale(self, condition_BC: Tensor) -> Tensor:
        """Return the first scale's embeddings, which know nothing but the class: (B, l, C)."""
        return condition_BC[:, None] + self.pos_start

    def embedded(self, inputs_BLZ: Tensor) -> Tensor:
        """Return the embeddings of what the tokenizer makes of coarser scales: (B, l, C)."""
        embedding: Tensor = self.word_embed(inputs_BLZ.to(self.word_embed.weight.dtype))
        return embedding

    def places(self, first_scale: int, last_scale: int) -> Tensor:
        """Return what is added to the tokens of scales ``first_scale`` … ``last_scale - 1``: (1, l, C)."""
        start, end = (sum(self.tokens_per_scale[:scale]) for scale in (first_scale, last_scale))
        places: Tensor = self.lvl_embed(self.lvl_1L[:, start:end]) + self.pos_1LC[:, start:end]
        return places

    def modulations(self, condition_BC: Tensor) -> list[Tensor]:
        """Return how the class modulates each block, (6, B, 1, C) each."""
        return [block.ada_lin(condition_BC) for block in self.transformer_blocks]

    def transformed(
        self,
        x_BLC: Tensor,
        condition_BC: Tensor,
        modulations: Sequence[Tensor],
        *,
        bias_11LL: Tensor | None = None,
        caches: Sequence[KeyValueCache] | None = None,
    ) -> Tensor:
        """Return the logits of embedded tokens: float32 or wider, shape (B, L, V).

        Args:
            x_BLC: The embeddings, places included.
            condition_BC: From :meth:`condition`.
            modulations: From :meth:`modulations`.
            bias_11LL: What hides finer scales from coarser ones, where several are computed at once.
            caches: One a block, where the scales come one at a time.
        """
        for index, block in enumerate(self.blocks):
            x_BLC = block(x_BLC, modulations[index], bias_11LL, None if caches is None else caches[index])
        logits: Tensor = self.head(self.head_nm(x_BLC, condition_BC))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _scale_of_token(tokens_per_scale: Sequence[int]) -> Tensor:
    return torch.cat([torch.full((1, count), scale) for scale, count in enumerate(tokens_per_scale)], dim=1)


def _block_causal_bias(scales_1L: Tensor) -> Tensor:
    """Return 0 where the token of a row may see the token of a column, -inf where that one is of a finer scale."""
    is_finer_LL = scales_1L.transpose(0, 1) < scales_1L
    return torch.zeros_like(is_finer_LL, dtype=torch.float32).masked_fill(is_finer_LL, -torch.inf)[None, None]


def _require_buffers_of_the_architecture(model: nn.Module, _: Any) -> None:
    """Refuse a file whose buffers are not what the architecture says: they decide which tokens see which."""
    assert isinstance(model, VAR)
    if model.lvl_1L.is_meta:
        return
    scales_1L = _scale_of_token(model.tokens_per_scale).to(model.lvl_1L.device)
    expected = {"lvl_1L": scales_1L, "attn_bias_for_masking": _block_causal_bias(scales_1L)}
    found = dict(model.named_buffers())
    wrong = [name for name, buffer in expected.items() if not bool((found[name] == buffer).all())]
    wrong += [name for name, buffer in found.items() if name.endswith("zero_k_bias") and bool(buffer.any())]
    if wrong:
        raise CorruptCheckpoint(
            f"{wrong[0]} in the checkpoint is not what a VAR of patch_nums {list(model.patch_nums)} has there: the "
            "file is damaged, or of another architecture; export it again with the configuration it was trained with"
        )
