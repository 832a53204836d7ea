"""EDM2's network equals the official one, and keeps magnitudes as its authors say."""

import copy

import numpy as np
import pytest
import torch

from ddo_engine.errors import CorruptCheckpoint
from ddo_engine.families import get_family
from ddo_engine.families.edm2.layers import MPConv
from ddo_engine.families.edm2.precond import normalise_weights_
from ddo_engine.families.edm2.unet import Block, BlockOptions
from ddo_engine.families.protocol import LabelledImages
from ddo_engine.spec import TrainingSettings
from tests.numerics.golden import arrays, assert_golden, class_indices, description, golden_model, state_dict, tensor

NETWORKS = ["08_edm2_cond", "09_edm2_guide", "10_edm2_uncond"]
CONDITIONAL = NETWORKS[:2]
TRAINED = [NETWORKS[0], NETWORKS[2]]
AFTER = "after_train_fwd_"
TRAINING = TrainingSettings(kimg=1, batch_size=4, learning_rate=1e-3, ema_half_life_kimg=1, evaluate_every_kimg=1)


def inputs(name):
    labels = class_indices(name, "class_labels") if "class_labels" in arrays(name) else None
    return tensor(name, "x"), tensor(name, "sigma"), labels


def built(**changes):
    return get_family("edm2").build(description(NETWORKS[0])["constructor"] | changes)


@pytest.mark.parametrize("name", NETWORKS)
def test_edm2_state_dict_has_official_names_in_official_order(name):
    model = get_family("edm2").build(description(name)["constructor"])
    ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    official = {key: tuple(value.shape) for key, value in state_dict(name).items()}
    assert list(ours.items()) == list(official.items())
    assert not model.training


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_edm2_in_eval_mode_equals_official_and_leaves_its_weights_alone(name):
    model = golden_model(name, "edm2")
    assert_golden(model.free_form(*inputs(name)), arrays(name)["F"])
    assert_golden(model.denoise(*inputs(name)), arrays(name)["D"])
    assert_golden(model(*inputs(name)), arrays(name)["D"])
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state_dict(name).items())


@pytest.mark.parametrize("name", CONDITIONAL)
@torch.no_grad()
def test_edm2_without_labels_uses_the_null_label(name):
    x, sigma, _ = inputs(name)
    assert_golden(golden_model(name, "edm2").denoise(x, sigma, None), arrays(name)["D_null_label"])


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_edm2_logvar_equals_official(name):
    model, sigma = golden_model(name, "edm2"), tensor(name, "sigma")
    assert_golden(model.logvar(sigma), arrays(name)["logvar"])
    assert_golden(model.logvar(float(sigma[1])), arrays(name)["logvar"][1:2])
    assert_golden(model.logvar(sigma.reshape(-1, 1, 1, 1)), arrays(name)["logvar"])


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_edm2_with_parameters_stored_in_half_precision_equals_official(name):
    model = golden_model(name, "edm2").half()
    D = model.denoise(*inputs(name))
    assert D.dtype == torch.float32
    assert_golden(D, arrays(name)["D_half_params"])
    assert_golden(model.logvar(tensor(name, "sigma")), arrays(name)["logvar_half_params"])


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_edm2_with_half_precision_gains_converted_first_is_told_apart_by_the_golden_numbers(name):
    model = golden_model(name, "edm2").half().float()
    with pytest.raises(AssertionError):
        assert_golden(model.denoise(*inputs(name)), arrays(name)["D_half_params"])


