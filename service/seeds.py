"""Seeds of units: functions of the job's own seed, so that the same job draws the same samples.

    0 … 2**31 + 10**6      evaluations: chosen by the job, one seed per image
    above, below 2**32     reference sets: one range per round, never shared

All fit into 32 bits: generators on the CPU take no more of a seed, larger ones would draw the same images again.
"""

import hashlib

from ddo_engine.spec import JobSpec

_FIRST_REFERENCE_SEED = 2**31 + 2**20  # above the largest evaluation seed plus the largest num_samples
_END = 2**32


def trial_seed(spec: JobSpec, round_index: int, position: int) -> int:
    """Return the training seed of one cell of one round, in [0, 2**31)."""
    return _hash(f"trial:{spec.seed}:{round_index}:{position}") % 2**31


def baseline_seed(spec: JobSpec, baseline_index: int) -> int:
    """Return the training seed of one baseline, in [0, 2**31)."""
    return _hash(f"baseline:{spec.seed}:{baseline_index}") % 2**31


def reference_set_seed(spec: JobSpec, round_index: int) -> int:
    """Return the first seed of a round's reference set; ``num_samples`` follow.

    Ranges of different rounds are disjoint, and disjoint from all evaluation seeds.

    Args:
        round_index: In [1, ``spec.rounds``].

    Raises:
        ValueError: The job stores no reference set: its fakes are drawn online.
    """
    if spec.reference_set.kind == "online":
        raise ValueError("online fakes have no seeds of their own")
    used = spec.rounds * spec.reference_set.num_samples
    start = _FIRST_REFERENCE_SEED + _hash(f"reference:{spec.seed}") % (_END - _FIRST_REFERENCE_SEED - used + 1)
    return start + (round_index - 1) * spec.reference_set.num_samples


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
