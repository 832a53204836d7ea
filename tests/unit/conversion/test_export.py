"""What we export, the official code loads: official names in official order, bit for bit."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ddo_engine.checkpoint import read_manifest
from ddo_engine.conversion import convert, export
from ddo_engine.errors import CorruptCheckpoint, InvalidSpec
from ddo_engine.families import get_family
from tests.numerics import golden
from tests.official_pickles import write
from tests.unit.conversion.official_files import EDM, EDM2, pickle_of, saved, stored_weights
from tests.unit.conversion.test_state_dicts import VQVAE_SIDES, var


@pytest.fixture
def ours(tmp_path):
    convert(write(tmp_path / "official.pth", saved(var())), tmp_path / "ours.safetensors")
    return tmp_path / "ours.safetensors"


@pytest.mark.parametrize("name", ["13_vqvae", "14_var"])
def test_round_trip_of_a_state_dict_is_bit_exact_and_loads_strictly(tmp_path, name):
    weights = golden.state_dict(name)
    options = VQVAE_SIDES if name == "13_vqvae" else None
    manifest = convert(write(tmp_path / "official.pth", saved(weights)), tmp_path / "ours.safetensors", options)
    export(tmp_path / "ours.safetensors", tmp_path / "again.pth")
    again = torch.load(tmp_path / "again.pth", weights_only=True)
    assert list(again) == list(weights)
    for key, weight in weights.items():
        assert again[key].dtype == weight.dtype
        assert torch.equal(again[key], weight)
    network = get_family(manifest.family).build(manifest.network)
    assert network.load_state_dict(again, strict=True).missing_keys == []


@pytest.mark.parametrize("name", EDM + EDM2)
def test_round_trip_of_a_pickle_is_bit_exact(tmp_path, name):
    convert(write(tmp_path / "official.pkl", pickle_of(name)), tmp_path / "ours.safetensors")
    export(tmp_path / "ours.safetensors", tmp_path / "again.safetensors")
    again = load_file(tmp_path / "again.safetensors")
    assert again.keys() == stored_weights(name).keys()
    for key, weight in stored_weights(name).items():
        assert again[key].dtype == weight.dtype
        assert torch.equal(again[key], weight)


def test_safetensors_keep_their_manifest(tmp_path, ours):
    export(ours, tmp_path / "again.safetensors")
    assert read_manifest(tmp_path / "again.safetensors") == read_manifest(ours)
    assert (tmp_path / "again.safetensors").read_bytes() == ours.read_bytes()


def test_exported_state_dict_converts_back_to_the_same_weights(tmp_path, ours):
    export(ours, tmp_path / "again.pth")
    convert(tmp_path / "again.pth", tmp_path / "back.safetensors")
    with safe_open(ours, "pt") as before, safe_open(tmp_path / "back.safetensors", "pt") as after:
        assert all(torch.equal(before.get_tensor(name), after.get_tensor(name)) for name in before.keys())  # noqa: SIM118


@pytest.mark.parametrize("export_format", ["pth", "safetensors"])
def test_format_can_be_named(tmp_path, ours, export_format):
    export(ours, tmp_path / "file", export_format)
    head = (tmp_path / "file").read_bytes()[:9]
    assert head.startswith(b"PK") if export_format == "pth" else head.endswith(b"{")


def test_equal_checkpoints_export_to_equal_bytes_whatever_their_name(tmp_path, ours):
    export(ours, tmp_path / "a.pth")
    export(ours, tmp_path / "b.pth")
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def test_half_precision_casts_weights_and_leaves_integers(tmp_path, ours):
    export(ours, tmp_path / "half.pth", dtype="float16")
    half = torch.load(tmp_path / "half.pth", weights_only=True)
    assert half["head.weight"].dtype == torch.float16
    assert torch.equal(half["head.weight"], var()["head.weight"].half())
    assert half["lvl_1L"].dtype == torch.int64


def test_weights_beyond_half_precision_are_refused(tmp_path):
    large = var() | {"head.bias": torch.full((6,), 1e6)}
    convert(write(tmp_path / "a.pth", saved(large)), tmp_path / "a.safetensors")
    with pytest.raises(InvalidSpec, match=r"head\.bias.*float16"):
        export(tmp_path / "a.safetensors", tmp_path / "b.pth", dtype="float16")
    assert not (tmp_path / "b.pth").exists()


def test_masks_may_be_infinite_and_weights_may_not(tmp_path, ours):
    assert torch.isinf(var()["attn_bias_for_masking"]).any()
    export(ours, tmp_path / "b.pth", dtype="float16")
    for name, value in (("head.bias", float("inf")), ("attn_bias_for_masking", float("nan"))):
        broken = var() | {name: torch.full_like(var()[name], value)}
        with pytest.raises(CorruptCheckpoint, match=name):
            convert(write(tmp_path / "c.pth", saved(broken)), tmp_path / "c")
        assert not (tmp_path / "c").exists()


def test_mask_of_other_scales_is_refused_when_it_is_converted(tmp_path):
    broken = var() | {"attn_bias_for_masking": torch.zeros(1, 1, 5, 5)}
    with pytest.raises(CorruptCheckpoint, match="attn_bias_for_masking"):
        convert(write(tmp_path / "c.pth", saved(broken)), tmp_path / "c")


def test_export_into_a_missing_folder_says_so(tmp_path, ours):
    with pytest.raises(InvalidSpec, match="cannot be written"):
        export(ours, tmp_path / "nowhere" / "a.pth")
