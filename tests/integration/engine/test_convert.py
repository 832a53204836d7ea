"""``convert``, ``export`` and ``inspect`` as people and machines call them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from ddo_engine.checkpoint import load_checkpoint
from ddo_engine.command_line import main
from tests.engine_inputs import REPOSITORY, make_inputs
from tests.numerics import golden
from tests.official_pickles import write
from tests.unit.conversion.official_files import pickle_of, saved

NAME = "01_edm_ddpmpp_uncond"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ddo_engine", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )


@pytest.fixture
def official(tmp_path) -> Path:
    return write(tmp_path / "official.pkl", pickle_of(NAME))


def test_convert_then_inspect_then_export_as_processes(tmp_path, official):
    ours, again = tmp_path / "ours.safetensors", tmp_path / "again.pth"
    converted = run("convert", official, ours, "--json")
    assert converted.returncode == 0, converted.stderr
    assert json.loads(converted.stdout)["network"]["class_name"] == "EDMPrecond"
    table = run("inspect", ours)
    assert table.returncode == 0, table.stderr
    for words in ("checkpoint", "network.model_channels", "260,899", "CC BY-NC-SA"):
        assert words in table.stdout
    exported = run("export", ours, again, "--json")
    assert exported.returncode == 0, exported.stderr
    assert json.loads(exported.stdout)["size_bytes"] == again.stat().st_size
    weights = torch.load(again, weights_only=True)
    assert all(torch.equal(weights[key], weight) for key, weight in golden.state_dict(NAME).items())


def test_refusal_goes_to_stderr_for_people_and_to_stdout_for_machines(tmp_path, capsys):
    evil = write(tmp_path / "evil.pkl", b"\x80\x04cos\nsystem\n.")
    assert main(["convert", str(evil), str(tmp_path / "out")]) == 65
    written = capsys.readouterr()
    assert written.out == ""
    assert "invalid_checkpoint: evil.pkl cannot be read: it mentions os.system" in written.err
    assert main(["convert", str(evil), str(tmp_path / "out"), "--json"]) == 65
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "invalid_checkpoint"
    assert "os.system" in error["message"]


def test_convert_of_a_feature_network_is_asked_for(tmp_path, capsys):
    source, ours = make_inputs(tmp_path / "inputs").feature_network, tmp_path / "ours.safetensors"
    assert main(["convert", "--feature-network", str(source), str(ours), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["architecture"] == "image_classifier"
    assert ours.read_bytes() == source.read_bytes()
    (tmp_path / "text").write_text("text")
    assert main(["convert", "--feature-network", str(tmp_path / "text"), str(ours)]) == 65
    assert "invalid_feature_network: text" in capsys.readouterr().err
    assert main(["convert", "--feature-network", str(source), str(tmp_path / "absent" / "x")]) == 64


def test_inspect_of_an_official_file_says_what_it_would_become(official, capsys):
    assert main(["inspect", str(official), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kind_of_file"] == "checkpoint"
    assert report["format"] == "nvlabs-pickle"
    assert report["info"]["num_parameters"] == 260_899
    assert report["dtypes"] == {"F32": 197}
    assert report["size_bytes"] == official.stat().st_size


def test_inspect_of_a_dataset_says_so(tmp_path, capsys):
    from ddo_engine.data import write_dataset

    write_dataset(tmp_path / "images.zip", torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, 1]))
    assert main(["inspect", str(tmp_path / "images.zip"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kind_of_file"] == "dataset"
    assert report["num_images"] == 3


def test_config_file_and_patch_nums_describe_bare_state_dicts(tmp_path, capsys):
    bare = write(tmp_path / "bare.safetensors", save(golden.state_dict(NAME)))
    config = write(tmp_path / "config.json", json.dumps(golden.description(NAME)["constructor"]).encode())
    assert main(["convert", str(bare), str(tmp_path / "a"), "--config", str(config)]) == 0
    assert load_checkpoint(tmp_path / "a").info.num_parameters == 260_899
    vqvae = write(tmp_path / "vae.pth", saved(golden.state_dict("13_vqvae")))
    assert main(["convert", str(vqvae), str(tmp_path / "b"), "--patch-nums", "1,2,3,4,6"]) == 0
    assert "VQVAE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--patch-nums", "1,x"], "--patch-nums: Input should be a valid integer"),
        (["--patch-nums", "0"], "--patch-nums: Input should be greater than or equal to 1"),
        (["--config", "absent.json"], "--config: absent.json cannot be read"),
        (["--family", "var"], "--family: official.pkl holds a network of the family 'edm'"),
    ],
)
def test_option_that_does_not_fit_is_named(tmp_path, official, capsys, arguments, message):
    assert main(["convert", str(official), str(tmp_path / "out"), *arguments]) == 64
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"{", b"[" * 100_000, b"[]", b'"text"'])
def test_config_that_is_no_object_is_refused(tmp_path, official, capsys, content):
    config = write(tmp_path / "config.json", content)
    assert main(["convert", str(official), str(tmp_path / "out"), "--config", str(config)]) == 64
    assert "--config" in capsys.readouterr().err


def test_conversion_peaks_far_below_the_size_of_the_file(tmp_path):
    code = f"""
import resource, torch
from ddo_engine.conversion import convert
from tests.numerics import golden
from tests.official_pickles import edm2_file
from ddo_engine.families import get_family
small, large = (dict(img_resolution=8, img_channels=3, label_dim=0, model_channels=width) for width in (64, 128))
for arguments, name in ((small, "small"), (large, "large")):
    with torch.device("meta"):
        weights = get_family("edm2").build(dict(class_name="Precond", **arguments)).state_dict()
    filled = {{key: torch.zeros(weight.shape) for key, weight in weights.items()}}
    open(f"{tmp_path}/{{name}}.pkl", "wb").write(edm2_file(arguments, filled))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=REPOSITORY)
    measure = f"""
import resource
from ddo_engine.conversion import convert
convert("{tmp_path}/small.pkl", "{tmp_path}/small.safetensors")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert("{tmp_path}/large.pkl", "{tmp_path}/large.safetensors")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", measure], check=True, env=environment, cwd=REPOSITORY, capture_output=True, text=True
    )
    size_kib = (tmp_path / "large.pkl").stat().st_size / 1024
    assert size_kib > 200_000
    assert int(done.stdout) < 0.15 * size_kib


def test_result_that_nobody_reads_ends_the_command_quietly(official):
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as nobody:
        command = [sys.executable, "-m", "ddo_engine", "inspect", str(official), "--json"]
        done = subprocess.run(command, stdout=nobody, stderr=subprocess.PIPE, text=True, check=False, cwd=REPOSITORY)
    assert (done.returncode, done.stderr) == (74, "")
