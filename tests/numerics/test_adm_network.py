"""ADM's U-Net equals the official one."""

import pytest
import torch

from ddo_engine.errors import CorruptCheckpoint
from ddo_engine.families import get_family
from ddo_engine.families.edm.layers import UNetBlock
from tests.numerics.golden import (
    arrays,
    assert_golden,
    class_indices,
    description,
    golden_model,
    state_dict,
    tensor,
)

NAME = "04_edm_adm_cond"
IMAGENET_64 = {
    "class_name": "EDMPrecond",
    "img_resolution": 64,
    "img_channels": 3,
    "label_dim": 1000,
    "use_fp16": True,
    "model_type": "DhariwalUNet",
    "model_channels": 192,
    "channel_mult": [1, 2, 3, 4],
    "num_blocks": 3,
    "attn_resolutions": [32, 16, 8],
    "dropout": 0.10,
    "augment_dim": 0,
}


def inputs():
    return tensor(NAME, "x"), tensor(NAME, "sigma"), class_indices(NAME, "class_labels")


def built(**changes):
    return get_family("edm").build(description(NAME)["constructor"] | changes)


def test_adm_state_dict_has_official_names_in_official_order():
    ours = {key: tuple(value.shape) for key, value in built().state_dict().items()}
    official = {key: tuple(value.shape) for key, value in state_dict(NAME).items()}
    assert list(ours.items()) == list(official.items())


@torch.no_grad()
def test_adm_equals_official():
    model = golden_model(NAME)
    x, sigma, labels = inputs()
    assert_golden(model.free_form(x, sigma, labels), arrays(NAME)["F"])
    assert_golden(model.denoise(x, sigma, labels), arrays(NAME)["D"])
    assert_golden(model.denoise(x, sigma, tensor(NAME, "class_labels")), arrays(NAME)["D"])
    assert_golden(model.denoise(x, sigma, None), arrays(NAME)["D_null_label"])


@torch.no_grad()
def test_adm_in_float64_equals_official():
    model = golden_model(NAME).double().model
    F = model(*(tensor(NAME, key).double() for key in ("F_in", "c_noise", "class_labels")), None)
    assert F.dtype == torch.float64
    # attention works in float32
    torch.testing.assert_close(F, tensor(NAME, "F_f64"), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("endpoint", [True, False])
@torch.no_grad()
def test_adm_with_the_frequencies_of_ddpmpp_is_told_apart_by_the_golden_numbers(endpoint):
    model = golden_model(NAME)
    model.model.map_noise.endpoint = endpoint
    if not endpoint:
        assert_golden(model.free_form(*inputs()), arrays(NAME)["F"])
        return
    with pytest.raises(AssertionError):
        assert_golden(model.free_form(*inputs()), arrays(NAME)["F"])


@torch.no_grad()
def test_adm_with_weights_stored_in_half_precision_computes_in_float32():
    # the golden weights are representable in float16
    assert_golden(golden_model(NAME).half().free_form(*inputs()), arrays(NAME)["F"])


@torch.no_grad()
def test_adm_in_float16_is_close_to_float32_and_keeps_its_embedding_in_float32():
    model = golden_model(NAME)
    dtypes = {}
    for name in ("map_layer1", "enc.8x8_block0", "out_conv"):
        model.model.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: dtypes.update({name: output.dtype})
        )
    model.compute_dtype = torch.float16
    difference = (model.denoise(*inputs()) - tensor(NAME, "D")).abs().max()
    assert 1e-5 < difference < 1e-2
    assert dtypes == {"map_layer1": torch.float32, "enc.8x8_block0": torch.float16, "out_conv": torch.float16}


@torch.no_grad()
def test_adm_without_use_fp16_computes_in_float32_whatever_a_sampler_asks_for():
    model = built(use_fp16=False)
    model.load_state_dict(state_dict(NAME))
    model.compute_dtype = torch.float16
    assert_golden(model.denoise(*inputs()), arrays(NAME)["D"])


@torch.no_grad()
def test_adm_attention_with_several_heads_equals_one_head_at_a_time():
    block = UNetBlock(128, 128, 8, attention=True).eval()
    assert block.num_heads == 2
    x = torch.randn(2, 128, 4, 4, generator=torch.Generator().manual_seed(0))
    # rows 3 (64 h + c) + (0, 1, 2) of qkv are channel c of q, k and v of head h
    q, k, v = (block.qkv(block.norm2(x)).flatten(2)[:, part::3] for part in range(3))
    heads = []
    for head in (slice(0, 64), slice(64, 128)):
        weights = torch.einsum("bcq,bck->bqk", q[:, head], k[:, head] / 8).softmax(dim=2)
        heads.append(torch.einsum("bqk,bck->bcq", weights, v[:, head]))
    torch.testing.assert_close(block._attention(x), torch.cat(heads, dim=1).reshape(x.shape))


def test_adm_for_imagenet_64_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = get_family("edm").build(IMAGENET_64)
    # arXiv:2105.05233, table 4: 296 million
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6) == 296
    assert model.use_fp16
    heads = {m.num_heads for m in model.modules() if isinstance(m, UNetBlock)}
    assert heads == {0, 6, 9, 12}


def test_adm_at_initialisation_outputs_nothing():
    with torch.no_grad():
        assert not built(augment_dim=3).free_form(*inputs(), torch.ones(3, 3)).any()


def test_adm_every_parameter_gets_a_gradient():
    model = built(augment_dim=3)
    model.load_state_dict(state_dict(NAME) | {"model.map_augment.weight": torch.ones(16, 3)})
    assert next(iter(model.state_dict())) == "model.map_augment.weight"
    model.free_form(*inputs(), torch.ones(3, 3)).square().sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_adm_built_without_augment_dim_refuses_augmentation_labels():
    with pytest.raises(ValueError, match="augment_dim"):
        golden_model(NAME).denoise(*inputs(), torch.ones(3, 3))


def test_adm_is_what_the_official_default_of_model_type_means():
    config = dict(description(NAME)["constructor"])
    del config["model_type"]
    model = get_family("edm").build(config | {"label_dropout": 0.1})
    assert list(model.state_dict()) == list(state_dict(NAME))


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"embedding_type": "positional"}, "network.embedding_type"),
        ({"model_channels": 10**9}, "network.model_channels"),
        ({"model_channels": 50}, "divisible"),
        ({"model_channels": 36, "channel_mult": [1, 5]}, "divisible|heads"),
        ({"num_blocks": 0}, "network.num_blocks"),
        ({"channel_mult": [1] * 5}, "img_resolution"),
        ({"dropout": 1}, "network.dropout"),
        ({"sigma_data": float("nan")}, "network.sigma_data"),
        ({"label_dropout": "often"}, "network.label_dropout"),
    ],
)
def test_adm_with_a_configuration_that_cannot_be_built_is_refused_by_the_argument(change, where):
    with pytest.raises(CorruptCheckpoint, match=where):
        built(**change)
