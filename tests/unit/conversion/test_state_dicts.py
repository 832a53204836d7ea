"""State dicts of VAR and VQVAE: read as torch reads them, and recognised by their shapes."""

import io
import struct
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save

from ddo_engine.checkpoint import load_checkpoint, read_manifest
from ddo_engine.conversion import ConversionOptions, convert, open_official
from ddo_engine.conversion.state_dict_configuration import OFFICIAL_PATCH_NUMS, network_of_state_dict
from ddo_engine.errors import CorruptCheckpoint, EngineError, InvalidSpec
from ddo_engine.families import get_family
from ddo_engine.stored_tensor import StoredTensor
from tests.numerics import golden
from tests.official_pickles import write
from tests.unit.conversion.official_files import saved, small_official_files

VQVAE_SIDES = ConversionOptions(patch_nums=(1, 2, 3, 4, 6))


def var() -> dict[str, torch.Tensor]:
    return torch.load(io.BytesIO(small_official_files()["torch-zip"]), weights_only=True)


@pytest.mark.parametrize("content", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("name", ["13_vqvae", "14_var"])
def test_state_dict_converts_bit_for_bit(tmp_path, name, content):
    weights = golden.state_dict(name)
    data = save(weights) if content == "safetensors" else saved(OrderedDict(weights), legacy=content == "legacy")
    options = VQVAE_SIDES if name == "13_vqvae" else None
    manifest = convert(write(tmp_path / "official.pth", data), tmp_path / "ours.safetensors", options)
    model = load_checkpoint(tmp_path / "ours.safetensors").model
    assert list(model.state_dict()) == list(weights)
    assert all(torch.equal(model.state_dict()[key], weight) for key, weight in weights.items())
    official = golden.description(name)["constructor"]
    official |= golden.description(name).get("encoder_decoder", {})
    differing = {key for key, value in official.items() if manifest.network.get(key) != value}
    assert differing <= {"test_mode", "dropout"}


@pytest.mark.parametrize("name", ["var_d16", "var_d20", "var_d24", "var_d30", "vae_ch160v4096z32"])
def test_configuration_of_every_published_size_is_recovered_from_the_shapes(tmp_path, name):
    levels = torch.cat([torch.full((side * side,), level) for level, side in enumerate(OFFICIAL_PATCH_NUMS)])
    path = write(tmp_path / "levels", levels.numpy().tobytes())
    official = golden.official_keys(name)
    tensors = {
        key: StoredTensor(path, 0, getattr(torch, dtype), tuple(shape))
        for key, (shape, dtype) in official["state_dict"].items()
    }
    family, network = network_of_state_dict(tensors, ConversionOptions(), path)
    constructor = {key: value for key, value in official["constructor"].items() if key != "test_mode"}
    assert constructor.items() <= network.items()
    with torch.device("meta"):
        model = get_family(family).build(network)
    assert [(key, tuple(value.shape)) for key, value in model.state_dict().items()] == [
        (key, tensor.shape) for key, tensor in tensors.items()
    ]


@pytest.mark.parametrize("legacy", [False, True])
def test_views_buffers_and_devices_are_read_as_torch_reads_them(tmp_path, legacy):
    whole = torch.arange(12.0)
    value = OrderedDict(
        window=whole[2:8].view(2, 3),
        turned=torch.randn(4, 5).t(),
        scalar=torch.tensor(3),
        nothing=torch.zeros(0, 4),
        parameter=torch.nn.Parameter(torch.randn(3)),
        half=torch.randn(3).bfloat16(),
    )
    value._metadata = OrderedDict(version=1)
    path = write(tmp_path / "a.pth", saved(value, legacy=legacy))
    options = ConversionOptions(network={"class_name": "MLPPrecond"})
    for name, stored in open_official(path, options).tensors.items():
        expected = torch.load(path, weights_only=True)[name]
        assert stored.dtype == expected.dtype
        assert torch.equal(stored.read(), expected)
        assert torch.equal(torch.cat([torch.zeros(0, dtype=stored.dtype), *stored.pieces()]), expected.flatten())


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_wrapped_state_dict_is_understood(tmp_path, wrapper):
    path = write(tmp_path / "a.pth", saved({wrapper: var(), "epoch": 3}))
    assert convert(path, tmp_path / "a").network["class_name"] == "VAR"


def test_checkpoint_of_a_trainer_is_refused_with_the_remedy(tmp_path):
    path = write(tmp_path / "a.pth", saved({"trainer": {"var_wo_ddp": var()}, "epoch": 3}))
    with pytest.raises(CorruptCheckpoint, match=r"not a bare state dict.*state_dict\(\) alone"):
        convert(path, tmp_path / "a")


def test_other_objects_in_a_state_dict_are_refused_by_name(tmp_path):
    path = write(tmp_path / "a.pth", saved({"args": torch.nn.Linear(1, 1), **var()}))
    with pytest.raises(CorruptCheckpoint, match=r"torch\.nn\.modules\.linear\.Linear"):
        convert(path, tmp_path / "a")


def test_tied_tensors_are_refused(tmp_path):
    tied = var()
    tied["blocks.0.attn.v_bias"] = tied["blocks.0.attn.q_bias"]
    with pytest.raises(CorruptCheckpoint, match="share elements"):
        convert(write(tmp_path / "a.pth", saved(tied)), tmp_path / "a")


def test_scales_of_another_size_are_asked_for(tmp_path):
    content = saved(golden.state_dict("13_vqvae"))
    with pytest.raises(InvalidSpec, match=r"--patch-nums: the network has 5 scales.*--patch-nums 1,2"):
        convert(write(tmp_path / "a.pth", content), tmp_path / "a")
    without = {name: weight for name, weight in var().items() if name != "lvl_1L"}
    with pytest.raises(InvalidSpec, match=r"2 scales and 5 tokens"):
        convert(write(tmp_path / "b.pth", saved(without)), tmp_path / "a")


def test_scales_that_contradict_the_file_are_refused(tmp_path):
    path = write(tmp_path / "a.pth", saved(var()))
    with pytest.raises(InvalidSpec, match="patch-nums"):
        convert(path, tmp_path / "a", ConversionOptions(patch_nums=(1, 3)))
    lying = var() | {"lvl_1L": torch.tensor([[0, 0, 1, 1, 1]])}
    with pytest.raises(CorruptCheckpoint, match="lvl_1L"):
        convert(write(tmp_path / "b.pth", saved(lying)), tmp_path / "a")


@pytest.mark.parametrize("name", ["01_edm_ddpmpp_uncond", "08_edm2_cond"])
def test_state_dict_of_edm_asks_for_its_configuration_and_takes_it(tmp_path, name):
    path = write(tmp_path / "a.safetensors", save(golden.state_dict(name)))
    with pytest.raises(CorruptCheckpoint, match="--config"):
        convert(path, tmp_path / "b")
    options = ConversionOptions(network=golden.description(name)["constructor"])
    convert(path, tmp_path / "b", options)
    assert read_manifest(tmp_path / "b").network == golden.description(name)["constructor"]


def test_configuration_of_an_unknown_class_names_the_known(tmp_path):
    path = write(tmp_path / "a.pth", saved(var()))
    with pytest.raises(InvalidSpec, match=r"'UNet'.*EDMPrecond"):
        convert(path, tmp_path / "b", ConversionOptions(network={"class_name": "UNet"}))


def test_state_dict_of_something_else_is_refused_with_its_names(tmp_path):
    path = write(tmp_path / "a.pth", saved({"conv1.weight": torch.zeros(3)}))
    with pytest.raises(CorruptCheckpoint, match=r"conv1\.weight.*EDM, EDM2, VAR"):
        convert(path, tmp_path / "b")


def test_checkpoint_of_ours_passes_through_unchanged(tmp_path):
    convert(write(tmp_path / "a.pth", saved(var())), tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_options_for_a_file_that_needs_none_are_refused(tmp_path):
    convert(write(tmp_path / "a.pth", saved(var())), tmp_path / "a.safetensors")
    with pytest.raises(InvalidSpec, match="--patch-nums: the file says itself"):
        convert(tmp_path / "a.safetensors", tmp_path / "b", VQVAE_SIDES)


def test_family_that_was_not_expected_is_refused(tmp_path):
    with pytest.raises(InvalidSpec, match=r"--family.*'var'.*'edm'"):
        convert(write(tmp_path / "a.pth", saved(var())), tmp_path / "a", ConversionOptions(family="edm"))


def rezipped(content: bytes, **changes: object) -> bytes:
    """The zip file with other content of records, or compressed."""
    compression = zipfile.ZIP_DEFLATED if changes.pop("compress", False) else zipfile.ZIP_STORED
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", compression) as new:
        for entry in old.infolist():
            data = changes.pop(entry.filename.split("/", 1)[1].replace("/", "_").replace(".", "_"), old.read(entry))
            if data is not None:
                new.writestr(entry.filename, data)
    assert not changes
    return out.getvalue()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compress": True}, "compressed"),
        ({"data_0": None}, "storage '0' is missing"),
        ({"data_0": b"x"}, "storage '0' is missing or of another size"),
        ({"byteorder": b"big"}, "little-endian"),
        ({"data_pkl": b"\x80\x02cos\nsystem\nX\x01\x00\x00\x00x\x85R."}, "os.system"),
        ({"data_pkl": b"\x80\x02N."}, "not a state dict"),
        ({"data_pkl": b""}, "truncated"),
    ],
)
def test_zip_with_something_wrong_is_refused(tmp_path, changes, message):
    content = rezipped(small_official_files()["torch-zip"], **changes)
    with pytest.raises(CorruptCheckpoint, match=message):
        convert(write(tmp_path / "a.pth", content), tmp_path / "b")


