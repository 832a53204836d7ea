"""Checkpoints in their authors' formats, in and out; nothing in a file that is read is ever run.

Importing this package does not import torch; the first use of a name below does.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddo_engine.conversion.converting import convert
    from ddo_engine.conversion.exporting import export
    from ddo_engine.conversion.official_file import OfficialFile, open_official
    from ddo_engine.conversion.options import ConversionOptions
    from ddo_engine.conversion.report import CheckpointReport, inspect_checkpoint
    from ddo_engine.conversion.sandbox import SandboxLimits, convert_features_in_sandbox, convert_in_sandbox
    from ddo_engine.conversion.sniffing import FileFormat, sniff

__all__ = [
    "CheckpointReport",
    "ConversionOptions",
    "FileFormat",
    "OfficialFile",
    "SandboxLimits",
    "convert",
    "convert_features_in_sandbox",
    "convert_in_sandbox",
    "export",
    "inspect_checkpoint",
    "open_official",
    "sniff",
]

_HOME = {
    "CheckpointReport": "report",
    "ConversionOptions": "options",
    "FileFormat": "sniffing",
    "OfficialFile": "official_file",
    "SandboxLimits": "sandbox",
    "convert": "converting",
    "convert_features_in_sandbox": "sandbox",
    "convert_in_sandbox": "sandbox",
    "export": "exporting",
    "inspect_checkpoint": "report",
    "open_official": "official_file",
    "sniff": "sniffing",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
