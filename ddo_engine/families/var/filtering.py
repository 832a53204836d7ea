"""Top-k and top-p: what is left of a distribution over tokens. Shapes: B batch, l tokens, V vocabulary."""

import torch
from torch import Tensor


def filtered(logits_BlV: Tensor, *, top_k: int, top_p: float) -> Tensor:
    """Return the logits with unlikely tokens at -inf: first top-k, then top-p of what top-k has left.

    Args:
        logits_BlV: Before softmax.
        top_k: Drop logits below the k-th largest; 0, or as many as there are, keeps all.
        top_p: Drop, from the unlikeliest on, what together has at most the probability ``1 - top_p``; the likeliest
            stays whatever happens. 0 keeps all.

    Source: arXiv:1904.09751 (top-p); the conventions are those of arXiv:2404.02905's sampler.
    """
    if 0 < top_k < logits_BlV.shape[-1]:
        smallest = logits_BlV.topk(top_k, dim=-1).values[..., -1:]
        logits_BlV = logits_BlV.masked_fill(logits_BlV < smallest, -torch.inf)
    if top_p > 0:
        ascending, order = logits_BlV.sort(dim=-1)
        is_dropped = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
        is_dropped[..., -1] = False
        logits_BlV = logits_BlV.masked_fill(is_dropped.scatter(-1, order, is_dropped), -torch.inf)
    return logits_BlV