@pytest.mark.parametrize("name", TRAINED)
@torch.no_grad()
def test_edm2_in_training_mode_equals_official_and_normalises_its_weights(name):
    model = golden_model(name, "edm2").train()
    assert_golden(model.denoise(*inputs(name)), arrays(name)["D_train"])
    assert_golden(model.logvar(tensor(name, "sigma")), arrays(name)["logvar_train"])
    after = model.state_dict()
    official = {key.removeprefix(AFTER): value for key, value in arrays(name).items() if key.startswith(AFTER)}
    changed = [key.removeprefix("absmean/") for key in official if key.startswith("absmean/")]
    assert changed == [key for key, value in state_dict(name).items() if not torch.equal(value, after[key])]
    for key in changed:
        np.testing.assert_allclose(after[key].double().abs().mean(), official[f"absmean/{key}"], rtol=1e-6)
    for key, value in official.items():
        if key.startswith("full/"):
            np.testing.assert_allclose(after[key.removeprefix("full/")], value, rtol=1e-6, atol=1e-7)
    assert_golden(model.eval().denoise(*inputs(name)), arrays(name)["D_eval_after_train"])


@pytest.mark.parametrize("name", TRAINED)
@torch.no_grad()
def test_weights_normalised_at_once_make_eval_mode_equal_training_mode(name):
    trained, normalised = golden_model(name, "edm2").train(), golden_model(name, "edm2")
    get_family("edm2").constrain_(normalised)
    expected = trained.denoise(*inputs(name))
    trained.logvar(1.0)
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), normalised.parameters(), strict=True))
    assert torch.equal(normalised.denoise(*inputs(name)), expected)


@torch.no_grad()
def test_normalise_weights_leaves_the_outputs_and_what_is_normal_already():
    model = built()
    torch.nn.init.ones_(model.unet.out_gain)
    before = model.free_form(*inputs(NETWORKS[0]))
    for module in model.modules():
        if isinstance(module, MPConv):
            module.weight.mul_(3)
    gains = {key: value.clone() for key, value in model.state_dict().items() if key.endswith("gain")}
    normalise_weights_(model)
    torch.testing.assert_close(model.free_form(*inputs(NETWORKS[0])), before, rtol=1e-3, atol=1e-3)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in gains.items())
    for module in model.modules():
        if isinstance(module, MPConv):
            rms = module.weight.flatten(1).square().mean(1).sqrt()
            torch.testing.assert_close(rms, torch.ones_like(rms), rtol=2e-4, atol=0)
    once = copy.deepcopy(model.state_dict())
    normalise_weights_(model)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, once[key], rtol=2e-4, atol=0)


def test_edm2_gradients_flow_through_the_normalisation():
    name = NETWORKS[0]
    model = golden_model(name, "edm2")
    weights = tensor(name, "x").cos()
    (model.free_form(*inputs(name)) * weights).sum().backward()
    unused = {"logvar_linear.weight"}
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()] == sorted(unused)
    for key, weight in model.named_parameters():
        if weight.ndim > 1 and key not in unused:
            # the output does not depend on a row's magnitude, so its gradient is orthogonal to it
            along = (weight * weight.grad).flatten(1).sum(1).abs()
            across = weight.flatten(1).norm(dim=1) * weight.grad.flatten(1).norm(dim=1)
            assert (along <= 2e-3 * across + 1e-9).all(), key


def test_edm2_directional_derivative_agrees_with_its_gradient():
    name = NETWORKS[2]
    model = golden_model(name, "edm2")
    weight = model.unet.enc["4x4_block0"].conv_res1.weight
    x, sigma, labels = inputs(name)
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))

    def objective():
        return (model.free_form(x, sigma, labels) * x.cos()).sum()

    objective().backward()
    expected = (weight.grad * direction).sum()
    with torch.no_grad():
        step = 1e-2
        weight.add_(direction, alpha=step)
        ahead = objective()
        weight.sub_(direction, alpha=2 * step)
        behind = objective()
    torch.testing.assert_close((ahead - behind) / (2 * step), expected, rtol=2e-2, atol=1e-4)


