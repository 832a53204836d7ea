"""Prefixed, time-ordered ids: ``job_0198f3…``."""

import secrets
import time


def new_id(prefix: str) -> str:
    """Return ``prefix_`` and 26 hexadecimal digits: 12 of the time in milliseconds, 14 random."""
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(7)}"
