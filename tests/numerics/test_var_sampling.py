"""Sampling of VAR equals the official sampler, and every image depends on its own seed alone."""

import pytest
import torch

from ddo_engine.errors import IncompatibleInputs, InvalidSpec, NonFiniteLoss
from ddo_engine.families import get_family
from ddo_engine.families.var.filtering import filtered
from ddo_engine.families.var.noise import BatchNoise, SampleNoise
from ddo_engine.families.var.sampling import ScaleByScale, sample_tokens
from ddo_engine.sampling import sample
from ddo_engine.spec import AutoregressiveSettings, HeunSettings
from tests.numerics.golden import arrays, assert_golden, description, tensor
from tests.numerics.var_models import VAR_GOLDEN, tiny_var, var_config

RUNS = ["nocfg", "cfg1p5", "cfg1p5_topk_topp"]
FAMILY = get_family("var")


def settings_of(run):
    official = description(VAR_GOLDEN)["sampling"][run]
    return AutoregressiveSettings(
        guidance_scale=official["cfg"], top_k=official["top_k"], top_p=official["top_p"]
    ), torch.Generator().manual_seed(official["g_seed"])


@pytest.mark.parametrize("run", RUNS)
def test_sample_tokens_with_one_generator_for_the_batch_equals_official(run):
    model, (settings, generator) = tiny_var(), settings_of(run)
    tokens = sample_tokens(model, tensor(VAR_GOLDEN, "label"), BatchNoise(generator, 2), 2, settings)
    assert torch.equal(tokens, tensor(VAR_GOLDEN, f"{run}_idx"))
    torch.testing.assert_close(
        (model.tokenizer.decode(tokens) + 1) / 2, tensor(VAR_GOLDEN, f"{run}_img01"), rtol=0, atol=5e-5
    )


@pytest.mark.parametrize("run", RUNS)
@torch.no_grad()
def test_scale_by_scale_gives_the_official_guided_logits(run):
    model, (settings, _) = tiny_var(), settings_of(run)
    images = ScaleByScale(model, tensor(VAR_GOLDEN, "label"), 2, settings.guidance_scale)
    logits = []
    for tokens in model.tokenizer.split(tensor(VAR_GOLDEN, f"{run}_idx")):
        logits.append(images.logits())
        images.accept(tokens)
    assert_golden(torch.cat(logits, dim=1), arrays(VAR_GOLDEN)[f"{run}_logits"])


@torch.no_grad()
def test_scale_by_scale_gives_the_logits_of_teacher_forcing():
    model, tokens, labels = tiny_var(), tensor(VAR_GOLDEN, "idx_cat"), tensor(VAR_GOLDEN, "label")
    images = ScaleByScale(model, labels, 2)
    for tokens_of_scale, expected in zip(
        model.tokenizer.split(tokens), model.logits(tokens, labels).split(model.tokens_per_scale, dim=1), strict=True
    ):
        torch.testing.assert_close(images.logits(), expected, rtol=0, atol=1e-5)
        images.accept(tokens_of_scale)


def test_batch_noise_draws_the_official_exponentials():
    noise = BatchNoise(settings_of("nocfg")[1], 2)
    assert torch.equal(noise.exponentials(1, 48).flatten(0, 1), tensor(VAR_GOLDEN, "exp_noise_scale0"))
    assert torch.equal(noise.exponentials(4, 48).flatten(0, 1), tensor(VAR_GOLDEN, "exp_noise_scale1"))


def test_batch_noise_wins_the_race_for_the_tokens_that_multinomial_draws():
    probabilities = torch.rand(30, 48, generator=torch.Generator().manual_seed(1)).softmax(-1)
    expected = torch.multinomial(probabilities, 1, replacement=True, generator=torch.Generator().manual_seed(2))
    race = BatchNoise(torch.Generator().manual_seed(2), 3).exponentials(10, 48).flatten(0, 1)
    assert torch.equal((probabilities / race).argmax(-1), expected[:, 0])


@pytest.mark.parametrize("guidance_scale", [0.0, 1.5])
def test_sample_of_a_seed_alone_equals_that_in_a_batch(guidance_scale):
    model, labels = tiny_var(), torch.arange(7)
    settings = AutoregressiveSettings(guidance_scale=guidance_scale, top_k=20, top_p=0.95)
    together = FAMILY.sample(model, range(7), labels, settings)
    alone = torch.cat([FAMILY.sample(model, [seed], labels[seed : seed + 1], settings) for seed in range(7)])
    assert (together.int() - alone.int()).abs().max() <= 1  # a pixel at the edge of two grey levels
    tokens = [
        sample_tokens(model, labels[seeds], SampleNoise(seeds, 10), len(seeds), settings)
        for seeds in ([0, 1, 2, 3, 4, 5, 6], [3], [5, 3])
    ]
    assert torch.equal(tokens[0][3], tokens[1][0])
    assert torch.equal(tokens[0][[5, 3]], tokens[2])
    assert not torch.equal(tokens[0][3], tokens[0][4])