def test_edm2_ratios_of_equal_models_are_zero_even_in_training_mode_with_dropout():
    target = built(dropout=0.5)
    target.load_state_dict(state_dict(NETWORKS[0]))
    reference = copy.deepcopy(target)
    target.train()
    batch = LabelledImages(torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8), torch.arange(4))
    real, fake, _ = get_family("edm2").log_likelihood_ratios(
        target, reference, batch, batch, TRAINING, torch.Generator().manual_seed(0)
    )
    assert torch.equal(real, torch.zeros(4))
    assert torch.equal(fake, torch.zeros(4))
    assert all(torch.equal(a, b) for a, b in zip(target.parameters(), reference.parameters(), strict=True))


def test_edm2_dropout_is_random_in_training_mode_alone():
    model = built(dropout=0.5)
    model.load_state_dict(state_dict(NETWORKS[0]))
    with torch.no_grad():
        assert_golden(model.denoise(*inputs(NETWORKS[0])), arrays(NETWORKS[0])["D"])
        model.train()
        outputs = [model.denoise(*inputs(NETWORKS[0])) for _ in range(2)]
    # far more than what the weights' second normalisation does
    assert (outputs[0] - outputs[1]).abs().max() > 1e-2


@torch.no_grad()
def test_edm2_in_float16_is_close_to_float32_and_keeps_its_embedding_in_float32():
    name = NETWORKS[0]
    model = golden_model(name, "edm2")
    single = {"emb_noise", "emb_label", "enc.8x8_block0.emb_linear", "dec.8x8_in0.emb_linear"}
    half = {"enc.16x16_conv", "enc.8x8_block0.conv_res0", "enc.8x8_block0.attn_proj", "dec.16x16_up", "out_conv"}
    dtypes = {}
    for part in single | half:
        model.unet.get_submodule(part).register_forward_hook(
            lambda _, __, output, part=part: dtypes.update({part: output.dtype})
        )
    model.compute_dtype = torch.float16
    D = model.denoise(*inputs(name))
    assert D.dtype == torch.float32
    assert 1e-5 < (D - tensor(name, "D")).abs().max() < 1e-2
    assert dtypes == dict.fromkeys(single, torch.float32) | dict.fromkeys(half, torch.float16)


@torch.no_grad()
def test_edm2_without_use_fp16_computes_in_float32_whatever_a_sampler_asks_for():
    model = golden_model(NETWORKS[2], "edm2")
    model.compute_dtype = torch.float16
    assert_golden(model.denoise(*inputs(NETWORKS[2])), arrays(NETWORKS[2])["D"])