def test_zip_of_several_disks_is_refused(tmp_path):
    content = bytearray(small_official_files()["torch-zip"])
    content[0] = 0  # so that it is nobody's checkpoint, and looked at as an archive
    locator = content.rfind(b"PK\6\7")
    content[locator + 4 : locator + 8] = b"\1\0\0\0"
    with pytest.raises(CorruptCheckpoint):
        convert(write(tmp_path / "a.pth", bytes(content)), tmp_path / "b")


def test_rewritten_zip_is_as_good(tmp_path):
    assert convert(write(tmp_path / "a.pth", rezipped(small_official_files()["torch-zip"])), tmp_path / "b")


def test_zip_that_promises_millions_of_entries_is_refused_before_they_are_read(tmp_path):
    content = bytearray(small_official_files()["torch-zip"])
    end = content.rfind(b"PK\5\6")
    locator = content.rfind(b"PK\6\7")
    if locator >= 0:
        content[locator : locator + 4] = b"none"
    content[end + 8 : end + 12] = struct.pack("<HH", 65535, 65535)
    with pytest.raises(CorruptCheckpoint, match="65535 entries"):
        convert(write(tmp_path / "a.pth", bytes(content)), tmp_path / "b")


@pytest.mark.parametrize("name", ["torch-zip", "torch-legacy", "safetensors"])
def test_truncated_file_is_refused(tmp_path, name):
    content = small_official_files()[name]
    for keep in [*range(0, len(content), max(1, len(content) // 40)), len(content) - 1]:
        with pytest.raises(EngineError) as caught:
            convert(write(tmp_path / "a", content[:keep]), tmp_path / "b")
        assert isinstance(caught.value, CorruptCheckpoint)
        assert not (tmp_path / "b").exists()


def test_file_that_became_shorter_is_refused(tmp_path):
    path = write(tmp_path / "a.pth", saved(var()))
    stored = open_official(path).tensors["head.weight"]
    write(path, path.read_bytes()[: stored.offset + 4])
    with pytest.raises(CorruptCheckpoint, match="became shorter"):
        stored.read()
    with pytest.raises(CorruptCheckpoint, match="became shorter"):
        list(stored.pieces())
