"""The EDM networks equal the official ones."""

import pytest
import torch
from torch import nn

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

NETWORKS = ["01_edm_ddpmpp_uncond", "02_edm_ddpmpp_cond", "03_edm_ncsnpp_cond"]
CONDITIONAL = NETWORKS[1:]


def inputs(name):
    labels = class_indices(name, "class_labels") if "class_labels" in arrays(name) else None
    return tensor(name, "x"), tensor(name, "sigma"), labels


@pytest.mark.parametrize("name", NETWORKS)
def test_song_unet_state_dict_has_official_names_in_official_order(name):
    model = get_family("edm").build(description(name)["constructor"])
    ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    official = {key: tuple(value.shape) for key, value in state_dict(name).items()}
    assert list(ours.items()) == list(official.items())


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_edm_precond_without_augmentation_equals_official(name):
    model = golden_model(name)
    assert_golden(model.free_form(*inputs(name)), arrays(name)["F"])
    assert_golden(model.free_form(*inputs(name)), arrays(name)["F_f64"])
    assert_golden(model.denoise(*inputs(name)), arrays(name)["D"])
    assert_golden(model(*inputs(name)), arrays(name)["D"])


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_edm_precond_with_augmentation_labels_equals_official(name):
    model, augment_labels = golden_model(name), tensor(name, "augment_labels")
    assert_golden(model.free_form(*inputs(name), augment_labels), arrays(name)["F_aug"])
    assert_golden(model.denoise(*inputs(name), augment_labels), arrays(name)["D_aug"])


@pytest.mark.parametrize("name", CONDITIONAL)
@torch.no_grad()
def test_edm_precond_without_labels_uses_the_null_label(name):
    x, sigma, _ = inputs(name)
    assert_golden(golden_model(name).denoise(x, sigma, None), arrays(name)["D_null_label"])


@pytest.mark.parametrize(("name", "part"), [(NETWORKS[0], "map_noise"), (NETWORKS[2], "map_noise")])
@torch.no_grad()
def test_edm_precond_with_sines_and_cosines_exchanged_is_told_apart_by_the_golden_numbers(name, part):
    model = golden_model(name)

    class Exchanged(nn.Module):
        def __init__(self, embedding):
            super().__init__()
            self.embedding = embedding

        def forward(self, c_noise_B):
            return torch.cat(self.embedding(c_noise_B).chunk(2, dim=1)[::-1], dim=1)

    setattr(model.model, part, Exchanged(getattr(model.model, part)))
    with pytest.raises(AssertionError):
        assert_golden(model.free_form(*inputs(name)), arrays(name)["F"])


@torch.no_grad()
def test_edm_precond_unconditional_takes_no_notice_of_labels():
    model = golden_model(NETWORKS[0])
    x, sigma, _ = inputs(NETWORKS[0])
    assert torch.equal(model.denoise(x, sigma, torch.tensor([3, 1, 2])), model.denoise(x, sigma, None))


@torch.no_grad()
def test_edm_precond_takes_labels_in_many_forms():
    model, (x, sigma, indices) = golden_model(NETWORKS[1]), inputs(NETWORKS[1])
    rows = tensor(NETWORKS[1], "class_labels")
    expected = model.denoise(x, sigma, indices)
    for form in (rows, rows.double().numpy(), indices.tolist(), indices.numpy(), indices.to(torch.int32)):
        assert torch.equal(model.denoise(x, sigma, form), expected)
    alike = model.denoise(x, sigma, rows[:1].expand(3, -1))
    for form in (rows[:1], rows[0], indices[:1], indices[0], int(indices[0])):
        assert torch.equal(model.denoise(x, sigma, form), alike)


@pytest.mark.parametrize(
    ("labels", "where"),
    [
        ([0, 1, 10], "0 … 9"),
        ([0, 1, -1], "0 … 9"),
        ([0, 1], "2 labels for 3 images"),
        (torch.zeros(2, 10), "2 labels for 3 images"),
        (torch.zeros(3, 9), "10 values"),
        (torch.zeros(3, 10, dtype=torch.int64), "shape"),
    ],
)
def test_edm_precond_labels_that_are_no_classes_are_refused(labels, where):
    x, sigma, _ = inputs(NETWORKS[1])
    with pytest.raises(ValueError, match=where):
        golden_model(NETWORKS[1]).denoise(x, sigma, labels)


