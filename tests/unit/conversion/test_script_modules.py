"""The tensors in a TorchScript file, without its code."""

import struct
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from ddo_engine.conversion.torch_file import read_script_tensors
from ddo_engine.errors import CorruptCheckpoint
from tests.inception_files import save_torchscript


class Scaled(nn.Module):
    """Attributes of all kinds that TorchScript stores beside tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(2, 3, 1)
        self.sizes, self.scales, self.flags, self.name = [1, 2], [0.5], [True], "name"
        self.register_buffer("steps", torch.tensor([3, 4]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * self.scales[0]


def test_script_tensors_are_those_of_the_state_dict(tmp_path: Path):
    program = Scaled()
    save_torchscript(program, tmp_path / "program.pt")
    found = {name: tensor.read() for name, tensor in read_script_tensors(tmp_path / "program.pt").items()}
    assert found.keys() == program.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in program.state_dict().items())


def write_program(path: Path, pickled: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("program/data.pkl", pickled)
        archive.writestr("program/constants.pkl", b"\x80\x02).")
    return path


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def test_module_that_holds_itself_twice_through_forty_others_is_refused(tmp_path: Path):
    """Two to the fortieth modules in a kilobyte."""
    pickled = b"\x80\x02c__torch__\nM\n)\x81}bq\x00"
    for _ in range(40):
        children = text("a") + b"h\x00" + text("b") + b"h\x00"
        pickled += b"c__torch__\nM\n)\x81}(" + children + b"ubq\x00"
    # what was made before stays below on the stack: take all but the last away
    pickled += b"q\x01" + b"0" * 41 + b"h\x01."
    with pytest.raises(CorruptCheckpoint, match="far more modules"):
        read_script_tensors(write_program(tmp_path / "program.pt", pickled))


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"\x80\x02cposix\nsystem\n" + text("true") + b"\x85R.", r"posix\.system"),
        (b"\x80\x02c__torch__\nM\n" + text("true") + b"\x85R.", "calls"),
        (b"\x80\x02K\x01.", "no module"),
        (b"\x80\x02c__torch__\nM\n)\x81.", "no module"),
    ],
)
def test_what_is_no_module_is_refused(tmp_path: Path, pickled: bytes, message: str):
    with pytest.raises(CorruptCheckpoint, match=message):
        read_script_tensors(write_program(tmp_path / "program.pt", pickled))
