"""VAR's tokenizer equals the official one."""

import pytest
import torch

from ddo_engine.errors import CorruptCheckpoint
from ddo_engine.families import get_family
from ddo_engine.families.var.quantizer import SharedPhi
from tests.numerics.golden import arrays, assert_golden, description, official_keys, state_dict, tensor
from tests.numerics.var_models import VQVAE_GOLDEN, random_images, tiny_vqvae, vqvae_config

SMALL_GREY = {
    "class_name": "VQVAE",
    "vocab_size": 16,
    "z_channels": 4,
    "ch": 12,
    "ch_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "in_channels": 1,
    "v_patch_nums": [1, 2, 3],
    "using_sa": False,
    "using_mid_sa": False,
}


def test_vqvae_state_dict_has_official_names_in_official_order():
    ours = {key: tuple(value.shape) for key, value in get_family("var").build(vqvae_config()).state_dict().items()}
    official = {key: tuple(value.shape) for key, value in state_dict(VQVAE_GOLDEN).items()}
    assert list(ours.items()) == list(official.items())


def test_vqvae_of_full_size_has_the_official_state_dict():
    official = official_keys("vae_ch160v4096z32")
    with torch.device("meta"):
        vqvae = get_family("var").build(official["constructor"])
    ours = [(key, list(value.shape), str(value.dtype)) for key, value in vqvae.state_dict().items()]
    assert ours == [(key, shape, f"torch.{dtype}") for key, (shape, dtype) in official["state_dict"].items()]
    assert sum(parameter.numel() for parameter in vqvae.parameters()) == official["num_params"]
    assert (vqvae.img_resolution, vqvae.img_channels, vqvae.num_tokens) == (256, 3, 680)


@torch.no_grad()
def test_vqvae_features_and_quantisation_equal_official():
    vqvae, golden = tiny_vqvae(), arrays(VQVAE_GOLDEN)
    features = vqvae.features(tensor(VQVAE_GOLDEN, "img"))
    assert_golden(features, golden["f"])
    quantisation = vqvae.quantise(features)
    for scale, tokens in enumerate(quantisation.tokens):
        assert torch.equal(tokens, tensor(VQVAE_GOLDEN, f"idx_scale{scale}"))
    for scale in (0, 2, 4):
        assert_golden(quantisation.f_hats[scale], golden[f"fhat_scale{scale}"])
    assert_golden(vqvae.decode_features(quantisation.f_hats[0]), golden["recon_first"])
    assert_golden(vqvae.decode_features(quantisation.f_hats[-1]), golden["recon_last"])


def test_vqvae_tokens_images_and_transformer_inputs_equal_official():
    vqvae, golden = tiny_vqvae(), arrays(VQVAE_GOLDEN)
    tokens = vqvae.encode(tensor(VQVAE_GOLDEN, "img"))
    assert torch.equal(tokens, tensor(VQVAE_GOLDEN, "idx_cat"))
    assert_golden(vqvae.decode(tokens), golden["recon_last"])
    assert_golden(vqvae(tensor(VQVAE_GOLDEN, "img")), golden["img_to_reconstructed_last"])
    assert_golden(vqvae.next_scale_inputs(tokens), golden["var_input"])


def test_shared_phi_gives_each_scale_the_official_convolution():
    of_five = [SharedPhi(2, 4, 0.5).index(scale / 4) for scale in range(5)]
    assert of_five == description(VQVAE_GOLDEN)["phi_index_per_scale"]
    assert [SharedPhi(2, 4, 0.5).index(scale / 9) for scale in range(10)] == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert [SharedPhi(2, 2, 0.5).index(scale / 4) for scale in range(5)] == [0, 0, 0, 1, 1]


@torch.no_grad()
def test_vqvae_features_of_tokens_are_those_of_their_quantisation_to_the_bit():
    vqvae = tiny_vqvae()
    quantisation = vqvae.quantise(vqvae.features(random_images(3).images_BCHW))
    tokens = torch.cat(quantisation.tokens, dim=1)
    assert torch.equal(vqvae.f_hat(tokens), quantisation.f_hats[-1])
    assert [part.shape[1] for part in vqvae.split(tokens)] == [1, 4, 9, 16, 36]


