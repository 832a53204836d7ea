"""Checkpoints come back as they went, and whatever is wrong with one is said in a sentence."""

import json
import re
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

import ddo_engine
from ddo_engine.checkpoint import CheckpointManifest, check_checkpoint, load_checkpoint, read_manifest, save_checkpoint
from ddo_engine.errors import CorruptCheckpoint
from ddo_engine.families import get_family
from ddo_engine.loading import load_model
from ddo_engine.spec import CheckpointInfo

NETWORK = {"class_name": "MLPPrecond", "img_resolution": 4, "img_channels": 1, "label_dim": 3, "width": 8}
UNET = {
    "class_name": "EDMPrecond",
    "model_type": "SongUNet",
    "img_resolution": 8,
    "img_channels": 3,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "embedding_type": "fourier",
}
MANIFEST = CheckpointManifest(family="edm", network=NETWORK, provenance={"kimg": 12.5, "round": 1})


def build(config=NETWORK):
    torch.manual_seed(0)
    model = get_family("edm").build(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, build(), MANIFEST)
    return path


def write(path, tensors=None, manifest=MANIFEST, **metadata):
    """A checkpoint with something wrong about it."""
    text = manifest if isinstance(manifest, str) else json.dumps(manifest.model_dump(mode="json"))
    save_file(dict(build().state_dict()) if tensors is None else tensors, path, metadata or {"ddo_manifest": text})


def refused(path):
    with pytest.raises(CorruptCheckpoint) as caught:
        load_checkpoint(path)
    with pytest.raises(CorruptCheckpoint) as checked:
        check_checkpoint(path)
    assert str(checked.value) == str(caught.value)
    return caught.value


