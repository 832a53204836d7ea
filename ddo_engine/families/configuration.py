"""From the network in a manifest to a network: how every family refuses what cannot be built."""

from collections.abc import Container, Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from ddo_engine.errors import CorruptCheckpoint


@contextmanager
def refusing_what_cannot_be_built(tags: Container[object] = ()) -> Iterator[None]:
    """Refuse, by the name of the argument, a configuration that turns out to be none inside the block.

    Args:
        tags: What pydantic puts into the place of an error to tell members of a union apart; a manifest has no such
            levels.

    Raises:
        CorruptCheckpoint: An argument is missing, foreign or out of range, or the network's constructor raised
            ``ValueError``, as torch's do for channels that do not divide into groups.
    """
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ("network", *first["loc"]) if part not in tags)
        raise unbuildable(where, first["msg"]) from error
    except ValueError as error:
        raise unbuildable("network", str(error)) from error


def unbuildable(where: str, reason: str) -> CorruptCheckpoint:
    """Return the refusal of a manifest's network.

    Args:
        where: Path of the offending argument, from ``network`` on.
        reason: What is wrong with it.
    """
    return CorruptCheckpoint(
        f"the checkpoint's manifest describes a network that cannot be built: {where}: {reason}; "
        "correct the manifest's 'network' and save the checkpoint again",
        param=where,
    )
