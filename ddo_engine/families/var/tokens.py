"""From images to tokens and back, a few at a time. Shapes: B images, L tokens of each."""

import torch
from torch import Tensor

from ddo_engine.errors import NonFiniteLoss
from ddo_engine.families.var.vqvae import VQVAE

# So many keep each of the full-size decoder's largest activations below 0.7 GB, and the rows of a call the same.
IMAGES_OF_A_TOKENIZER_CALL = 16


def encoded(tokenizer: VQVAE, images_BCHW: Tensor) -> Tensor:
    """Return the tokens of uint8 images, int64, shape (B, L); what are tokens already stay as they are."""
    if images_BCHW.dtype == torch.int64:
        return images_BCHW
    if not len(images_BCHW):
        return torch.empty(0, tokenizer.num_tokens, dtype=torch.int64, device=images_BCHW.device)
    return torch.cat([tokenizer.encode(part) for part in torch.split(images_BCHW, IMAGES_OF_A_TOKENIZER_CALL)])


def decoded(tokenizer: VQVAE, tokens_BL: Tensor) -> Tensor:
    """Return uint8 images on the CPU, a few at a time.

    Raises:
        NonFiniteLoss: A pixel is NaN or infinite.
    """
    return torch.cat([_decoded(tokenizer, part) for part in torch.split(tokens_BL, IMAGES_OF_A_TOKENIZER_CALL)])


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