@pytest.mark.parametrize("config", [NETWORK, UNET], ids=["mlp", "unet"])
def test_checkpoint_comes_back_to_the_bit(tmp_path, config):
    model = build(config)
    save_checkpoint(tmp_path / "a", model, CheckpointManifest(family="edm", network=config))
    loaded = load_checkpoint(tmp_path / "a")
    assert list(loaded.model.state_dict()) == list(model.state_dict())
    for ours, theirs in zip(loaded.model.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    x, sigma = torch.randn(2, config["img_channels"], *[config["img_resolution"]] * 2), torch.ones(2)
    with torch.no_grad():
        assert torch.equal(loaded.model.denoise(x, sigma, None), model.denoise(x, sigma, None))


def test_checkpoint_loads_ready_to_sample_and_to_train(path):
    loaded = load_checkpoint(path)
    assert not any(module.training for module in loaded.model.modules())
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.family.name == "edm"
    assert loaded.manifest == MANIFEST == read_manifest(path)
    assert loaded.info == CheckpointInfo(
        family="edm",
        network="MLPPrecond",
        num_parameters=sum(p.numel() for p in build().parameters()),
        img_resolution=4,
        img_channels=1,
        label_dim=3,
    )


def test_checkpoint_in_memory_does_not_change_with_its_file(path):
    model = load_model(path)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with path.open("r+b") as file:
        file.seek(-400, 2)
        file.write(b"\1" * 400)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_checkpoint_of_equal_weights_and_manifest_is_the_same_bytes(path, tmp_path):
    reordered = CheckpointManifest(
        family="edm", network=dict(reversed(NETWORK.items())), provenance={"round": 1, "kimg": 12.5}
    )
    save_checkpoint(tmp_path / "again", build(), reordered)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_checkpoint_bytes_do_not_depend_on_the_process(path, tmp_path):
    code = f"""
import torch
from ddo_engine.checkpoint import load_checkpoint, save_checkpoint
loaded = load_checkpoint({str(path)!r})
save_checkpoint({str(tmp_path / "other")!r}, loaded.model, loaded.manifest)
"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)}
    )
    assert (tmp_path / "other").read_bytes() == path.read_bytes()


def test_load_model_of_the_package_is_the_same_function():
    assert ddo_engine.load_model is load_model


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_checkpoint_truncated_is_refused(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    assert "upload it again" in str(refused(path))


@pytest.mark.parametrize("name", ["absent", "."])
def test_checkpoint_that_is_no_file_is_refused(tmp_path, name):
    assert "cannot be read" in str(refused(tmp_path / name))
    with pytest.raises(CorruptCheckpoint, match="cannot be read"):
        read_manifest(tmp_path / name)


@pytest.mark.parametrize("content", [b"not a checkpoint at all", b"\x80\x04\x95" + bytes(100), b"PK\3\4" + bytes(100)])
def test_checkpoint_of_another_format_is_refused(path, content):
    path.write_bytes(content)
    assert "safetensors" in str(refused(path))


def test_checkpoint_with_a_huge_header_is_refused_before_it_is_parsed(path):
    path.write_bytes(struct.pack("<Q", 2**25) + b"{" * 2**25)
    with pytest.raises(CorruptCheckpoint, match=r"header of 33554432 bytes is far longer"):
        load_checkpoint(path)


def test_checkpoint_with_a_header_that_promises_terabytes_is_refused(path):
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    assert "cannot be read" in str(refused(path))


def test_checkpoint_without_manifest_is_refused(path):
    write(path, format="pt")
    assert "ddo_manifest" in str(refused(path))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"family": "edm"}',
        '{"family": "edm", "network": [], "provenance": {}}',
        '{"family": "edm", "network": {}, "surprise": 1}',
        '{"family": "edm", "network": {}, "format_version": 0}',
        "[" * 100_000,
    ],
)
def test_checkpoint_with_a_broken_manifest_is_refused(path, text):
    write(path, manifest=text)
    assert "manifest" in str(refused(path))


def test_checkpoint_of_a_newer_format_asks_for_a_newer_engine(path):
    write(path, manifest=MANIFEST.model_copy(update={"format_version": 2}))
    assert "update the engine" in str(refused(path))


def test_checkpoint_of_an_unknown_family_names_the_known_ones(path):
    write(path, manifest=MANIFEST.model_copy(update={"family": "gan"}))
    error = refused(path)
    assert "'gan'" in str(error)
    assert "edm" in str(error)
    assert error.param == "family"


@pytest.mark.parametrize(
    "change",
    [
        {"class_name": "os.system"},
        {"width": 10**9},
        {"num_blocks": 10**9},
        {"img_resolution": 10**9},
        {"width": -1},
        {"width": 8.5},
        {"nonsense": 1},
    ],
)
def test_checkpoint_with_an_absurd_network_is_refused_by_its_manifest(path, change):
    write(path, manifest=MANIFEST.model_copy(update={"network": NETWORK | change}))
    assert str(refused(path).param).startswith("network")


def test_checkpoint_that_describes_a_larger_network_takes_no_memory(path):
    # 4,096 channels, 64-fold at twelve levels: 10^14 weights if anybody built them.
    huge = UNET | {
        "img_resolution": 4096,
        "model_channels": 4096,
        "channel_mult": [64] * 12,
        "num_blocks": 1,
        "attn_resolutions": [],
    }
    write(path, manifest=MANIFEST.model_copy(update={"network": huge}))
    assert "is missing" in str(refused(path))


def test_checkpoint_with_missing_tensors_names_them(path):
    tensors = build().state_dict()
    del tensors["model.output.bias"]
    write(path, tensors)
    assert "model.output.bias is missing" in str(refused(path))


def test_checkpoint_with_foreign_tensors_names_them(path):
    write(path, build().state_dict() | {"model.stranger": torch.zeros(1)})
    assert "model.stranger does not belong" in str(refused(path))


def test_checkpoint_of_another_network_lists_a_few_and_counts_the_rest(path):
    write(path, {f"weight{i}": torch.zeros(1) for i in range(50)})
    assert "more like these" in str(refused(path))
    assert len(str(refused(path))) < 600


def test_checkpoint_with_a_tensor_of_another_shape_names_both(path):
    write(path, build().state_dict() | {"model.output.bias": torch.zeros(15)})
    assert "[15], not [16]" in str(refused(path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.float8_e4m3fn])
def test_checkpoint_with_a_tensor_of_another_dtype_is_refused(path, dtype):
    write(path, build().state_dict() | {"model.output.bias": torch.zeros(16, dtype=dtype)})
    assert re.search("not F32|which no family uses", str(refused(path)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_checkpoint_in_half_precision_loads_as_stored_or_as_float32(path, dtype):
    save_checkpoint(path, build().to(dtype), MANIFEST)
    stored, widened = load_checkpoint(path).model, load_model(path, dtype=torch.float32)
    assert check_checkpoint(path) == MANIFEST
    for name, weight in build().state_dict().items():
        assert torch.equal(stored.state_dict()[name], weight.to(dtype))
        assert torch.equal(widened.state_dict()[name], weight.to(dtype).float())
    assert all(parameter.requires_grad for parameter in stored.parameters())


def test_checkpoint_bytes_are_those_of_the_library(path, tmp_path):
    text = json.dumps(MANIFEST.model_dump(mode="json"), sort_keys=True)
    save_file(build().state_dict(), tmp_path / "theirs", {"ddo_manifest": text})
    assert path.read_bytes() == (tmp_path / "theirs").read_bytes()


def test_checkpoint_loads_in_no_more_memory_than_it_takes(tmp_path):
    path = tmp_path / "large.safetensors"
    large = NETWORK | {"width": 4096}
    save_checkpoint(path, get_family("edm").build(large), CheckpointManifest(family="edm", network=large))
    code = f"""
import resource
from ddo_engine.checkpoint import check_checkpoint, load_checkpoint
load_checkpoint({str(tmp_path / "small")!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
check_checkpoint({str(path)!r})
checked = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
kept = load_checkpoint({str(path)!r})
print(checked - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    save_checkpoint(tmp_path / "small", build(), MANIFEST)
    environment = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True)
    size_kib = path.stat().st_size / 1024
    checking, loading = (int(figure) for figure in done.stdout.split())
    assert size_kib > 100_000
    assert checking < 0.3 * size_kib
    assert loading < 1.3 * size_kib


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_checkpoint_with_a_weight_that_is_not_finite_names_it(path, value):
    tensors = build().state_dict()
    tensors["model.output.bias"][3] = value
    write(path, tensors)
    assert "model.output.bias" in str(refused(path))
    assert "diverged" in str(refused(path))


def test_get_family_of_an_unknown_name_is_refused():
    with pytest.raises(CorruptCheckpoint, match=r"known: .*edm, edm2"):
        get_family("edm3")


def test_package_imports_without_torch_and_has_no_other_names():
    code = """
import sys, ddo_engine, ddo_engine.families
assert "torch" not in sys.modules
assert {"load_model", "sample"} <= set(dir(ddo_engine))
assert "torch" not in sys.modules
ddo_engine.load_model
assert "torch" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
    with pytest.raises(AttributeError, match="nothing"):
        ddo_engine.nothing  # noqa: B018
