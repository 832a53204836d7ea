"""Models by their file, with the autoencoder that belongs to them."""

import io
from pathlib import Path

import pytest
import torch

from ddo_engine import convert, load_model
from ddo_engine.checkpoint import read_manifest
from ddo_engine.conversion import ConversionOptions
from ddo_engine.converted_inputs import convert_inputs
from ddo_engine.errors import IncompatibleInputs, InvalidFeatureNetwork
from ddo_engine.evaluation import convert_features
from ddo_engine.events import EventWriter
from ddo_engine.families import get_family
from ddo_engine.files import sha256_of
from ddo_engine.inputs import local_path
from ddo_engine.interruption import StopRequest
from ddo_engine.run_context import RunContext
from ddo_engine.spec import FileRef, ValidateSpec
from tests.engine_inputs import make_inputs
from tests.inception_files import save_torchscript
from tests.numerics.inception_weights import inception_weights

TEN_SCALES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)  # as many as the official ones, and others


def var_files(folder, patch_nums=TEN_SCALES):
    """Write a VAR and a VQVAE as bare state dicts, the second of which does not say its scales."""
    sizes = {"vocab_size": 16, "z_channels": 4}
    var = {"class_name": "VAR", "num_classes": 3, "depth": 1, "embed_dim": 8, "num_heads": 1, "patch_nums": patch_nums}
    vqvae = {"class_name": "VQVAE", "ch": 32, "ch_mult": [1], "num_res_blocks": 1, "v_patch_nums": patch_nums}
    for name, network in (("var.pth", var), ("vqvae.pth", vqvae)):
        torch.save(get_family("var").build({**network, **sizes}).state_dict(), folder / name)
    return folder / "var.pth", folder / "vqvae.pth"


@pytest.mark.parametrize("patch_nums", [TEN_SCALES, (1, 2, 3)], ids=["as many as official", "fewer"])
def test_load_model_gives_a_vqvae_the_scales_of_its_var(tmp_path, patch_nums):
    var, vqvae = var_files(tmp_path, patch_nums)
    assert load_model(var, autoencoder=vqvae).tokenizer.patch_nums == patch_nums


def test_load_model_leaves_a_vqvae_the_scales_that_its_manifest_says(tmp_path):
    var, vqvae = var_files(tmp_path)
    convert(vqvae, tmp_path / "ours.safetensors", ConversionOptions(patch_nums=TEN_SCALES))
    assert load_model(var, autoencoder=tmp_path / "ours.safetensors").tokenizer.patch_nums == TEN_SCALES
    convert(vqvae, tmp_path / "other.safetensors")
    with pytest.raises(IncompatibleInputs, match="patch_nums"):
        load_model(var, autoencoder=tmp_path / "other.safetensors")


def context_in(folder):
    return RunContext(folder, torch.device("cpu"), EventWriter(io.StringIO()), StopRequest())


def test_convert_inputs_gives_a_vqvae_the_scales_of_its_var(tmp_path):
    var, vqvae = (FileRef(path=str(path)) for path in var_files(tmp_path))
    features = FileRef(path=str(make_inputs(tmp_path / "inputs").feature_network))
    spec = ValidateSpec(checkpoint=var, autoencoder=vqvae, dataset=var, feature_network=features)
    converted = convert_inputs(spec, context_in(tmp_path))
    assert converted.keys() == {"checkpoint", "autoencoder"}
    assert read_manifest(converted["autoencoder"].path).network["v_patch_nums"] == list(TEN_SCALES)


def with_features(folder, path):
    inputs = make_inputs(folder / "inputs")
    checkpoint, dataset = FileRef(path=str(inputs.checkpoint)), FileRef(path=str(inputs.dataset))
    return ValidateSpec(checkpoint=checkpoint, dataset=dataset, feature_network=FileRef(path=str(path)))


def test_convert_inputs_makes_ours_of_a_published_feature_network(tmp_path):
    torch.save(inception_weights(), tmp_path / "inception.pth")
    converted = convert_inputs(with_features(tmp_path, tmp_path / "inception.pth"), context_in(tmp_path))
    file = converted["feature_network"]
    convert_features(tmp_path / "inception.pth", tmp_path / "expected.safetensors")
    assert file.sha256 == sha256_of(file.path) == sha256_of(tmp_path / "expected.safetensors")


def test_convert_inputs_leaves_a_trusted_program_and_refuses_any_other(tmp_path, monkeypatch):
    save_torchscript(torch.nn.Identity(), tmp_path / "program.pt")
    spec = with_features(tmp_path, tmp_path / "program.pt")
    with pytest.raises(InvalidFeatureNetwork, match=r"program\.pt .*DDO_TRUSTED_FEATURE_NETWORKS=") as error:
        convert_inputs(spec, context_in(tmp_path))
    assert error.value.param == "feature_network"
    monkeypatch.setenv("DDO_TRUSTED_FEATURE_NETWORKS", sha256_of(tmp_path / "program.pt"))
    assert convert_inputs(spec, context_in(tmp_path)) == {}


def test_convert_inputs_damaged_feature_network_is_no_checkpoint(tmp_path):
    (tmp_path / "features").write_bytes((8).to_bytes(8, "little") + b"{}      x")
    with pytest.raises(InvalidFeatureNetwork) as error:
        convert_inputs(with_features(tmp_path, tmp_path / "features"), context_in(tmp_path))
    assert error.value.param == "feature_network"


def test_feature_network_of_a_spec_may_be_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("DDO_INCEPTION_WEIGHTS", str(tmp_path / "weights.pth"))
    assert local_path(FileRef(path="inception"), "feature_network") == tmp_path / "weights.pth"
    assert local_path(FileRef(path="inception"), "checkpoint") == Path("inception")
