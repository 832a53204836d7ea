"""Everything the engine can refuse or fail with. Importing this module does not import torch.

    EngineError                     code                    exit
    ├── InvalidSpec                 invalid_spec            64
    ├── InvalidDataset              invalid_dataset         65
    ├── CorruptCheckpoint           invalid_checkpoint      65
    ├── InvalidFeatureNetwork       invalid_feature_network 65
    ├── IncompatibleInputs          incompatible_inputs     65
    ├── NonFiniteLoss               diverged                70
    ├── DiscriminatorSaturated      saturated               70
    ├── OutOfMemory                 out_of_memory           71
    ├── ProcessLost                 process_lost            70   of several processes of one run, another died
    └── Interrupted                 interrupted             75   state written, run me again

The code is what a supervisor acts on, the message is what a person reads, ``param`` names the
offending field of the spec where there is one. The exit status is the fallback for a supervisor that
lost the event stream.
"""

import re
from typing import ClassVar

_LONGEST_MESSAGE, _LONGEST_PARAM = 4000, 200
_UNREADABLE = re.compile(r"[^\x20-\x7e\n\t\xa1-\U0010ffff]|[\ud800-\udfff]")


class EngineError(Exception):
    """Base of all errors that the engine raises on purpose.

    Messages quote names out of strangers' files. Control characters in them are escaped, and what is longer than
    anybody reads is cut, so that every message fits into an event and a database.
    """

    code: ClassVar[str] = "engine_error"
    exit_status: ClassVar[int] = 70

    def __init__(self, message: str, *, param: str | None = None) -> None:
        self.message = _readable(message, _LONGEST_MESSAGE)
        super().__init__(self.message)
        self.param = None if param is None else _readable(param, _LONGEST_PARAM)


class InvalidSpec(EngineError, ValueError):
    """The spec file is not JSON, or a field of it is wrong."""

    code = "invalid_spec"
    exit_status = 64


class InvalidDataset(EngineError, ValueError):
    """The dataset cannot be read; the message names the first offending file."""

    code = "invalid_dataset"
    exit_status = 65


class CorruptCheckpoint(EngineError, ValueError):
    """A checkpoint or a training state is damaged, or not of a format we read."""

    code = "invalid_checkpoint"
    exit_status = 65


class InvalidFeatureNetwork(EngineError, ValueError):
    """The feature network's file cannot be read, or does not take these images."""

    code = "invalid_feature_network"
    exit_status = 65


class IncompatibleInputs(EngineError, ValueError):
    """Checkpoint, dataset and feature network are each fine but do not fit together."""

    code = "incompatible_inputs"
    exit_status = 65


class NonFiniteLoss(EngineError, ArithmeticError):
    """The loss, its gradient, a sample or a metric is NaN or infinite."""

    code = "diverged"
    exit_status = 70


class DiscriminatorSaturated(EngineError, ArithmeticError):
    """The implicit discriminator tells nearly all images apart; what was written before is good."""

    code = "saturated"
    exit_status = 70


class OutOfMemory(EngineError, MemoryError):
    """The device ran out of memory."""

    code = "out_of_memory"
    exit_status = 71


class ProcessLost(EngineError):
    """Another process of this run died; the same command goes on from the last state."""

    code = "process_lost"
    exit_status = 70


class Interrupted(EngineError):
    """SIGTERM arrived; the training state is on disk and the same command goes on from it."""

    code = "interrupted"
    exit_status = 75


def _readable(text: str, longest: int) -> str:
    shown = text if len(text) <= longest else f"{text[:longest]}…"
    return _UNREADABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), shown)