@pytest.mark.parametrize("guidance_scale", [0.0, 1.5])
def test_sample_is_the_same_to_the_bit_whatever_the_batch_size(guidance_scale):
    model, seeds = tiny_var(), range(40, 104)
    drawn = [
        sample(model, seeds, sampler=AutoregressiveSettings(guidance_scale=guidance_scale, batch_size=size))
        for size in (1, 7, 64)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


def test_sample_draws_the_labels_it_is_not_given_from_the_seeds():
    model, settings = tiny_var(), AutoregressiveSettings()
    labels = FAMILY.draw_labels(model, range(20, 40))
    assert labels.dtype == torch.int64
    assert len(set(labels.tolist())) > 3
    assert torch.equal(FAMILY.draw_labels(model, [25]), labels[5:6])
    drawn, given = (FAMILY.sample(model, range(20, 40), choice, settings) for choice in (None, labels))
    assert torch.equal(drawn, given)
    assert drawn.dtype == torch.uint8
    assert drawn.shape == (20, 3, 12, 12)


def test_sample_draws_nothing_from_the_global_generator():
    model, state = tiny_var(), torch.get_rng_state()
    FAMILY.sample(model, [1], None, AutoregressiveSettings(guidance_scale=1.0, top_k=5, top_p=0.9))
    assert torch.equal(torch.get_rng_state(), state)


def test_sample_frequencies_are_those_of_the_model():
    model = tiny_var()
    labels = torch.zeros(4000, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        expected = ScaleByScale(model, labels[:1], 1).logits().softmax(-1)[0, 0]
    race = BatchNoise(generator, 4000).exponentials(1, 48)[:, 0]
    counts = torch.bincount((expected / race).argmax(-1), minlength=48)
    chi_squared = ((counts - 4000 * expected).square() / (4000 * expected)).sum()
    assert chi_squared < 47 + 5 * (2 * 47) ** 0.5


def test_sample_without_guidance_calls_the_network_on_one_row_an_image():
    model, rows = tiny_var(), []
    model.head.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    FAMILY.sample(model, [1, 2, 3], None, AutoregressiveSettings())
    FAMILY.sample(model, [1, 2, 3], None, AutoregressiveSettings(guidance_scale=1.0))
    assert rows == [3] * 5 + [6] * 5


def test_sample_reports_every_scale():
    finished = []
    FAMILY.sample(tiny_var(), [1], None, AutoregressiveSettings(), on_step=finished.append)
    assert finished == [1, 2, 3, 4, 5]


def test_filtered_top_k_keeps_the_likeliest():
    logits = torch.tensor([[[0.0, 3.0, 1.0, 2.0]]])
    kept = filtered(logits, top_k=2, top_p=0)
    assert torch.equal(kept.isfinite(), torch.tensor([[[False, True, False, True]]]))
    assert torch.equal(filtered(logits, top_k=0, top_p=0), logits)
    assert torch.equal(filtered(logits, top_k=9, top_p=0), logits)


@pytest.mark.parametrize(("top_p", "num_kept"), [(0.05, 1), (0.45, 1), (0.55, 2), (0.85, 3), (0.97, 4)])
def test_filtered_top_p_keeps_the_likeliest_of_that_mass(top_p, num_kept):
    logits = torch.tensor([[[0.1, 0.5, 0.15, 0.25]]]).log()
    kept = filtered(logits, top_k=0, top_p=top_p).isfinite()[0, 0]
    assert kept.sum() == num_kept
    assert kept[torch.tensor([1, 3, 2, 0])[:num_kept]].all()


def test_filtered_top_p_reckons_with_what_top_k_has_left():
    logits = torch.tensor([[[0.1, 0.5, 0.15, 0.25]]]).log()
    assert filtered(logits, top_k=2, top_p=0.6).isfinite().sum() == 1  # 0.5 of 0.75 is enough
    assert filtered(logits, top_k=0, top_p=0.6).isfinite().sum() == 2


def test_sample_by_a_diffusion_sampler_is_refused():
    with pytest.raises(InvalidSpec, match="autoregressive"):
        FAMILY.sample(tiny_var(), [0], None, HeunSettings())
    with pytest.raises(InvalidSpec, match="autoregressive"):
        FAMILY.check_sampler(tiny_var(), None, HeunSettings())
    FAMILY.check_sampler(tiny_var(), None, FAMILY.default_sampler)


def test_sample_guided_by_another_network_is_refused():
    with pytest.raises(InvalidSpec, match="guide"):
        FAMILY.sample(tiny_var(), [0], None, AutoregressiveSettings(), guide=tiny_var())


def test_sample_of_an_unconditional_model_takes_no_labels_and_no_guidance():
    model = FAMILY.build(var_config() | {"num_classes": 0})
    model.attach_tokenizer(tiny_var().tokenizer)
    assert FAMILY.draw_labels(model, [0]) is None
    given = FAMILY.sample(model, [0], torch.tensor([3]), AutoregressiveSettings())
    assert torch.equal(FAMILY.sample(model, [0], None, AutoregressiveSettings()), given)
    with pytest.raises(InvalidSpec, match="guidance_scale"):
        FAMILY.sample(model, [0], None, AutoregressiveSettings(guidance_scale=1.0))


def test_sample_without_a_tokenizer_is_refused():
    with pytest.raises(IncompatibleInputs, match="VQVAE"):
        FAMILY.sample(FAMILY.build(var_config()), [0], None, AutoregressiveSettings())


@pytest.mark.parametrize("part", ["transformer", "tokenizer"])
def test_sample_of_weights_that_overflow_is_refused(part):
    model = tiny_var()
    weight = model.head.weight if part == "transformer" else model.tokenizer.decoder.conv_out.weight
    with torch.no_grad():
        weight.fill_(3e38)
    with pytest.raises(NonFiniteLoss) as caught:
        FAMILY.sample(model, [0], None, AutoregressiveSettings())
    assert caught.value.param == ("checkpoint" if part == "transformer" else "autoencoder")
