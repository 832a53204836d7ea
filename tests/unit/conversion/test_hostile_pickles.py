"""Files that only look official are refused in a sentence: soon, in little memory, and with nothing run."""

import random
import resource
import time

import pytest

from bench.fuzz_import import mutated
from ddo_engine.conversion import convert
from ddo_engine.errors import CorruptCheckpoint, EngineError
from tests.official_pickles import write
from tests.unit.conversion.hostile_pickles import good, hostile_files
from tests.unit.conversion.official_files import small_official_files

SECONDS_PER_FILE = 5  # measured: 1.6 for the largest
MEBIBYTES_IN_ALL = 400


def refusal(source, destination):
    """The message of the only error that may come, or None."""
    try:
        convert(source, destination)
    except EngineError as error:
        return error.message
    destination.unlink()
    return None


def test_good_file_is_converted(tmp_path):
    (tmp_path / "good").write_bytes(good())
    assert convert(tmp_path / "good", tmp_path / "out").family == "edm"


def test_hostile_files_are_refused_soon_in_little_memory_and_run_nothing(tmp_path):
    source, canary = tmp_path / "hostile.pkl", tmp_path / "canary"
    files = dict(hostile_files(str(canary)))
    assert len(files) > 250
    assert len(set(files.values())) == len(files)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    accepted = []
    for name, content in files.items():
        source.write_bytes(content)
        started = time.process_time()
        message = refusal(source, tmp_path / "out")
        if message is None:
            accepted.append(name)
        else:
            assert "hostile.pkl" in message or "manifest" in message, (name, message)
            assert len(message) < 1500, name
        assert time.process_time() - started < SECONDS_PER_FILE, name
        assert sorted(path.name for path in tmp_path.iterdir()) == ["hostile.pkl"], name
    assert accepted == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEBIBYTES_IN_ALL * 1024


def test_unknown_global_is_named(tmp_path):
    (tmp_path / "evil.pkl").write_bytes(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.")
    with pytest.raises(CorruptCheckpoint, match=r"evil\.pkl.*os\.system"):
        convert(tmp_path / "evil.pkl", tmp_path / "out")


@pytest.mark.parametrize("name", ["nvlabs-pickle", "torch-zip", "torch-legacy", "safetensors"])
def test_fuzzed_files_are_converted_or_refused(tmp_path, name):
    content, draw = small_official_files()[name], random.Random(0)
    outcomes = set()
    for _ in range(250):
        source = write(tmp_path / "fuzzed", mutated(content, draw))
        outcomes.add(refusal(source, tmp_path / "out") is None)
    assert outcomes == {True, False}