@torch.no_grad()
def test_edm_precond_under_autocast_stays_in_float32():
    model = golden_model(NETWORKS[1])
    expected = model.denoise(*inputs(NETWORKS[1]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.nn.functional.linear(torch.ones(1, 1), torch.ones(1, 1)).dtype == torch.bfloat16
        assert torch.equal(model.denoise(*inputs(NETWORKS[1])), expected)


@pytest.mark.parametrize("block", ["block0", "block1", "block2"])
@torch.no_grad()
def test_unet_block_equals_official(block):
    name = "05_edm_blocks"
    module = UNetBlock(**description(name)["constructors"][block]).eval()
    official = state_dict(name, f"{block}_sd/")
    assert list(module.state_dict()) == list(official)
    module.load_state_dict(official)
    assert_golden(module(tensor(name, f"{block}_x"), tensor(name, f"{block}_emb")), arrays(name)[f"{block}_out"])


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_edm_precond_with_weights_stored_in_half_precision_computes_in_float32(name):
    # the golden weights are representable in float16
    model = golden_model(name).half()
    assert_golden(model.free_form(*inputs(name)), arrays(name)["F"])


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_song_unet_in_float16_is_close_to_float32_and_only_used_where_the_checkpoint_allows_it(name):
    model = golden_model(name)
    model.compute_dtype = torch.float16
    assert_golden(model.denoise(*inputs(name)), arrays(name)["D"])
    model.use_fp16 = True
    difference = (model.denoise(*inputs(name)) - tensor(name, "D")).abs().max()
    assert 1e-5 < difference < 1e-2


@pytest.mark.parametrize("name", NETWORKS)
def test_song_unet_accepts_what_only_matters_to_official_training(name):
    config = description(name)["constructor"] | {"label_dropout": 0.1, "use_fp16": True}
    assert get_family("edm").build(config).use_fp16


def test_edm_precond_built_without_augment_dim_refuses_augmentation_labels():
    config = description(NETWORKS[0])["constructor"] | {"augment_dim": 0}
    model = get_family("edm").build(config)
    x, sigma, _ = inputs(NETWORKS[0])
    with pytest.raises(ValueError, match="augment_dim"):
        model.denoise(x, sigma, None, tensor(NETWORKS[0], "augment_labels"))


@pytest.mark.parametrize("name", NETWORKS)
def test_song_unet_at_initialisation_outputs_almost_nothing(name):
    model = get_family("edm").build(description(name)["constructor"])
    with torch.no_grad():
        F = model.free_form(*inputs(name))
    assert 0 < F.abs().max() < 1e-3
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training


@pytest.mark.parametrize("name", NETWORKS)
def test_song_unet_every_parameter_gets_a_gradient(name):
    model = golden_model(name)
    x, sigma, labels = inputs(name)
    model.free_form(x, sigma, labels, tensor(name, "augment_labels")).square().sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"model_type": "UNet"}, "model_type"),
        ({"model_type": "DhariwalUNet"}, "network.embedding_type"),
        ({"encoder_type": "skip"}, "encoder_type"),
        ({"decoder_type": "skip"}, "decoder_type"),
        ({"use_fp16": 16}, "network.use_fp16"),
        ({"model_channels": 10**9}, "model_channels"),
        ({"model_channels": 130}, "divisible"),
        ({"num_blocks": 10**9}, "num_blocks"),
        ({"channel_mult": []}, "channel_mult"),
        ({"channel_mult": [1] * 6}, "img_resolution"),
        ({"resample_filter": [1, 2, 1]}, "resample_filter"),
        ({"resample_filter": [1, -1]}, "resample_filter"),
        ({"sigma_data": 0}, "sigma_data"),
        ({"label_dropout": 1.1}, "label_dropout"),
        ({"class_name": "torch.nn.Linear"}, "class_name"),
    ],
)
def test_build_network_with_a_configuration_we_do_not_have_names_the_argument(change, where):
    config = description(NETWORKS[1])["constructor"] | change
    with pytest.raises(CorruptCheckpoint, match=where):
        get_family("edm").build(config)


@pytest.mark.parametrize("config", [{}, {"class_name": "MLPPrecond"}, {"class_name": None}, {"class_name": ["x"]}])
def test_build_network_with_an_incomplete_configuration_is_refused(config):
    with pytest.raises(CorruptCheckpoint, match="network"):
        get_family("edm").build(config)
