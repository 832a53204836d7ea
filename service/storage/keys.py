"""Which keys the stores accept: readable, and safe as paths."""

import re

_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9._=+-]{0,199}"
_KEY = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*")


def checked_key(key: str) -> str:
    """Return ``key`` if every segment is plain: no ``..``, no hidden names, no empty parts.

    Raises:
        ValueError: The key is none of ours.
    """
    if len(key) > 900 or not _KEY.fullmatch(key):
        raise ValueError(f"not a valid object key: {key[:80]!r}")
    return key
