"""Mixed precision of a VAR: in its networks and nowhere else."""

import copy

import pytest
import torch

from ddo_engine.families import get_family
from ddo_engine.spec import OnlineReferenceSet, TrainingSettings
from tests.numerics.var_models import random_images, tiny_var

FAMILY = get_family("var")
TRAINING = TrainingSettings(kimg=1, batch_size=6, learning_rate=1e-4, ema_half_life_kimg=1, evaluate_every_kimg=1)
HALF = pytest.mark.parametrize("precision", ["bfloat16", "float16"])


def in_precision(precision: str) -> TrainingSettings:
    return TRAINING.model_copy(update={"precision": precision})


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def moved(model):
    """Return a copy whose ratios are far larger than what half precision rounds away."""
    other, draws = copy.deepcopy(model), torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draws))
    return other


def dtypes_of(model) -> dict[str, torch.dtype]:
    """Return what the network's products and the tokenizer's convolutions give, as calls come in."""
    seen: dict[str, torch.dtype] = {}

    def watch(name, module):
        module.register_forward_hook(lambda module, inputs, output: seen.update({name: output.dtype}))

    watch("product", model.blocks[0].ffn.fc1)
    watch("logits before they are widened", model.head)
    watch("tokenizer's phi", model.tokenizer.quantize.quant_resi.qresi_ls[0])
    watch("tokenizer's encoder", model.tokenizer.quant_conv)
    watch("tokenizer's decoder", model.tokenizer.post_quant_conv)
    return seen


@HALF
def test_networks_compute_in_half_precision_and_the_tokenizer_does_not(precision: str) -> None:
    reference, half = tiny_var(), getattr(torch, precision)
    target = moved(reference)
    seen = dtypes_of(target)
    FAMILY.log_likelihood_ratios(
        target, reference, random_images(6), random_images(6, seed=1), in_precision(precision), generator()
    )
    FAMILY.draw_fakes(target, range(16), torch.arange(16) % 10, OnlineReferenceSet(), in_precision(precision))
    assert {name for name, dtype in seen.items() if dtype == half} == {"product", "logits before they are widened"}
    assert {name for name, dtype in seen.items() if dtype == torch.float32} == {
        "tokenizer's phi",
        "tokenizer's encoder",
        "tokenizer's decoder",
    }


@HALF
def test_ratios_in_half_precision_are_float32_and_near_those_of_float32(precision: str) -> None:
    reference = tiny_var()
    target, real, fake = moved(reference), random_images(6), random_images(6, seed=1)
    exact, ours = (
        FAMILY.log_likelihood_ratios(target, reference, real, fake, in_precision(name), generator())
        for name in ("float32", precision)
    )
    for exact_B, ours_B in zip(exact, ours, strict=True):
        assert ours_B.dtype == torch.float32
        assert not torch.equal(ours_B, exact_B)
        assert (ours_B - exact_B).abs().max() < 0.1 * exact_B.abs().max()


@HALF
def test_gradients_in_half_precision_are_near_those_of_float32(precision: str) -> None:
    reference, directions = tiny_var(), []
    for name in ("float32", precision):
        target = moved(reference)
        loss_B = FAMILY.pretraining_loss(target, random_images(6), in_precision(name), generator())
        loss_B.mean().backward()
        directions.append(torch.cat([parameter.grad.flatten() for parameter in target.parameters()]))
        assert directions[-1].dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(*directions, dim=0) > 0.99


def test_float32_holds_off_an_autocast_around_it() -> None:
    model, images = tiny_var(), random_images(6)
    tokens_BL = model.tokenizer.encode(images.images_BCHW)
    inputs_BLZ = model.tokenizer.next_scale_inputs(tokens_BL)
    plain_BL = model.token_log_likelihood(tokens_BL, images.labels_B, inputs_BLZ)
    with torch.autocast("cpu", torch.bfloat16):
        inside_BL = model.token_log_likelihood(tokens_BL, images.labels_B, inputs_BLZ)
    assert torch.equal(plain_BL, inside_BL)


@HALF
def test_fakes_in_half_precision_are_whole_samples(precision: str) -> None:
    model, labels_B = tiny_var(), torch.arange(64) % 10
    undecoded = OnlineReferenceSet(decode=False)
    half, full = (
        FAMILY.draw_fakes(model, range(64), labels_B, undecoded, in_precision(name)) for name in (precision, "float32")
    )
    assert half.shape == full.shape == (64, model.num_tokens)
    # The same race with slightly other odds: most places have the same winner until the first that has not.
    assert (half == full).float().mean() > 0.5