@torch.no_grad()
def test_vqvae_every_token_is_the_entry_nearest_to_what_coarser_scales_leave_over():
    vqvae = tiny_vqvae()
    features = vqvae.features(random_images(4).images_BCHW)
    quantisation = vqvae.quantise(features)
    codebook = vqvae.quantize.embedding.weight.double()
    left_over = features
    for scale, tokens in enumerate(quantisation.tokens):
        rows = vqvae.quantize.at_scale(left_over, scale).double()
        assert torch.equal(torch.cdist(rows, codebook.expand(4, -1, -1)).argmin(2), tokens)
        left_over = features - quantisation.f_hats[scale]


def test_vqvae_encode_takes_bytes_as_it_takes_floats():
    vqvae, images = tiny_vqvae(), random_images(2).images_BCHW
    assert torch.equal(vqvae.encode(images), vqvae.encode(images.double() / 127.5 - 1))


def test_vqvae_quantisation_lets_gradients_reach_codebook_and_phi():
    vqvae = tiny_vqvae()
    vqvae.quantise(vqvae.features(random_images(1).images_BCHW)).f_hats[-1].square().sum().backward()
    reached = {name for name, parameter in vqvae.named_parameters() if parameter.grad is not None}
    assert "quantize.embedding.weight" in reached
    assert "quantize.quant_resi.qresi_ls.3.weight" in reached
    assert "quant_conv.weight" not in reached


def test_vqvae_of_another_size_and_one_channel_decodes_what_it_encodes():
    vqvae = get_family("var").build(SMALL_GREY)
    assert (vqvae.img_resolution, vqvae.img_channels, vqvae.num_tokens) == (12, 1, 14)
    images = torch.randint(256, (2, 1, 12, 12), dtype=torch.uint8)
    tokens = vqvae.encode(images)
    decoded = vqvae.decode(tokens)
    assert tokens.shape == (2, 14)
    assert decoded.shape == (2, 1, 12, 12)
    assert decoded.abs().max() <= 1
    assert {module.num_groups for module in vqvae.modules() if isinstance(module, torch.nn.GroupNorm)} == {1, 2}


@pytest.mark.parametrize(
    ("images", "where"),
    [
        (torch.zeros(2, 3, 12, 13), "shape"),
        (torch.zeros(2, 1, 12, 12), "shape"),
        (torch.zeros(3, 12, 12), "shape"),
        (torch.zeros(2, 3, 12, 12, dtype=torch.int32), "uint8"),
    ],
)
def test_vqvae_encode_of_images_it_does_not_take_says_what_it_takes(images, where):
    with pytest.raises(ValueError, match=where):
        tiny_vqvae().encode(images)


@pytest.mark.parametrize(
    ("tokens", "where"),
    [
        (torch.zeros(2, 65, dtype=torch.int64), "66"),
        (torch.zeros(66, dtype=torch.int64), "66"),
        (torch.zeros(2, 66), "int64"),
        (torch.full((2, 66), 48), "0 … 47"),
        (torch.full((2, 66), -1), "0 … 47"),
    ],
)
def test_vqvae_decode_of_tokens_it_does_not_know_says_which_it_knows(tokens, where):
    with pytest.raises(ValueError, match=where):
        tiny_vqvae().decode(tokens)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"vocab_size": 1}, "vocab_size"),
        ({"ch": 30}, "ch"),
        ({"ch": 10**9}, "ch"),
        ({"ch_mult": []}, "ch_mult"),
        ({"ch_mult": [1] * 9}, "ch_mult"),
        ({"v_patch_nums": [1]}, "v_patch_nums"),
        ({"v_patch_nums": [1, 3, 2]}, "coarse to fine"),
        ({"v_patch_nums": [1, 65]}, "v_patch_nums"),
        ({"share_quant_resi": 1}, "share_quant_resi"),
        ({"quant_resi": 0}, "quant_resi"),
        ({"num_res_blocks": 10**9}, "num_res_blocks"),
        ({"dropout": 1.0}, "dropout"),
        ({"using_znorm": True}, "using_znorm"),
        ({"class_name": "os.system"}, "network"),
    ],
)
def test_build_vqvae_with_a_configuration_we_do_not_have_names_the_argument(change, where):
    with pytest.raises(CorruptCheckpoint, match=where):
        get_family("var").build(vqvae_config() | change)
