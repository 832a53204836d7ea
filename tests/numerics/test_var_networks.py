"""VAR's transformer equals the official one, and its likelihoods are what they claim to be."""

import copy

import pytest
import torch
from torch.nn import functional

from ddo_engine.checkpoint import CheckpointManifest, info_of, load_checkpoint, save_checkpoint
from ddo_engine.errors import CorruptCheckpoint, IncompatibleInputs
from ddo_engine.families import get_family
from tests.numerics.golden import arrays, assert_golden, official_keys, state_dict, tensor
from tests.numerics.var_models import VAR_GOLDEN, tiny_var, var_config, vqvae_config

DEPTHS = [16, 20, 24, 30]


def golden_inputs():
    return tensor(VAR_GOLDEN, "idx_cat"), tensor(VAR_GOLDEN, "label")


def test_var_state_dict_has_official_names_in_official_order():
    ours = {key: tuple(value.shape) for key, value in get_family("var").build(var_config()).state_dict().items()}
    official = {key: tuple(value.shape) for key, value in state_dict(VAR_GOLDEN).items()}
    assert list(ours.items()) == list(official.items())


@pytest.mark.parametrize("depth", DEPTHS)
def test_var_of_full_size_has_the_official_state_dict(depth):
    official = official_keys(f"var_d{depth}")
    with torch.device("meta"):
        model = get_family("var").build(official["constructor"] | {"vocab_size": 4096, "z_channels": 32})
    ours = [(key, list(value.shape), str(value.dtype)) for key, value in model.state_dict().items()]
    assert ours == [(key, shape, f"torch.{dtype}") for key, (shape, dtype) in official["state_dict"].items()]
    assert sum(parameter.numel() for parameter in model.parameters()) == official["num_params"]


def test_var_buffers_of_a_new_model_are_the_official_ones():
    ours, official = get_family("var").build(var_config()).state_dict(), state_dict(VAR_GOLDEN)
    for name in ("lvl_1L", "attn_bias_for_masking", "blocks.0.attn.zero_k_bias"):
        assert torch.equal(ours[name], official[name])


@torch.no_grad()
def test_var_logits_and_likelihoods_equal_official():
    model, golden, (tokens, labels) = tiny_var(), arrays(VAR_GOLDEN), golden_inputs()
    logits = model.logits(tokens, labels)
    assert logits.dtype == torch.float32
    assert_golden(logits, golden["logits"])
    assert_golden(model(tokens, labels), golden["logits"])
    assert_golden(model.token_log_likelihood(tokens, labels), golden["token_logprob"])
    assert_golden(model.log_likelihood(tokens, labels), golden["sum_logprob"])
    assert_golden(-model.token_log_likelihood(tokens, labels).mean(), golden["ce_mean"])


@pytest.mark.parametrize("labels", [None, torch.tensor([10, 10])])
@torch.no_grad()
def test_var_without_class_equals_official(labels):
    model, golden, (tokens, _) = tiny_var(), arrays(VAR_GOLDEN), golden_inputs()
    assert_golden(model.logits(tokens, labels), golden["logits_uncond"])
    assert_golden(model.log_likelihood(tokens, labels), golden["sum_logprob_uncond"])


@torch.no_grad()
def test_var_rows_without_class_among_others_equal_official():
    model, golden, (tokens, labels) = tiny_var(), arrays(VAR_GOLDEN), golden_inputs()
    dropped = labels.repeat(3).masked_fill(tensor(VAR_GOLDEN, "drop_rand") < 0.5, 10)
    assert 0 < (dropped == 10).sum() < 6
    assert_golden(model.logits(tokens.repeat(3, 1), dropped)[:, 0], golden["drop_logits_first_token"])


@torch.no_grad()
def test_var_given_the_inputs_of_its_tokenizer_makes_no_others():
    model, (tokens, labels) = tiny_var(), golden_inputs()
    inputs = tensor(VAR_GOLDEN, "var_input")
    assert_golden(model.logits(tokens, labels, inputs), arrays(VAR_GOLDEN)["logits"])
    assert not torch.allclose(model.logits(tokens, labels, inputs + 1), model.logits(tokens, labels, inputs))


