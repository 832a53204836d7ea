"""What people see of checkpoints beside one another."""

from dataclasses import replace

from rich.console import Console

from ddo_client.comparison_table import comparison_table
from ddo_client.models import Compared, Comparison, Measured


def _base(rank: int, value: float, name: str) -> Compared:
    measured = Measured(
        f"eval_{name}", f"ckpt_{name}", 1.0, value, None, None, 5000, "0" * 64, None, guidance_scale=1.0
    )
    return Compared(rank, value, f"ckpt_{name}", "job_[1]", 0, None, None, None, None, 0.0, measured)


def test_comparison_table_tells_where_each_checkpoint_comes_from() -> None:
    found = Comparison(
        "inception_score",
        False,
        "abcdef0123456789",
        {"num_samples": 5000},
        (
            replace(_base(1, 9.5, "a"), round_index=2, trial_index=3, alpha=4.0, beta=0.3, kimg=12.8),
            _base(2, 9.25, "b"),
            replace(_base(2, 9.25, "c"), baseline_index=1, kimg=6.4),
        ),
    )
    console = Console(width=120)
    with console.capture() as capture:
        console.print(comparison_table(found))
    header, *lines = [line.split() for line in capture.get().splitlines() if line]
    assert header == ["inception", "score", "checkpoint", "job", "what"]
    assert lines == [
        ["1", "9.5", "ckpt_a", "job_[1]", "round", "2", "trial", "3", "(α", "4,", "β", "0.3)", "at", "12.8", "kimg"],
        ["2", "9.25", "ckpt_b", "job_[1]", "base"],
        ["2", "9.25", "ckpt_c", "job_[1]", "baseline", "1", "at", "6.4", "kimg"],
        ["5,000", "samples", "each,", "protocol", "abcdef012345"],
    ]
