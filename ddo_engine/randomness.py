"""Randomness as a pure function of (seed, purpose, counter): nothing to save, a resume replays it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derived_seed(seed: int, purpose: str, counter: int = 0) -> int:
    """Return a 63-bit seed that depends on all three arguments and on nothing else.

    Args:
        seed: The run's seed.
        purpose: What the numbers are for, e.g. ``"noise"``; purposes are independent streams.
        counter: Step, epoch or batch within the purpose.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{counter}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(device: torch.device, seed: int, purpose: str, counter: int = 0) -> torch.Generator:
    """Return a fresh generator on ``device`` for one counter of one purpose."""
    return torch.Generator(device).manual_seed(derived_seed(seed, purpose, counter))


@contextmanager
def seeded_initialisation(seed: int, purpose: str) -> Iterator[None]:
    """Let networks that are built inside the block have weights that are a function of (seed, purpose).

    Layers draw their weights from the global generator of the CPU, which is afterwards as it was before.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, purpose))
        yield
