"""Job files."""

from pathlib import Path

import pytest

from ddo_client.errors import InvalidJobFile
from ddo_client.job_file import read_job


@pytest.mark.parametrize(
    ("text", "value"),
    [("2e-5", 2e-5), ("1.5e-4", 1.5e-4), ("-1E3", -1000.0), (".5e1", 5.0), ("+1e2", 100.0), ("3", 3), ("e5", "e5")],
)
def test_read_job_numbers_are_those_of_json(tmp_path: Path, text: str, value: object) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(f"value: {text}\n")
    read = read_job(file)["value"]
    assert (read, type(read)) == (value, type(value))


def test_read_job_takes_json(tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text('{"rounds": 2, "grid": {"alpha": [1e0], "beta": [0.5]}}')
    assert read_job(file) == {"rounds": 2, "grid": {"alpha": [1.0], "beta": [0.5]}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "is not YAML"),
        (b"- a\n- b\n", "holds no job"),
        (b"", "holds no job"),
        (b"\xff\xfe\xfa", "cannot read"),
        (b"!!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_read_job_of_something_else_says_so(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_bytes(content)
    with pytest.raises(InvalidJobFile, match=message):
        read_job(file)


def test_read_job_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidJobFile, match="cannot read"):
        read_job(tmp_path / "none.yaml")
