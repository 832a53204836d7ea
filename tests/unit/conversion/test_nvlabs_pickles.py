"""Pickles in NVlabs' layout come through bit for bit, and say what their network is."""

import numpy as np
import pytest
import torch

import ddo_engine
from ddo_engine.checkpoint import load_checkpoint
from ddo_engine.conversion import convert, open_official
from ddo_engine.errors import CorruptCheckpoint
from ddo_engine.families.diffusion.space import LatentScaling
from tests.numerics import golden
from tests.official_pickles import Persistent, dumped, edm2_file, edm_file, latent_encoder, network, write
from tests.unit.conversion.hostile_pickles import ARGUMENTS, good, weights
from tests.unit.conversion.official_files import EDM, EDM2, arguments_of, pickle_of, stored_weights


@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.parametrize("name", EDM + EDM2)
def test_official_pickle_converts_bit_for_bit(tmp_path, name, generation):
    source = write(tmp_path / "official.pkl", pickle_of(name, generation))
    assert (b"numpy.core.multiarray" in source.read_bytes()) == (generation == 1)
    manifest = convert(source, tmp_path / "ours.safetensors")
    official = golden.description(name)["constructor"]
    assert official.items() <= manifest.network.items()
    loaded = load_checkpoint(tmp_path / "ours.safetensors")
    assert loaded.manifest == manifest
    ours = loaded.model.state_dict()
    for ours_name, official_name in zip(ours, stored_weights(name), strict=True):
        assert ours_name == official_name
        expected = stored_weights(name)[official_name]
        assert ours[ours_name].dtype == expected.dtype
        assert torch.equal(ours[ours_name], expected)


@pytest.mark.parametrize("name", EDM)
def test_model_of_an_official_pickle_denoises_as_the_official_one(tmp_path, name):
    model = ddo_engine.load_model(write(tmp_path / "official.pkl", pickle_of(name)))
    labels = golden.class_indices(name, "class_labels") if model.label_dim else None
    with torch.no_grad():
        denoised = model.denoise(golden.tensor(name, "x"), golden.tensor(name, "sigma"), labels)
    golden.assert_golden(denoised, golden.arrays(name)["D"])


@pytest.mark.parametrize("name", EDM2[:2])
def test_model_of_an_edm2_pickle_denoises_with_its_half_precision_weights(tmp_path, name):
    model = ddo_engine.load_model(write(tmp_path / "official.pkl", pickle_of(name)))
    labels = golden.class_indices(name, "class_labels")
    with torch.no_grad():
        denoised = model.denoise(golden.tensor(name, "x"), golden.tensor(name, "sigma"), labels)
    golden.assert_golden(denoised, golden.arrays(name)["D_half_params"])


def test_tensors_keep_their_official_order(tmp_path):
    official = open_official(write(tmp_path / "official.pkl", pickle_of(EDM[2])))
    assert list(official.tensors) == list(golden.state_dict(EDM[2]))


def test_manifest_says_where_the_weights_are_from(tmp_path):
    source = write(tmp_path / "edm-cifar10.pkl", pickle_of(EDM[0]))
    provenance = open_official(source).manifest.provenance
    assert provenance["converted_from"]["name"] == "edm-cifar10.pkl"
    assert provenance["converted_from"]["format"] == "nvlabs-pickle"
    assert len(provenance["converted_from"]["sha256"]) == 64
    assert provenance["dataset_kwargs"]["path"] == "cifar10.zip"
    assert "CC BY-NC-SA" in provenance["licence"]


def test_positional_arguments_are_named(tmp_path):
    rest = {
        key: value for key, value in ARGUMENTS.items() if key not in ("img_resolution", "img_channels", "label_dim")
    }
    content = dumped({"ema": network("EDMPrecond", rest, weights(), 4, 1, 0)})
    manifest = open_official(write(tmp_path / "official.pkl", content)).manifest
    assert manifest.network.items() >= {"img_resolution": 4, "img_channels": 1, "label_dim": 0}.items()


def test_argument_given_twice_is_refused(tmp_path):
    content = dumped({"ema": network("EDMPrecond", ARGUMENTS, weights(), 4)})
    with pytest.raises(CorruptCheckpoint, match="img_resolution twice"):
        open_official(write(tmp_path / "official.pkl", content))


def test_default_sigma_range_is_dropped_from_the_configuration(tmp_path):
    arguments = {**ARGUMENTS, "sigma_min": 0, "sigma_max": float("inf")}
    manifest = open_official(write(tmp_path / "official.pkl", edm_file(arguments, weights()))).manifest
    assert not {"sigma_min", "sigma_max"} & manifest.network.keys()


def test_numbers_of_numpy_are_plain_in_the_configuration(tmp_path):
    arguments = {**ARGUMENTS, "dropout": np.float32(0.25), "channel_mult": np.array([1])}
    manifest = open_official(write(tmp_path / "official.pkl", edm_file(arguments, weights()))).manifest
    assert manifest.network["dropout"] == 0.25
    assert manifest.network["channel_mult"] == [1]


def test_model_type_that_was_left_to_its_default_is_that_of_the_network(tmp_path):
    root = network("EDMPrecond", ARGUMENTS, weights())
    root.state["_init_kwargs"] = {key: value for key, value in ARGUMENTS.items() if key != "model_type"}
    manifest = open_official(write(tmp_path / "official.pkl", dumped({"ema": root}))).manifest
    assert manifest.network["model_type"] == "SongUNet"


