"""What the engine says is understood, or ends the attempt: it is never left unread."""

import json
from pathlib import Path

import pytest

from worker.sink import ProtocolError, Sink

INFO = {"family": "edm", "network": "MLP", "num_parameters": 1, "img_resolution": 8, "img_channels": 1, "label_dim": 0}
DATASET = {"num_images": 3, "img_resolution": 8, "img_channels": 1}
FILE = {"sha256": "0" * 64, "size_bytes": 1}


def error_after(folder: Path, event: dict[str, object]) -> BaseException | None:
    """Return what the sink ends with that hears one event; nothing of these needs a store or a database."""
    for name in ("work", "links"):
        (folder / name).mkdir()
    (folder / "work" / "loop").symlink_to("loop")
    sink = Sink(None, None, folder / "work", folder / "links")
    sink.hear(json.dumps(event).encode())
    sink.close()
    assert sink.task.wait(10)
    return sink.task.error


@pytest.mark.parametrize("path", ["\0", "a\0/b", "loop", "loop/x", "../x", "/etc/passwd"])
@pytest.mark.parametrize("event", ["file", "report"])
def test_file_that_cannot_be_one_of_the_engine_ends_the_attempt(tmp_path: Path, event: str, path: str) -> None:
    said = {
        "file": {"type": "file", "role": "checkpoint", "path": path, **FILE},
        "report": {
            "type": "report",
            "checkpoint": INFO,
            "dataset": DATASET,
            "converted": {"guide": FILE | {"path": path}},
        },
    }[event]
    assert isinstance(error_after(tmp_path, said), ProtocolError)


@pytest.mark.parametrize("missing", ["path", "sha256", "size_bytes"])
def test_reported_file_without_what_it_is_known_by_ends_the_attempt(tmp_path: Path, missing: str) -> None:
    file = {name: value for name, value in (FILE | {"path": "x", "uri": "s3://a/b"}).items() if name != missing}
    said = {"type": "report", "checkpoint": INFO, "dataset": DATASET, "converted": {"guide": file}}
    assert isinstance(error_after(tmp_path, said), ProtocolError)
