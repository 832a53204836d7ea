"""How a foreign file is refused: by its name, the reason, and what to do."""

from ddo_engine.errors import CorruptCheckpoint


def damaged(name: str, reason: str) -> CorruptCheckpoint:
    """Return the error for a file that its publisher's code did not write like this."""
    return CorruptCheckpoint(
        f"{name} cannot be read: {reason}; if its publisher offers a checksum compare it, and fetch the file again"
    )
