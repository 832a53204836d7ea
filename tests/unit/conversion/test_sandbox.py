"""Conversion in a process of its own: the same result, and limits that end it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddo_engine.checkpoint import read_manifest
from ddo_engine.conversion import ConversionOptions, SandboxLimits, convert, convert_in_sandbox
from ddo_engine.conversion import sandbox as sandbox_module
from ddo_engine.errors import CorruptCheckpoint, EngineError, InvalidSpec, OutOfMemory
from tests.numerics import golden
from tests.official_pickles import write
from tests.unit.conversion.hostile_pickles import good
from tests.unit.conversion.official_files import saved

MIB = 1 << 20


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "official.pkl", good())


def left_over(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"official.pkl"}


def test_sandbox_writes_what_the_conversion_writes(tmp_path, source):
    manifest = convert_in_sandbox(source, tmp_path / "a.safetensors")
    convert(source, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert manifest == read_manifest(tmp_path / "a.safetensors").model_dump(mode="json")
    assert left_over(tmp_path) == {"a.safetensors", "b.safetensors"}


def test_sandbox_passes_options_on(tmp_path):
    source = write(tmp_path / "official.pth", saved(golden.state_dict("13_vqvae")))
    manifest = convert_in_sandbox(source, tmp_path / "a", options=ConversionOptions(patch_nums=(1, 2, 3, 4, 6)))
    assert manifest["network"]["v_patch_nums"] == [1, 2, 3, 4, 6]


def test_sandbox_passes_refusals_on(tmp_path):
    source = write(tmp_path / "official.pkl", b"\x80\x04cos\nsystem\n.")
    with pytest.raises(CorruptCheckpoint, match=r"official\.pkl.*os\.system"):
        convert_in_sandbox(source, tmp_path / "a")
    assert left_over(tmp_path) == set()


@pytest.mark.parametrize(
    ("limits", "error", "message"),
    [
        ({"memory_bytes": 50 * MIB}, OutOfMemory, "0.049 GiB of memory"),
        ({"memory_bytes": 180 * MIB}, OutOfMemory, "GiB of memory"),
        ({"cpu_seconds": 1}, CorruptCheckpoint, "1 seconds of processor time"),
        ({"timeout_seconds": 0.2}, CorruptCheckpoint, r"0\.2 seconds"),
        ({"file_bytes": 1000}, InvalidSpec, "File too large"),
    ],
)
def test_limit_that_is_reached_says_which(tmp_path, source, monkeypatch, limits, error, message):
    if "cpu_seconds" in limits:
        monkeypatch.setitem(os.environ, "LANG", "C")
        source = write(source, b"\x80\x04" + b"N0" * 400_000 + good()[2:])
    with pytest.raises(error, match=message):
        convert_in_sandbox(source, tmp_path / "a", SandboxLimits(**limits))
    assert left_over(tmp_path) == set()


@pytest.mark.parametrize(
    ("status", "log", "error"),
    [
        (-signal.SIGSEGV, "", CorruptCheckpoint),
        (-signal.SIGKILL, "", OutOfMemory),
        (1, "OpenBLAS error: Memory allocation still failed", OutOfMemory),
        (1, "ImportError: no module", EngineError),
    ],
)
def test_process_that_ends_without_an_answer_is_explained(source, status, log, error):
    explained = sandbox_module._failure(status, log, source, SandboxLimits())
    assert type(explained) is error
    assert "official.pkl" in explained.message


def test_source_or_folder_that_is_missing_is_named(tmp_path, source):
    with pytest.raises(CorruptCheckpoint, match=r"absent\.pkl"):
        convert_in_sandbox(tmp_path / "absent.pkl", tmp_path / "a")
    with pytest.raises(InvalidSpec, match="not a folder"):
        convert_in_sandbox(source, tmp_path / "absent" / "a")


def test_child_sees_few_names_of_the_environment(tmp_path, source, monkeypatch):
    monkeypatch.setenv("DATABASE_PASSWORD", "secret")
    seen = []
    real = subprocess.Popen

    def spy(*arguments, **keywords):
        seen.append(keywords["env"])
        return real(*arguments, **keywords)

    monkeypatch.setattr(subprocess, "Popen", spy)
    convert_in_sandbox(source, tmp_path / "a")
    assert "DATABASE_PASSWORD" not in seen[0]
    assert "PATH" in seen[0]


def test_child_dies_with_its_parent(tmp_path):
    # A pipe nobody writes to: the conversion waits in open() until somebody ends it.
    os.mkfifo(tmp_path / "pipe.pkl")
    code = f"""
import subprocess, ddo_engine.conversion.sandbox as sandbox
real = subprocess.Popen
def spy(*arguments, **keywords):
    child = real(*arguments, **keywords)
    print(child.pid, flush=True)
    return child
sandbox.subprocess.Popen = spy
sandbox.convert_in_sandbox({str(tmp_path / "pipe.pkl")!r}, {str(tmp_path / "out")!r})
"""
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    child = int(parent.stdout.readline())
    time.sleep(1)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_sandbox_can_be_used_without_torch():
    code = "import sys, ddo_engine.conversion.sandbox; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_request_of_another_parent_is_not_answered():
    request = json.dumps({"parent": 1, "limits": {}, "source": "", "destination": "", "options": {}})
    done = subprocess.run(
        [sys.executable, "-m", "ddo_engine.conversion.sandbox_child"],
        input=request,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