@torch.no_grad()
def test_var_tokens_depend_on_coarser_scales_only():
    model, (tokens, labels) = tiny_var(), golden_inputs()
    before = model.logits(tokens, labels)
    changed = tokens.clone()
    changed[:, 14:30] = (changed[:, 14:30] + 1) % 48  # the fourth scale
    after = model.logits(changed, labels)
    assert torch.equal(before[:, :30], after[:, :30])
    assert (before[:, 30:] - after[:, 30:]).abs().max() > 1e-3


@torch.no_grad()
def test_var_in_training_mode_draws_no_random_numbers():
    model, (tokens, labels) = tiny_var(), golden_inputs()
    expected, state = model.logits(tokens, labels), torch.get_rng_state()
    assert torch.equal(model.train().logits(tokens, labels), expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_var_log_likelihood_gradient_equals_that_in_float64():
    model, (tokens, labels) = tiny_var(), golden_inputs()
    exact = copy.deepcopy(model).double()
    model.log_likelihood(tokens, labels).sum().backward()
    exact.log_likelihood(tokens, labels).sum().backward()
    assert exact.log_likelihood(tokens, labels).dtype == torch.float64
    for (name, ours), (_, theirs) in zip(model.named_parameters(), exact.named_parameters(), strict=True):
        assert ours.grad is not None, name
        error = (ours.grad - theirs.grad).norm() / theirs.grad.norm()
        assert error < 1e-5, f"{name}: {error}"


def test_var_log_likelihood_gradient_equals_finite_differences_in_float64():
    model, (tokens, labels) = tiny_var().double(), golden_inputs()
    generator = torch.Generator().manual_seed(3)
    parameters = list(model.parameters())
    directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    slopes = torch.autograd.grad(model.log_likelihood(tokens, labels).sum(), parameters)
    expected = sum((slope * direction).sum() for slope, direction in zip(slopes, directions, strict=True))

    def moved_by(step):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=step)
            value = model.log_likelihood(tokens, labels).sum()
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.sub_(direction, alpha=step)
        return value

    step = 1e-6
    torch.testing.assert_close((moved_by(step) - moved_by(-step)) / (2 * step), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_var_likelihoods_of_all_tokens_at_a_place_sum_to_one():
    model, (tokens, labels) = tiny_var(), golden_inputs()
    last = tokens[:1].repeat(48, 1)
    last[:, -1] = torch.arange(48)
    likelihoods = model.token_log_likelihood(last, labels[:1].repeat(48))[:, -1].exp()
    torch.testing.assert_close(likelihoods.sum(), torch.tensor(1.0), rtol=1e-5, atol=0)


def test_var_copies_share_the_tokenizer_and_own_none_of_it():
    model = tiny_var()
    assert copy.deepcopy(model).tokenizer is model.tokenizer
    inside = {id(module) for module in model.modules()}
    assert not inside & {id(module) for module in model.tokenizer.modules()}
    assert list(model.state_dict()) == list(state_dict(VAR_GOLDEN))
    assert len(list(model.parameters())) == len(list(get_family("var").build(var_config()).parameters()))


def test_var_and_its_tokenizer_come_back_from_checkpoints(tmp_path):
    model, (tokens, labels) = tiny_var(), golden_inputs()
    for name, network, config in (("var", model, var_config()), ("vqvae", model.tokenizer, vqvae_config())):
        save_checkpoint(tmp_path / name, network, CheckpointManifest(family="var", network=config))
    loaded, vqvae = load_checkpoint(tmp_path / "var"), load_checkpoint(tmp_path / "vqvae")
    assert (loaded.info.space, loaded.info.img_resolution) == ("tokens", 6)
    loaded.family.attach_autoencoder(loaded.model, vqvae.model)
    assert torch.equal(loaded.model.log_likelihood(tokens, labels), model.log_likelihood(tokens, labels))
    info = info_of(loaded.manifest, loaded.model)
    assert (info.network, info.img_resolution, info.img_channels, info.label_dim) == ("VAR", 12, 3, 10)
    assert vqvae.model.is_autoencoder


def test_var_reports_pixels_with_a_tokenizer_and_tokens_without():
    model, bare = tiny_var(), get_family("var").build(var_config())
    assert (model.img_resolution, model.img_channels, model.label_dim, model.works_on) == (12, 3, 10, "tokens")
    assert (bare.img_resolution, bare.img_channels, bare.label_dim, bare.works_on) == (6, 8, 10, "tokens")
    with pytest.raises(IncompatibleInputs, match="VQVAE"):
        bare.logits(*golden_inputs())


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"vocab_size": 47}, "vocab_size"),
        ({"z_channels": 4}, "z_channels"),
        ({"v_patch_nums": [1, 2, 6]}, "patch_nums"),
    ],
)
def test_attach_tokenizer_of_other_tokens_is_refused(change, where):
    other = get_family("var").build(vqvae_config() | change)
    with pytest.raises(IncompatibleInputs, match=where):
        tiny_var().attach_tokenizer(other)


