"""VAR on CUDA: the official numbers, the tokens of the CPU, the same random streams."""

import copy

import pytest
import torch

from ddo_engine.families import get_family
from ddo_engine.families.var.noise import SampleNoise
from ddo_engine.families.var.sampling import sample_tokens
from ddo_engine.spec import AutoregressiveSettings, OnlineReferenceSet, TrainingSettings
from tests.numerics.golden import arrays, assert_golden, tensor
from tests.numerics.var_models import VAR_GOLDEN, VQVAE_GOLDEN, random_images, tiny_var

pytestmark = pytest.mark.gpu
FAMILY = get_family("var")
TRAINING = TrainingSettings(kimg=1, batch_size=4, learning_rate=1e-3, ema_half_life_kimg=1, evaluate_every_kimg=1)


def on_cuda():
    model = tiny_var().cuda()
    model.tokenizer.cuda()
    return model


@torch.no_grad()
def test_var_on_cuda_equals_official():
    model, golden = on_cuda(), arrays(VAR_GOLDEN)
    FAMILY.sample(model, [0], None, AutoregressiveSettings())  # switches TF32 off
    tokens, labels = tensor(VAR_GOLDEN, "idx_cat").cuda(), tensor(VAR_GOLDEN, "label").cuda()
    assert_golden(model.logits(tokens, labels), golden["logits"])
    assert_golden(model.logits(tokens), golden["logits_uncond"])
    assert torch.equal(model.tokenizer.encode(tensor(VQVAE_GOLDEN, "img").cuda()), tokens)


@pytest.mark.parametrize("guidance_scale", [0.0, 1.5])
def test_sample_tokens_on_cuda_are_those_of_the_cpu(guidance_scale):
    settings, labels = AutoregressiveSettings(guidance_scale=guidance_scale, top_p=0.9), torch.arange(8)
    expected = sample_tokens(tiny_var(), labels, SampleNoise(range(8), 10), 8, settings)
    actual = sample_tokens(on_cuda(), labels.cuda(), SampleNoise(range(8), 10), 8, settings)
    assert torch.equal(actual.cpu(), expected)
    images = FAMILY.sample(on_cuda(), range(8), None, settings)
    assert (images.int() - FAMILY.sample(tiny_var(), range(8), None, settings).int()).abs().max() <= 1


def test_log_likelihood_ratios_of_equal_models_on_cuda_are_zero_in_training_mode():
    model, device = on_cuda(), torch.device("cuda")
    real, fake = random_images(3).to(device), random_images(3, seed=1).to(device)
    generator = torch.Generator(device).manual_seed(0)
    ratios = FAMILY.log_likelihood_ratios(copy.deepcopy(model).train(), model, real, fake, TRAINING, generator)
    assert not torch.cat(ratios[:2]).any()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_log_likelihood_ratios_on_cuda_are_zero_in_every_precision_and_near_float32(precision):
    model, device = on_cuda(), torch.device("cuda")
    real, fake = random_images(6).to(device), random_images(6, seed=1).to(device)
    training = TRAINING.model_copy(update={"precision": precision})

    def ratios(target, training):
        generator = torch.Generator(device).manual_seed(0)
        return torch.stack(FAMILY.log_likelihood_ratios(target, model, real, fake, training, generator))[:2]

    assert not ratios(copy.deepcopy(model).train(), training).any()
    target = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.mul_(1.03)
        exact = ratios(target, TRAINING)
        assert (ratios(target, training) - exact).abs().max() < 0.3 * exact.abs().max()


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_fakes_on_cuda_repeat_to_the_bit_and_follow_seed_and_label(precision):
    model, labels_B = on_cuda(), torch.arange(32).cuda() % 10
    training, undecoded = TRAINING.model_copy(update={"precision": precision}), OnlineReferenceSet(decode=False)
    together, again = (FAMILY.draw_fakes(model, range(32), labels_B, undecoded, training) for _ in range(2))
    assert torch.equal(together, again)
    half = FAMILY.draw_fakes(model, range(16, 32), labels_B[16:], undecoded, training)
    assert (half == together[16:]).float().mean() > 0.95
    pixels = FAMILY.draw_fakes(model, range(32), labels_B, OnlineReferenceSet(), training)
    assert (pixels.dtype, pixels.device.type, len(pixels)) == (torch.uint8, "cpu", 32)
