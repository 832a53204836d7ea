"""The tokenizer at full size, and the transformer at the width of d16 with four of its blocks."""

import numpy as np
import pytest
import torch

from ddo_engine.families import get_family
from tests.numerics.golden import arrays, assert_golden, hashed_tensor, hashed_uniform, official_keys, tensor

NAME = "22_full_var"
ROWS = [0, 3, 17, 100, 300, 679]
KEPT = ("attn_bias_for_masking", "lvl_1L", "zero_k_bias", "ema_vocab_hit_SV")  # what the constructor gives

pytestmark = pytest.mark.slow


@torch.no_grad()
def with_hashed_weights(config, override=lambda key, value: value):
    model = get_family("var").build(config)
    for key, value in model.state_dict().items():
        if not key.endswith(KEPT):
            value.copy_(override(key, hashed_tensor(key, tuple(value.shape), salt=0)))
    return model


def full_vqvae():
    return with_hashed_weights(official_keys("vae_ch160v4096z32")["constructor"])


@torch.no_grad()
def test_vqvae_of_full_size_equals_official():
    vqvae, golden = full_vqvae(), arrays(NAME)
    uniform = hashed_uniform("image", 3 * 256 * 256)
    image = torch.from_numpy((uniform - np.float32(0.5)) * np.float32(2)).reshape(1, 3, 256, 256)
    features = vqvae.features(image)
    assert_golden(features, golden["f"])
    assert torch.equal(vqvae.encode(image), tensor(NAME, "idx_cat"))


@torch.no_grad()
def test_vqvae_of_full_size_decodes_as_the_official_one():
    vqvae, golden, tokens = full_vqvae(), arrays(NAME), tensor(NAME, "tokens")
    f_hat = vqvae.f_hat(tokens)
    assert_golden(f_hat, golden["fhat"])
    pixels = vqvae.decode_unclamped(f_hat)
    assert_golden(pixels[:, :, 96:128, 64:96], golden["decoder_out_unclamped_crop"])
    assert pixels.double().mean().item() == pytest.approx(golden["decoder_out_mean"].item(), rel=1e-5)
    assert pixels.double().square().mean().sqrt().item() == pytest.approx(golden["decoder_out_rms"].item(), rel=1e-5)


def var_override(key, value):
    if key.endswith("scale_mul_1H11"):
        return 0.3 * value + 1.4
    return 2 * value if key == "head.weight" else value


@torch.no_grad()
def test_var_of_d16_width_equals_official():
    golden = arrays(NAME)
    config = official_keys("var_d16")["constructor"] | {"depth": 4, "vocab_size": 4096, "z_channels": 32}
    model = with_hashed_weights(config, var_override)
    model.attach_tokenizer(full_vqvae())
    tokens = [np.floor(hashed_uniform(f"tok{s}", pn**2) * 4096) for s, pn in enumerate(model.patch_nums)]
    tokens_BL = torch.from_numpy(np.concatenate(tokens).astype(np.int64))[None]
    assert torch.equal(tokens_BL, tensor(NAME, "tokens"))
    inputs = model.tokenizer.next_scale_inputs(tokens_BL)
    assert_golden(inputs[:, ::20], golden["var_input_rows"])
    labels = torch.tensor([207])
    assert_golden(model.logits(tokens_BL, labels)[:, ROWS, :256], golden["logits_rows"])
    assert_golden(model.token_log_likelihood(tokens_BL, labels), golden["token_logprob"])
    assert model.log_likelihood(tokens_BL, labels).item() == pytest.approx(golden["sum_logprob"].item(), rel=1e-6)