@pytest.mark.parametrize(
    ("name", "value"),
    [("lvl_1L", 4), ("attn_bias_for_masking", 0.0), ("blocks.1.attn.zero_k_bias", 0.5)],
)
def test_var_buffers_that_are_not_the_architecture_s_are_refused(name, value):
    weights = state_dict(VAR_GOLDEN)
    weights[name] = torch.full_like(weights[name], value)
    with pytest.raises(CorruptCheckpoint, match=name):
        get_family("var").build(var_config()).load_state_dict(weights)


@pytest.mark.parametrize(
    ("labels", "where"),
    [
        (torch.tensor([0, 11]), "0 … 10"),
        (torch.tensor([-1, 0]), "0 … 10"),
        (torch.tensor([0]), "shape"),
        (torch.tensor([0.0, 1.0]), "integers"),
    ],
)
def test_var_labels_that_are_no_classes_are_refused(labels, where):
    with pytest.raises(ValueError, match=where):
        tiny_var().logits(golden_inputs()[0], labels)


@torch.no_grad()
def test_var_labels_may_be_any_integers():
    model, (tokens, labels) = tiny_var(), golden_inputs()
    expected = model.logits(tokens, labels)
    for form in (labels.tolist(), labels.numpy(), labels.to(torch.int32)):
        assert torch.equal(model.logits(tokens, form), expected)


def test_var_tokens_out_of_range_are_refused():
    tokens, labels = golden_inputs()
    with pytest.raises(ValueError, match="0 … 47"):
        tiny_var().log_likelihood(tokens + 48, labels)


def test_var_stored_in_half_precision_still_gives_float32_logits():
    model, (tokens, labels) = tiny_var(), golden_inputs()
    expected = model.logits(tokens, labels)
    half = copy.deepcopy(model).to(torch.bfloat16)
    logits = half.logits(tokens, labels)
    assert logits.dtype == torch.float32
    assert 0 < (logits - expected).abs().max() < 0.2


@torch.no_grad()
def test_var_at_initialisation_gives_all_tokens_nearly_the_same_likelihood():
    model = get_family("var").build(var_config())
    model.attach_tokenizer(tiny_var().tokenizer)
    logits = model.logits(*golden_inputs())
    assert 0 < logits.std() < 0.1
    torch.testing.assert_close(functional.softmax(logits, -1).mean((0, 1)), torch.full((48,), 1 / 48), rtol=0.1, atol=0)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"num_heads": 3}, "num_heads"),
        ({"depth": 10**9}, "depth"),
        ({"embed_dim": 10**9}, "embed_dim"),
        ({"num_classes": -1}, "num_classes"),
        ({"patch_nums": [2, 1]}, "coarse to fine"),
        ({"patch_nums": []}, "patch_nums"),
        ({"mlp_ratio": 0.001}, "mlp_ratio"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio"),
        ({"norm_eps": 0}, "norm_eps"),
        ({"cond_drop_rate": 1.5}, "cond_drop_rate"),
        ({"shared_aln": True}, "shared_aln"),
        ({"attn_l2_norm": False}, "attn_l2_norm"),
        ({"flash_if_available": True}, "flash_if_available"),
    ],
)
def test_build_var_with_a_configuration_we_do_not_have_names_the_argument(change, where):
    with pytest.raises(CorruptCheckpoint, match=where):
        get_family("var").build(var_config() | change)


@pytest.mark.parametrize("missing", ["vocab_size", "z_channels", "num_classes", "class_name"])
def test_build_var_with_an_incomplete_configuration_names_what_is_missing(missing):
    config = {key: value for key, value in var_config().items() if key != missing}
    with pytest.raises(CorruptCheckpoint, match=missing):
        get_family("var").build(config)
