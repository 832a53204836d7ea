"""The DDO loss of a VAR: dropped labels, alpha row by row, the loss's scale, fakes drawn beside the batch."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ddo_engine.batches import BatchSource, DataOrder
from ddo_engine.data import InMemoryDataset
from ddo_engine.errors import InvalidSpec
from ddo_engine.families import get_family
from ddo_engine.families.var.noise import RowNoise
from ddo_engine.families.var.sampling import sample_tokens
from ddo_engine.families.var.tokens import decoded
from ddo_engine.families.var.transformer import VAR
from ddo_engine.online import FakeSource, MismatchedLabels, OnlineFakes, StoredFakes
from ddo_engine.spec import (
    AutoregressiveSettings,
    CCAObjective,
    DDOObjective,
    OnlineReferenceSet,
    TrainingSettings,
)
from ddo_engine.training_loss import DDOTrainingLoss
from tests.numerics.var_models import random_images, tiny_var, tiny_vqvae, var_config

FAMILY = get_family("var")
CPU = torch.device("cpu")
B = 12
TRAINING = TrainingSettings(kimg=1, batch_size=B, learning_rate=1e-4, ema_half_life_kimg=1, evaluate_every_kimg=1)
BETA = 0.02


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def moved(model: VAR, size: float = 0.01) -> VAR:
    other = copy.deepcopy(model)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=size)
    return other


def source(stream: str, seed: int = 0) -> BatchSource:
    images = random_images(30, seed=seed)
    dataset = InMemoryDataset(images.images_BCHW, images.labels_B)
    return BatchSource(dataset, DataOrder(30, 5, stream), B, CPU)


def loss_of(
    reference: VAR, *, alpha: float = 20.0, fake: FakeSource | None = None, cca: bool = False, **training
) -> DDOTrainingLoss:
    settings = FAMILY.with_defaults(reference, TRAINING.model_copy(update=training), "cca" if cca else "ddo")
    real = source("real")
    fake = fake or (MismatchedLabels(real) if cca else StoredFakes(source("fake", seed=1)))
    objective = (CCAObjective if cca else DDOObjective)(alpha=alpha, beta=BETA)
    return DDOTrainingLoss(FAMILY, reference, real, fake, objective, settings, 9)


def online(reference: VAR, **settings) -> OnlineFakes:
    return OnlineFakes(FAMILY, reference, OnlineReferenceSet(**settings), TRAINING, 256, 9)


def dropped_of(loss: DDOTrainingLoss, step: int = 0) -> Tensor:
    return loss(loss.reference_model, step, range(B))[:, 4] == 0


def test_half_of_all_labels_are_dropped_by_default_and_the_loss_is_divided() -> None:
    model = tiny_var()
    filled = FAMILY.with_defaults(model, TRAINING, "ddo")
    assert (filled.label_dropout, filled.normalise_by_alpha) == (0.5, True)
    assert FAMILY.with_defaults(model, TRAINING, "cca").label_dropout == model.cond_drop_rate
    given = TRAINING.model_copy(update={"label_dropout": 0.25, "normalise_by_alpha": False})
    assert FAMILY.with_defaults(model, given, "ddo") == given
    unconditional = FAMILY.build(var_config() | {"num_classes": 0})
    assert FAMILY.with_defaults(unconditional, TRAINING, "ddo").label_dropout == 0
    diffusion = get_family("edm").with_defaults(torch.nn.Identity(), TRAINING, "ddo")
    assert (diffusion.label_dropout, diffusion.normalise_by_alpha) == (0, False)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("unconditional_rows", ["data_term", "mle"])
@pytest.mark.parametrize("alpha", [0.5, 20.0])
def test_loss_at_the_start_is_1_plus_alpha_ln_2_where_there_is_a_label_and_ln_2_where_not(
    alpha: float, unconditional_rows: str, precision: str
) -> None:
    reference = tiny_var()
    loss = loss_of(
        reference,
        alpha=alpha,
        fake=online(reference),
        normalise_by_alpha=False,
        unconditional_rows=unconditional_rows,
        precision=precision,
    )
    values_BK = loss(copy.deepcopy(reference).train(), 3, range(B)).detach()
    kept_B = values_BK[:, 4]
    assert 0 < kept_B.sum() < B
    assert torch.equal(values_BK[:, 1:3], torch.zeros(B, 2))
    torch.testing.assert_close(values_BK[:, 0], (1 + alpha * kept_B) * math.log(2), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("alpha", "divisor"), [(0.0, 1.0), (0.5, 1.0), (20.0, 20.0)])
def test_loss_normalised_by_alpha_is_divided_by_it_where_it_exceeds_1(alpha: float, divisor: float) -> None:
    reference = tiny_var()
    target = moved(reference)
    plain, divided = (
        loss_of(reference, alpha=alpha, normalise_by_alpha=normalise)(target, 0, range(B)).detach()
        for normalise in (False, None)
    )
    torch.testing.assert_close(divided[:, 0], plain[:, 0] / divisor, rtol=1e-6, atol=0)
    assert torch.equal(divided[:, 1:], plain[:, 1:])


def test_rows_without_label_lose_it_for_both_networks_and_their_fake_counts_nothing() -> None:
    reference = tiny_var()
    target = moved(reference)
    loss = loss_of(reference, normalise_by_alpha=False)
    values_BK = loss(target, 0, range(B)).detach()
    dropped_B = values_BK[:, 4] == 0
    real, fake = loss.real.batch(0, range(B)), StoredFakes(source("fake", seed=1)).source.batch(0, range(B))
    expected = []
    for batch in (real, fake):
        labels_B = batch.labels_B.masked_fill(dropped_B, reference.num_classes)
        tokens_BL = reference.tokenizer.encode(batch.images_BCHW)
        networks = [copy.deepcopy(model).double() for model in (target, reference)]
        with torch.no_grad():
            exact = [network.log_likelihood(tokens_BL, labels_B) for network in networks]
        expected.append((exact[0] - exact[1]).float())
    torch.testing.assert_close(values_BK[:, 1], expected[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(values_BK[:, 2], expected[1] * ~dropped_B, rtol=1e-3, atol=1e-3)
    term = torch.nn.functional.logsigmoid
    alpha_B = 20.0 * ~dropped_B
    by_hand_B = -term(BETA * values_BK[:, 1]) - alpha_B * term(-BETA * values_BK[:, 2])
    torch.testing.assert_close(values_BK[:, 0], by_hand_B)
    assert torch.equal(values_BK[dropped_B, 0], -term(BETA * values_BK[dropped_B, 1]))


def test_rows_that_lose_their_label_depend_on_step_and_seed_alone() -> None:
    reference = tiny_var()
    loss = loss_of(reference)
    masks = [dropped_of(loss, step) for step in range(3)]
    assert not torch.equal(masks[0], masks[1])
    assert torch.equal(masks[2], dropped_of(loss_of(reference), 2))
    assert not torch.equal(masks[0], dropped_of(replace(loss, seed=10)))
    shares = torch.stack([dropped_of(replace(loss, seed=seed)) for seed in range(40)]).float()
    assert 0.5 - 0.1 < shares.mean() < 0.5 + 0.1


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("cca", [False, True])
def test_values_of_the_parts_are_those_of_the_whole_batch(cca: bool, decode: bool) -> None:
    reference = tiny_var()
    target = moved(reference)
    fake = None if cca else online(reference, decode=decode)
    loss = loss_of(reference, fake=fake, cca=cca, label_dropout=0.5)
    whole_BK = loss(target, 2, range(B)).detach()
    parts_BK = torch.cat([loss(target, 2, rows).detach() for rows in (range(1), range(1, 8), range(8, B))])
    torch.testing.assert_close(parts_BK, whole_BK, rtol=1e-4, atol=1e-3)
    assert torch.equal(parts_BK[:, 4], whole_BK[:, 4])


def test_rows_of_mle_have_its_gradient_times_half_beta() -> None:
    reference = tiny_var()
    target = moved(reference, size=0.05)
    loss = loss_of(reference, unconditional_rows="mle", normalise_by_alpha=False, label_dropout=1.0)
    loss(target, 0, range(B))[:, 0].sum().backward()
    ours = {name: parameter.grad for name, parameter in target.named_parameters()}
    target.zero_grad(set_to_none=True)
    tokens_BL = target.tokenizer.encode(loss.real.batch(0, range(B)).images_BCHW)
    (-target.log_likelihood(tokens_BL).sum() * BETA / 2).backward()
    for name, parameter in target.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_fakes_of_a_batch_without_any_label_give_diagnostics_of_ratio_0() -> None:
    reference = tiny_var()
    loss = loss_of(reference, label_dropout=1.0)
    values_BK = loss(moved(reference), 0, range(B))
    summary = dict(zip(loss.diagnostics, loss.summary(values_BK.detach()), strict=True))
    assert summary["ratio_fake_mean"] == summary["ratio_fake_std"] == 0
    assert all(bool(torch.isfinite(value)) for value in summary.values())


def test_diagnostics_of_fakes_are_those_of_rows_with_label() -> None:
    reference = tiny_var()
    loss = loss_of(reference)
    values_BK = loss(moved(reference), 0, range(B)).detach()
    summary = dict(zip(loss.diagnostics, loss.summary(values_BK), strict=True))
    kept_B = values_BK[:, 4] > 0
    torch.testing.assert_close(summary["ratio_fake_mean"], values_BK[kept_B, 2].mean())
    torch.testing.assert_close(summary["ratio_real_mean"], values_BK[:, 1].mean())


def test_fakes_drawn_are_the_samplers_tokens_and_decode_as_its_images() -> None:
    model, seeds, labels_B = tiny_var(), list(range(5, 21)), torch.arange(16) % 10
    tokens_BL = FAMILY.draw_fakes(model, seeds, labels_B, OnlineReferenceSet(decode=False), TRAINING)
    plain = AutoregressiveSettings()
    assert torch.equal(tokens_BL, sample_tokens(model, labels_B, RowNoise(seeds, CPU), 16, plain))
    pixels = FAMILY.draw_fakes(model, seeds, labels_B, OnlineReferenceSet(), TRAINING)
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels, decoded(model.tokenizer, tokens_BL))


def test_fake_of_a_row_depends_on_its_seed_and_label_alone() -> None:
    model, undecoded = tiny_var(), OnlineReferenceSet(decode=False)
    seeds, labels_B = list(range(32)), torch.arange(32) % 10
    together = FAMILY.draw_fakes(model, seeds, labels_B, undecoded, TRAINING)
    order = [*range(17, 32), 3]
    alone = FAMILY.draw_fakes(model, [seeds[row] for row in order], labels_B[order], undecoded, TRAINING)
    assert torch.equal(alone, together[order])
    other = FAMILY.draw_fakes(model, [seed + 2**40 + 1 for seed in seeds], labels_B, undecoded, TRAINING)
    assert (other != together).float().mean() > 0.2


def test_fakes_of_consecutive_seeds_follow_the_models_distribution() -> None:
    model, num_fakes = tiny_var(), 4096
    labels_B = torch.full((num_fakes,), 4)
    tokens_BL = FAMILY.draw_fakes(
        model, range(10**6, 10**6 + num_fakes), labels_B, OnlineReferenceSet(decode=False), TRAINING
    )
    with torch.no_grad():
        expected_V = model.logits(tokens_BL[:1], labels_B[:1])[0, 0].softmax(-1)
    observed_V = torch.bincount(tokens_BL[:, 0], minlength=model.vocab_size) / num_fakes
    std_V = (expected_V * (1 - expected_V) / num_fakes).sqrt()
    is_common_V = expected_V * num_fakes > 20
    assert is_common_V.sum() > 10
    assert ((observed_V - expected_V).abs() < 5 * std_V)[is_common_V].all()


def test_tokens_that_were_never_decoded_are_trained_on_as_they_are() -> None:
    reference = tiny_var()
    target = moved(reference)
    loss = loss_of(reference, fake=online(reference, decode=False), label_dropout=0.0)
    fake_ratio_B = loss(target, 0, range(B)).detach()[:, 2]
    fake = loss.fake.beside(loss.real.batch(0, range(B)), 0)
    assert fake.images_BCHW.dtype == torch.int64
    with torch.no_grad():
        each = [model.log_likelihood(fake.images_BCHW, fake.labels_B) for model in (target, reference)]
    torch.testing.assert_close(fake_ratio_B, each[0] - each[1], rtol=1e-3, atol=1e-3)


def test_cca_contrasts_real_images_under_their_own_and_under_others_labels() -> None:
    reference = tiny_var()
    target = moved(reference)
    loss = loss_of(reference, cca=True, label_dropout=0.0)
    values_BK = loss(target, 0, range(B)).detach()
    real = loss.real.batch(0, range(B))
    tokens_BL = reference.tokenizer.encode(real.images_BCHW)
    for column, labels_B in ((1, real.labels_B), (2, real.labels_B.roll(-1))):
        with torch.no_grad():
            each = [model.log_likelihood(tokens_BL, labels_B) for model in (target, reference)]
        torch.testing.assert_close(values_BK[:, column], each[0] - each[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("training", "param"),
    [
        ({"precision": "bfloat16"}, "training.precision"),
        ({"precision": "float16"}, "training.precision"),
        ({"label_dropout": 0.1}, "training.label_dropout"),
        ({"unconditional_rows": "mle"}, "training.unconditional_rows"),
    ],
)
@pytest.mark.parametrize("family", ["edm", "edm2", "diffusers"])
def test_diffusion_model_refuses_the_settings_of_a_var(family: str, training: dict, param: str) -> None:
    settings = TRAINING.model_copy(update=training)
    with pytest.raises(InvalidSpec, match=param) as error:
        get_family(family).check_training(torch.nn.Identity(), settings)
    assert error.value.param == param
    FAMILY.check_training(tiny_var(), settings)


@pytest.mark.parametrize("family", ["edm", "edm2", "diffusers"])
def test_diffusion_model_refuses_online_fakes(family: str) -> None:
    with pytest.raises(InvalidSpec, match="generate a reference set") as error:
        get_family(family).check_online_reference_set(torch.nn.Identity())
    assert error.value.param == "online_reference_set"


@pytest.mark.parametrize(
    ("num_classes", "training", "param"),
    [
        (0, {"label_dropout": 0.5}, "training.label_dropout"),
        (0, {"unconditional_rows": "mle"}, "training.unconditional_rows"),
        (10, {"unconditional_rows": "mle", "label_dropout": 0.0}, "training.unconditional_rows"),
    ],
)
def test_var_refuses_to_drop_labels_that_it_does_not_have(num_classes: int, training: dict, param: str) -> None:
    model = FAMILY.build(var_config() | {"num_classes": num_classes})
    model.attach_tokenizer(tiny_vqvae())
    with pytest.raises(InvalidSpec) as error:
        FAMILY.check_training(model, TRAINING.model_copy(update=training))
    assert error.value.param == param


def test_pretraining_loss_drops_as_many_labels_as_the_settings_say() -> None:
    model, real = tiny_var(), random_images(6)
    model.cond_drop_rate = 0.0
    settings = TRAINING.model_copy(update={"label_dropout": 1.0})
    tokens_BL = model.tokenizer.encode(real.images_BCHW)
    expected = -model.log_likelihood(tokens_BL)
    torch.testing.assert_close(FAMILY.pretraining_loss(model, real, settings, generator()), expected)