@pytest.mark.parametrize("class_name", ["VPPrecond", "VEPrecond", "iDDPMPrecond"])
def test_other_preconditionings_are_refused_with_the_reason(tmp_path, class_name):
    content = dumped({"ema": network(class_name, ARGUMENTS, weights())})
    with pytest.raises(CorruptCheckpoint, match=f"{class_name}.*preconditioning"):
        open_official(write(tmp_path / "official.pkl", content))


def test_tensors_in_another_dense_layout_become_row_major(tmp_path):
    name = next(key for key, weight in weights().items() if weight.dim() == 4 and min(weight.shape[:2]) > 1)
    permuted = weights()[name].contiguous(memory_format=torch.channels_last)
    assert not permuted.is_contiguous()
    convert(write(tmp_path / "a.pkl", edm_file(ARGUMENTS, {**weights(), name: permuted})), tmp_path / "a.safetensors")
    assert torch.equal(load_checkpoint(tmp_path / "a.safetensors").model.state_dict()[name], weights()[name])


def test_tensor_within_a_larger_storage_is_found(tmp_path):
    bias = "model.map_layer0.bias"
    within = torch.cat([torch.zeros(5), weights()[bias], torch.zeros(3)])[5:-3]
    convert(write(tmp_path / "a.pkl", edm_file(ARGUMENTS, {**weights(), bias: within})), tmp_path / "a.safetensors")
    assert torch.equal(load_checkpoint(tmp_path / "a.safetensors").model.state_dict()[bias], weights()[bias])


def test_every_storage_type_is_read_as_torch_reads_it(tmp_path):
    values = {
        dtype: torch.tensor([0, 1, 3], dtype=dtype)
        for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
                      torch.uint8, torch.bool)
    }  # fmt: skip
    tensors = {f"model.{index}": value for index, value in enumerate(values.values())}
    official = open_official(write(tmp_path / "a.pkl", edm_file(ARGUMENTS, tensors)))
    for stored, value in zip(official.tensors.values(), values.values(), strict=True):
        assert stored.dtype == value.dtype
        assert torch.equal(stored.read(), value)


def test_encoder_of_pixels_has_no_scaling(tmp_path):
    assert open_official(write(tmp_path / "a.pkl", pickle_of(EDM2[0]))).manifest.latent_scaling is None


OFFICIAL_SCALING = LatentScaling(raw_mean=(5.81, 3.25, 0.12, -2.15), raw_std=(4.17, 4.62, 3.71, 3.28))


@pytest.mark.parametrize("arguments", [{}, {"final_std": 1.0}, {"raw_mean": [1, 2, 3, 4], "raw_std": [1, 2, 3, 5]}])
def test_scaling_of_latents_is_that_of_the_encoder(tmp_path, arguments):
    content = edm2_file(arguments_of(EDM2[2]), golden.state_dict(EDM2[2]), encoder=latent_encoder(**arguments))
    official = open_official(write(tmp_path / "a.pkl", content))
    assert official.manifest.latent_scaling == LatentScaling.model_validate(OFFICIAL_SCALING.model_dump() | arguments)
    assert official.manifest.provenance["encoder"]["vae_name"] == "stabilityai/sd-vae-ft-mse"
    convert(tmp_path / "a.pkl", tmp_path / "a.safetensors")
    assert load_checkpoint(tmp_path / "a.safetensors").info.space == "latents"


def test_scaling_of_an_encoder_that_keeps_its_arrays_alone_is_recovered_from_them(tmp_path):
    encoder = latent_encoder(raw_mean=[1, 2, 3, 4], raw_std=[1, 2, 4, 5])
    encoder.state["_init_kwargs"] = {}
    content = edm2_file(arguments_of(EDM2[2]), golden.state_dict(EDM2[2]), encoder=encoder)
    scaling = open_official(write(tmp_path / "a.pkl", content)).manifest.latent_scaling
    assert scaling.raw_mean == pytest.approx((1, 2, 3, 4))
    assert scaling.raw_std == pytest.approx((1, 2, 4, 5))


@pytest.mark.parametrize("change", [{"scale": "x"}, {"scale": 1.0}, {"bias": np.ones((2, 2))}, {"scale": np.zeros(4)}])
def test_encoder_with_another_scale_is_refused(tmp_path, change):
    encoder = latent_encoder()
    encoder.state.update(change)
    content = edm2_file(arguments_of(EDM2[2]), golden.state_dict(EDM2[2]), encoder=encoder)
    with pytest.raises(CorruptCheckpoint, match="encoder"):
        open_official(write(tmp_path / "a.pkl", content))


def test_unknown_encoder_is_named(tmp_path):
    content = edm2_file(arguments_of(EDM2[2]), golden.state_dict(EDM2[2]), encoder=Persistent("WaveletEncoder", {}))
    with pytest.raises(CorruptCheckpoint, match="WaveletEncoder"):
        open_official(write(tmp_path / "a.pkl", content))


def test_file_name_has_no_say(tmp_path):
    assert open_official(write(tmp_path / "model.safetensors", good())).format == "nvlabs-pickle"
