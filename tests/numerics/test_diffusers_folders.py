"""Folders of the library become checkpoints of ours, whose files drop back into the same folders."""

import io
import json
import random
import re
import shutil
import sys
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDPMPipeline, UNet2DModel
from safetensors.torch import load_file, save_file

import ddo_engine
from bench.fuzz_import import mutated
from ddo_engine.checkpoint import read_manifest
from ddo_engine.command_line import main
from ddo_engine.conversion import convert, convert_in_sandbox, export, inspect_checkpoint
from ddo_engine.errors import CorruptCheckpoint, EngineError, InvalidSpec
from ddo_engine.families.diffusers import import_folder
from ddo_engine.files import sha256_of_tree
from ddo_engine.spec import HeunSettings
from tests.diffusers_folders import library_autoencoder, library_unet, write_pipeline
from tests.official_pickles import write

WEIGHTS = "diffusion_pytorch_model.safetensors"
FEW_STEPS = HeunSettings(num_steps=3)


@pytest.fixture
def unet():
    return library_unet()


@pytest.fixture
def pipeline(tmp_path, unet):
    return write_pipeline(tmp_path / "pipeline", unet)


def edit(path: Path, **changes):
    """Change entries of a JSON file; ``...`` removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def refused(folder, match):
    with pytest.raises(CorruptCheckpoint, match=match):
        ddo_engine.load_model(folder)


def same_weights(first, second):
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


@torch.no_grad()
def test_pipeline_goes_to_a_checkpoint_and_back_bit_for_bit(tmp_path, pipeline, unet):
    converted, exported = tmp_path / "model.safetensors", pipeline / "unet" / WEIGHTS
    manifest = convert(pipeline, converted)
    assert manifest == read_manifest(converted)
    assert manifest.provenance["converted_from"] == {
        "name": "pipeline",
        "format": "diffusers-folder",
        "sha256": sha256_of_tree(pipeline),
    }
    model = ddo_engine.load_model(converted)
    assert ddo_engine.sample(model, [0, 1], sampler=FEW_STEPS).shape == (2, 3, 8, 8)
    original = load_file(exported)
    export(converted, exported)
    assert same_weights(load_file(exported), original)
    again = UNet2DModel.from_pretrained(pipeline / "unet", local_files_only=True).eval()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(again(x, 10).sample, unet(x, 10).sample)
    assert isinstance(DDPMPipeline.from_pretrained(pipeline, local_files_only=True), DDPMPipeline)


def test_finetuned_weights_are_what_the_library_loads(tmp_path, pipeline):
    from ddo_engine.checkpoint import load_checkpoint, save_checkpoint

    convert(pipeline, tmp_path / "base.safetensors")
    checkpoint = load_checkpoint(tmp_path / "base.safetensors")
    with torch.no_grad():
        for parameter in checkpoint.model.parameters():
            parameter.mul_(1.25)
    save_checkpoint(pipeline / "unet" / WEIGHTS, checkpoint.model, checkpoint.manifest)
    loaded = UNet2DModel.from_pretrained(pipeline / "unet", local_files_only=True)
    assert same_weights(loaded.state_dict(), checkpoint.model.state_dict())


def test_folder_is_loaded_and_inspected_without_being_converted(pipeline, unet):
    assert same_weights(ddo_engine.load_model(pipeline).state_dict(), unet.state_dict())
    report = inspect_checkpoint(pipeline)
    assert (report.format, report.info.family, report.info.network) == ("diffusers-folder", "diffusers", "UNet2DModel")
    assert (report.info.img_resolution, report.info.img_channels, report.info.label_dim) == (8, 3, 0)
    assert report.info.num_parameters == sum(parameter.numel() for parameter in unet.parameters())


def test_commands_take_a_folder(tmp_path, pipeline, capsys):
    destination = tmp_path / "model.safetensors"
    assert main(["convert", str(pipeline), str(destination), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["family"] == "diffusers"
    assert main(["inspect", str(pipeline), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["info"]["network"] == "UNet2DModel"


@pytest.mark.parametrize("is_packed", [False, True])
def test_sandbox_takes_a_folder_or_an_archive(tmp_path, pipeline, is_packed):
    source = pipeline
    if is_packed:
        source = tmp_path / "packed.zip"
        pack_zip(pipeline, source, "")
    manifest = convert_in_sandbox(source, tmp_path / "model.safetensors")
    assert manifest["family"] == "diffusers"
    assert manifest["provenance"]["converted_from"]["name"] == source.name
    assert ddo_engine.load_model(tmp_path / "model.safetensors").img_resolution == 8


def test_old_layout_with_everything_in_one_folder_is_read(tmp_path, pipeline, unet):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (pipeline / "unet" / "config.json", pipeline / "unet" / WEIGHTS):
        shutil.copy(path, flat)
    shutil.copy(pipeline / "scheduler" / "scheduler_config.json", flat)
    edit(flat / "scheduler_config.json", prediction_type=..., rescale_betas_zero_snr=...)
    assert import_folder(flat).config == import_folder(pipeline).config
    edit(flat / "scheduler_config.json", predict_epsilon=False)
    assert import_folder(flat).config["prediction"] == "sample"


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", ["unet", "vae"])
@torch.no_grad()
def test_bin_with_old_names_of_attention_gives_present_ones(tmp_path, kind, legacy):
    network = library_unet() if kind == "unet" else library_autoencoder()
    folder = tmp_path / "model"
    if kind == "unet":
        folder = write_pipeline(folder, network) / "unet"
    else:
        network.save_pretrained(folder)
    (folder / WEIGHTS).unlink()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    pattern = re.compile(r"(?<=attentions\.\d\.)(to_q|to_k|to_v|to_out\.0)")
    renamed = {pattern.sub(lambda match: old[match[1]], name): value for name, value in network.state_dict().items()}
    assert renamed.keys() != network.state_dict().keys()
    torch.save(renamed, folder / "diffusion_pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    assert same_weights(ddo_engine.load_model(tmp_path / "model").state_dict(), network.state_dict())


def test_half_precision_stays_as_stored(tmp_path, pipeline, unet):
    save_file({name: value.half() for name, value in unet.state_dict().items()}, pipeline / "unet" / WEIGHTS)
    convert(pipeline, tmp_path / "model.safetensors")
    export(tmp_path / "model.safetensors", tmp_path / "again.safetensors")
    assert same_weights(load_file(tmp_path / "again.safetensors"), load_file(pipeline / "unet" / WEIGHTS))


def pack_zip(folder, path, prefix):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, f"{prefix}{file.relative_to(folder).as_posix()}")


def pack_tar(mode):
    def pack(folder, path, prefix):
        with tarfile.open(path, mode) as archive:
            archive.add(folder, prefix or ".")

    return pack


@pytest.mark.parametrize("prefix", ["", "ddpm-cats/"])
@pytest.mark.parametrize("pack", [pack_zip, pack_tar("w"), pack_tar("w:gz")])
@pytest.mark.parametrize("content", ["pipeline", "unet with scheduler", "vae"])
def test_archive_of_a_folder_is_converted_like_the_folder(tmp_path, pipeline, unet, pack, prefix, content):
    folder, expected = pipeline, unet
    if content == "unet with scheduler":
        folder = pipeline / "unet"
        shutil.copy(pipeline / "scheduler" / "scheduler_config.json", folder)
    elif content == "vae":
        folder, expected = tmp_path / "autoencoder" / "vae", library_autoencoder()
        expected.save_pretrained(folder)
        folder = folder.parent
    archive, destination = tmp_path / "packed", tmp_path / "out" / "model.safetensors"
    destination.parent.mkdir()
    pack(folder, archive, prefix)
    manifest = convert(archive, destination)
    assert manifest.provenance["converted_from"]["name"] == "packed"
    assert manifest.provenance["converted_from"]["sha256"] == sha256_of_tree(archive)
    assert same_weights(load_file(destination), expected.state_dict())
    assert [path.name for path in destination.parent.iterdir()] == ["model.safetensors"]


def test_archive_that_inflates_beyond_reason_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr(WEIGHTS, bytes(1 << 27))
    with pytest.raises(CorruptCheckpoint, match="inflates"):
        convert(tmp_path / "bomb.zip", tmp_path / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["bomb.zip"]


def test_tar_header_that_inflates_beyond_reason_is_refused(tmp_path):
    with tarfile.open(tmp_path / "bomb", "w:gz") as archive:
        header = tarfile.TarInfo("header")
        header.type, header.size = tarfile.XHDTYPE, 1 << 27
        archive.addfile(header, io.BytesIO(bytes(header.size)))
    with pytest.raises(CorruptCheckpoint, match="inflates"):
        convert(tmp_path / "bomb", tmp_path / "model.safetensors")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_of_another_method_than_deflate_is_refused_before_it_inflates(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "packed.zip", "w", method) as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(CorruptCheckpoint, match=r"config\.json is packed by another method"):
        convert(tmp_path / "packed.zip", tmp_path / "model.safetensors")


@pytest.mark.parametrize("pack", [pack_zip, pack_tar("w"), pack_tar("w:gz")])
def test_damaged_archives_are_converted_or_refused_and_leave_nothing_behind(tmp_path, pipeline, pack):
    pack(pipeline, tmp_path / "whole", "")
    content, draw, destination = (tmp_path / "whole").read_bytes(), random.Random(0), tmp_path / "model.safetensors"
    for _ in range(100):
        packed = write(tmp_path / "packed", mutated(content, draw))
        with suppress(EngineError):
            convert(packed, destination)
        destination.unlink(missing_ok=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["packed", "pipeline", "whole"]


def test_zip_whose_end_holds_the_sign_of_another_end_is_refused(tmp_path, pipeline):
    pack_zip(pipeline, tmp_path / "packed.zip", "")
    content = bytearray((tmp_path / "packed.zip").read_bytes())
    content[-12:-8] = b"PK\5\6"
    (tmp_path / "packed.zip").write_bytes(content)
    with pytest.raises(CorruptCheckpoint, match=r"packed\.zip cannot be read"):
        convert(tmp_path / "packed.zip", tmp_path / "model.safetensors")


def test_archive_cannot_write_elsewhere(tmp_path, pipeline):
    destination = tmp_path / "out" / "model.safetensors"
    destination.parent.mkdir()
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        for name in ("../config.json", "../../unet/config.json", "/config.json", "a/../unet/config.json", "evil.py"):
            archive.writestr(name, "{}")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CorruptCheckpoint):
        convert(tmp_path / "packed.zip", destination)
    assert sorted(tmp_path.rglob("*")) == before


def test_links_in_a_tar_are_not_followed(tmp_path, pipeline):
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps({"_class_name": "secret"}))
    with tarfile.open(tmp_path / "packed.tar", "w") as archive:
        link = tarfile.TarInfo("config.json")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(link)
    with pytest.raises(CorruptCheckpoint) as caught:
        convert(tmp_path / "packed.tar", tmp_path / "model.safetensors")
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("damage", [slice(0, 200), slice(0, -100)])
def test_truncated_archive_is_refused(tmp_path, pipeline, damage):
    pack_tar("w:gz")(pipeline, tmp_path / "whole", "")
    (tmp_path / "packed").write_bytes((tmp_path / "whole").read_bytes()[damage])
    with pytest.raises(CorruptCheckpoint):
        convert(tmp_path / "packed", tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("file", "changes", "match"),
    [
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel"),
        ("unet/config.json", {"_class_name": ...}, r"unet/config\.json"),
        ("unet/config.json", {"sample_size": None}, r"unet/config\.json: sample_size"),
        ("unet/config.json", {"out_channels": 6}, "learned its variances"),
        ("unet/config.json", {"block_out_channels": [8, 32]}, "shape"),
        ("unet/config.json", {"layers_per_block": 2}, "missing"),
        ("scheduler/scheduler_config.json", {"_class_name": "ScoreSdeVeScheduler"}, "ScoreSdeVeScheduler"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow_prediction"}, "prediction"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "laplace"}, "beta_schedule"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**12}, "num_train_timesteps"),
        ("scheduler/scheduler_config.json", {"timestep_type": "continuous"}, "timestep_type"),
        ("scheduler/scheduler_config.json", {"use_flow_sigmas": True}, "use_flow_sigmas"),
    ],
)
def test_folder_of_another_kind_is_refused_by_file_and_field(pipeline, file, changes, match):
    edit(pipeline / file, **changes)
    refused(pipeline, match)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\xff"])
@pytest.mark.parametrize("file", ["unet/config.json", "scheduler/scheduler_config.json"])
def test_json_that_is_none_is_refused_by_its_name(pipeline, file, text):
    (pipeline / file).write_text(text, encoding="latin-1")
    refused(pipeline, file.replace(".", r"\."))


def test_folder_without_its_scheduler_says_what_to_add(pipeline):
    refused(pipeline / "unet", r"scheduler_config\.json")


def test_folder_without_weights_or_with_shards_says_what_to_do(pipeline):
    weights = pipeline / "unet" / WEIGHTS
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    refused(pipeline, "variant")
    (pipeline / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    refused(pipeline, "max_shard_size")


def test_folder_that_is_none_of_the_library_is_refused(tmp_path):
    refused(tmp_path, "not a checkpoint")


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"\x80\x04."])
@pytest.mark.parametrize("name", [WEIGHTS, "diffusion_pytorch_model.bin"])
def test_damaged_weights_are_refused(pipeline, name, content):
    (pipeline / "unet" / WEIGHTS).unlink()
    (pipeline / "unet" / name).write_bytes(content)
    refused(pipeline, name.replace(".", r"\."))


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def test_bin_that_would_run_code_is_refused_and_runs_none(tmp_path, pipeline):
    (pipeline / "unet" / WEIGHTS).unlink()
    marker = tmp_path / "ran"
    torch.save({"conv_in.weight": Malicious(marker)}, pipeline / "unet" / "diffusion_pytorch_model.bin")
    refused(pipeline, "diffusion_pytorch_model")
    assert not marker.exists()


def test_latent_pipeline_is_refused_and_points_at_its_autoencoder(pipeline):
    library_autoencoder().save_pretrained(pipeline / "vqvae")
    refused(pipeline, "vqvae")
    assert ddo_engine.load_model(pipeline / "vqvae").is_autoencoder


def test_without_the_library_the_extra_is_named(tmp_path, pipeline, monkeypatch):
    convert(pipeline, tmp_path / "model.safetensors")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    for path in (pipeline, tmp_path / "model.safetensors"):
        with pytest.raises(InvalidSpec, match=r"ddo-finetuning-service\[diffusers\]"):
            ddo_engine.load_model(path)


@torch.no_grad()
def test_autoencoder_goes_to_a_checkpoint_and_back_bit_for_bit(tmp_path):
    library, folder, converted = library_autoencoder(), tmp_path / "vae", tmp_path / "vae.safetensors"
    library.save_pretrained(folder)
    manifest = convert(folder, converted)
    assert manifest.network["class_name"] == "AutoencoderKL"
    export(converted, folder / WEIGHTS)
    again = AutoencoderKL.from_pretrained(folder, local_files_only=True).eval()
    assert same_weights(again.state_dict(), library.state_dict())
    assert list(ddo_engine.load_model(converted).state_dict()) == list(library.state_dict())