@torch.no_grad()
def test_edm2_under_autocast_stays_in_float32():
    name = NETWORKS[0]
    model = golden_model(name, "edm2")
    expected, logvar = model.denoise(*inputs(name)), model.logvar(2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.nn.functional.linear(torch.ones(1, 1), torch.ones(1, 1)).dtype == torch.bfloat16
        assert torch.equal(model.denoise(*inputs(name)), expected)
        assert torch.equal(model.logvar(2.0), logvar)


@torch.no_grad()
def test_edm2_image_depends_on_its_own_row_alone():
    name = NETWORKS[0]
    model = golden_model(name, "edm2")
    x, sigma, labels = inputs(name)
    together = model.denoise(x, sigma, labels)
    alone = torch.cat([model.denoise(x[i : i + 1], sigma[i], labels[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_edm2_at_initialisation_outputs_nothing():
    assert not built().free_form(*inputs(NETWORKS[0])).any()


def test_edm2_refuses_augmentation_labels():
    with pytest.raises(ValueError, match="augmentation"):
        built().denoise(*inputs(NETWORKS[0]), torch.ones(3, 9))


def test_edm2_block_narrower_than_a_head_has_no_attention():
    assert Block(16, 16, 8, "encoder", BlockOptions(), attention=True).num_heads == 0


@torch.no_grad()
def test_edm2_activations_stay_within_clip_act():
    x, emb = torch.full((1, 4, 2, 2), 1000.0), torch.ones(1, 8)
    bounded = Block(4, 4, 8, "decoder", BlockOptions(clip_act=256.0)).eval()
    unbounded = Block(4, 4, 8, "decoder", BlockOptions(clip_act=None)).eval()
    unbounded.load_state_dict(bounded.state_dict())
    assert unbounded(x, emb).abs().max() > 256
    assert torch.equal(bounded(x, emb), unbounded(x, emb).clip(-256, 256))


@torch.no_grad()
def test_edm2_attention_with_several_heads_equals_one_head_at_a_time():
    block = Block(32, 32, 8, "encoder", BlockOptions(channels_per_head=16), attention=True).eval()
    assert block.num_heads == 2
    qkv = torch.randn(2, 96, 3, 3, generator=torch.Generator().manual_seed(0))
    # rows 3 (16 h + c) + (0, 1, 2) are channel c of q, k and v of head h
    q, k, v = (qkv.flatten(2)[:, part::3] for part in range(3))
    heads = []
    for head in (slice(0, 16), slice(16, 32)):
        # unit root mean square over the head's channels
        unit_q, unit_k, unit_v = (
            part[:, head] / (part[:, head].square().mean(1, keepdim=True).sqrt() + 1e-4) for part in (q, k, v)
        )
        weights = torch.einsum("bcq,bck->bqk", unit_q, unit_k / 4).softmax(dim=2)
        heads.append(torch.einsum("bqk,bck->bcq", weights, unit_v))
    torch.testing.assert_close(block._attention(qkv), torch.cat(heads, dim=1).reshape(2, 32, 3, 3))


def test_edm2_constructor_defaults_are_the_official_ones():
    with torch.device("meta"):
        model = get_family("edm2").build({"class_name": "Precond", "img_resolution": 64, "img_channels": 3})
    options = model.unet.dec["8x8_block0"].options
    assert (options.res_balance, options.attn_balance, options.clip_act) == (0.3, 0.3, 256)
    assert (options.channels_per_head, options.dropout) == (64, 0)
    assert (model.unet.label_balance, model.unet.concat_balance) == (0.5, 0.5)
    assert model.use_fp16
    assert model.unet.enc["64x64_conv"].weight.shape[0] == 192
    assert model.logvar_linear.weight.shape[1] == 128


def test_edm2_options_of_blocks_reach_every_block():
    changes = {
        "resample_filter": (1.0, 3.0, 3.0, 1.0),
        "channels_per_head": 8,
        "dropout": 0.25,
        "res_balance": 0.2,
        "attn_balance": 0.4,
        "clip_act": None,
    }
    blocks = [module for module in built(**changes).modules() if isinstance(module, Block)]
    assert {block.options for block in blocks} == {BlockOptions(**changes)}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"class_name": "UNet"}, "network.class_name"),
        ({"img_resolution": None}, "network.img_resolution"),
        ({"img_resolution": 15}, "img_resolution"),
        ({"model_channels": 10**9}, "network.model_channels"),
        ({"num_blocks": 0}, "network.num_blocks"),
        ({"channel_mult": []}, "network.channel_mult"),
        ({"channel_mult_noise": 0}, "network.channel_mult_noise"),
        ({"channels_per_head": 0}, "network.channels_per_head"),
        ({"model_channels": 20, "channels_per_head": 6}, "channels_per_head"),
        ({"resample_filter": [1, 2, 1]}, "resample_filter"),
        ({"resample_filter": [1, -1]}, "network.resample_filter"),
        ({"res_balance": 1.5}, "network.res_balance"),
        ({"dropout": 1}, "network.dropout"),
        ({"clip_act": 0}, "network.clip_act"),
        ({"sigma_data": float("inf")}, "network.sigma_data"),
        ({"logvar_channels": 10**9}, "network.logvar_channels"),
        ({"qk_norm": True}, "network.qk_norm"),
    ],
)
def test_edm2_with_a_configuration_that_cannot_be_built_is_refused_by_the_argument(change, where):
    with pytest.raises(CorruptCheckpoint, match=where):
        built(**change)
