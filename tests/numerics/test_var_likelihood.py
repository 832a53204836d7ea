"""The log-likelihood ratios and the pretraining loss of the VAR family."""

import copy

import pytest
import torch

from ddo_engine.errors import IncompatibleInputs
from ddo_engine.families import get_family
from ddo_engine.families.protocol import LabelledImages
from ddo_engine.spec import TrainingSettings
from tests.numerics.var_models import random_images, tiny_var, tiny_vqvae, var_config

FAMILY = get_family("var")
TRAINING = TrainingSettings(kimg=1, batch_size=1, learning_rate=1e-4, ema_half_life_kimg=1, evaluate_every_kimg=1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def ratios(target, reference, real, fake):
    return FAMILY.log_likelihood_ratios(target, reference, real, fake, TRAINING, generator())[:2]


def shifted(model, size=0.01):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator(1)), alpha=size)
    return other


def test_log_likelihood_ratios_of_equal_models_are_zero_in_training_mode():
    model = tiny_var()
    real, fake = ratios(copy.deepcopy(model).train(), model, random_images(3), random_images(2, seed=1))
    assert torch.equal(real, torch.zeros(3))
    assert torch.equal(fake, torch.zeros(2))


def test_log_likelihood_ratios_are_differences_of_log_likelihoods():
    reference = tiny_var()
    target, real, fake = shifted(reference), random_images(3), random_images(2, seed=1)
    expected = []
    for batch in (real, fake):
        tokens = reference.tokenizer.encode(batch.images_BCHW)
        exact = [copy.deepcopy(model).double().log_likelihood(tokens, batch.labels_B) for model in (target, reference)]
        expected.append((exact[0] - exact[1]).float())
    actual = ratios(target, reference, real, fake)
    assert all(ratio.dtype == torch.float32 for ratio in actual)
    for ours, theirs in zip(actual, expected, strict=True):
        assert theirs.abs().min() > 0.01
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_log_likelihood_ratios_give_gradients_to_the_target_only():
    reference = tiny_var()
    target = shifted(reference)
    real, fake = ratios(target, reference, random_images(2), random_images(2, seed=1))
    (real.sum() - fake.sum()).backward()
    assert [name for name, parameter in target.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad is None for parameter in reference.parameters())
    assert all(parameter.grad is None for parameter in reference.tokenizer.parameters())


def test_log_likelihood_ratios_do_not_depend_on_batch_mates():
    """In float64, where nothing is left of other batches' rounding."""
    reference = tiny_var().double()
    target, images = shifted(reference), random_images(4)
    together, _ = ratios(target, reference, images, random_images(1))
    for row in range(4):
        alone = LabelledImages(images.images_BCHW[row : row + 1], images.labels_B[row : row + 1])
        torch.testing.assert_close(ratios(target, reference, alone, random_images(1))[0], together[row : row + 1])


def test_log_likelihood_ratios_call_each_network_once():
    reference, calls = tiny_var(), []
    target = shifted(reference)
    for name, model in (("target", target), ("reference", reference)):
        model.head.register_forward_hook(lambda module, inputs, output, name=name: calls.append((name, len(output))))
    ratios(target, reference, random_images(3), random_images(3))
    assert sorted(calls) == [("reference", 6), ("target", 6)]


def test_log_likelihood_ratios_without_labels_are_refused():
    unlabelled = LabelledImages(random_images(2).images_BCHW, None)
    with pytest.raises(ValueError, match="labels"):
        ratios(tiny_var(), tiny_var(), random_images(2), unlabelled)


def test_pretraining_loss_is_the_negative_log_likelihood_where_no_label_is_dropped():
    model, real = tiny_var(), random_images(4)
    model.cond_drop_rate = 0.0
    loss = FAMILY.pretraining_loss(model, real, TRAINING, generator())
    expected = -model.log_likelihood(model.tokenizer.encode(real.images_BCHW), real.labels_B)
    torch.testing.assert_close(loss, expected)


def test_pretraining_loss_drops_labels_by_the_given_generator():
    model, images = tiny_var(), random_images(1)
    real = LabelledImages(images.images_BCHW.repeat(400, 1, 1, 1), images.labels_B.repeat(400))
    model.cond_drop_rate = 0.25
    state = torch.get_rng_state()
    losses = FAMILY.pretraining_loss(model, real, TRAINING, generator(5)).detach()
    assert torch.equal(losses, FAMILY.pretraining_loss(model, real, TRAINING, generator(5)).detach())
    assert torch.equal(torch.get_rng_state(), state)
    dropped = -model.log_likelihood(model.tokenizer.encode(images.images_BCHW)).detach()
    is_dropped = (losses - dropped).abs() < 1e-3
    assert 0.25 * 400 - 35 < is_dropped.sum() < 0.25 * 400 + 35


def test_pretraining_loss_of_an_unconditional_model_takes_no_notice_of_labels():
    model, real = FAMILY.build(var_config() | {"num_classes": 0}), random_images(2)
    model.attach_tokenizer(tiny_vqvae())
    unlabelled = LabelledImages(real.images_BCHW, None)
    losses = [FAMILY.pretraining_loss(model, batch, TRAINING, generator()) for batch in (real, unlabelled)]
    assert torch.equal(*losses)


def test_attach_autoencoder_that_is_no_vqvae_is_refused():
    with pytest.raises(IncompatibleInputs, match="VQVAE"):
        FAMILY.attach_autoencoder(tiny_var(), torch.nn.Identity())


def test_family_given_a_tokenizer_for_a_model_is_a_programming_error():
    with pytest.raises(TypeError, match="VQVAE"):
        FAMILY.draw_labels(tiny_vqvae(), [0])


def test_training_by_the_pretraining_loss_learns():
    model, real = tiny_var(), random_images(4)
    model.cond_drop_rate = 0.0
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss = FAMILY.pretraining_loss(model, real, TRAINING, generator()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        FAMILY.constrain_(model)
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_reference_loss_is_the_references_negative_log_likelihood_of_the_real_images():
    reference = tiny_var()
    target, real, fake = shifted(reference), random_images(3), random_images(2, seed=1)
    with torch.no_grad():
        real_B, _, loss_B = FAMILY.log_likelihood_ratios(target, reference, real, fake, TRAINING, generator())
        tokens_BL = reference.tokenizer.encode(real.images_BCHW)
        torch.testing.assert_close(loss_B, -reference.log_likelihood(tokens_BL, real.labels_B))
        torch.testing.assert_close(loss_B - real_B, -target.log_likelihood(tokens_BL, real.labels_B))
