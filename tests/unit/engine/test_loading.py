"""Models by their file, with the autoencoder that belongs to them."""

import io

import pytest
import torch

from ddo_engine import convert, load_model
from ddo_engine.checkpoint import read_manifest
from ddo_engine.conversion import ConversionOptions
from ddo_engine.converted_inputs import convert_inputs
from ddo_engine.errors import IncompatibleInputs
from ddo_engine.events import EventWriter
from ddo_engine.families import get_family
from ddo_engine.interruption import StopRequest
from ddo_engine.run_context import RunContext
from ddo_engine.spec import FileRef, ValidateSpec

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


def test_convert_inputs_gives_a_vqvae_the_scales_of_its_var(tmp_path):
    var, vqvae = (FileRef(path=str(path)) for path in var_files(tmp_path))
    spec = ValidateSpec(checkpoint=var, autoencoder=vqvae, dataset=var, feature_network=var)
    context = RunContext(tmp_path, torch.device("cpu"), EventWriter(io.StringIO()), StopRequest())
    converted = convert_inputs(spec, context)["autoencoder"]
    assert read_manifest(converted.path).network["v_patch_nums"] == list(TEN_SCALES)
