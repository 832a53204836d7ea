"""What people see of baselines."""

from typing import Any

from rich.console import Console

from ddo_client.baseline_table import baselines_table
from ddo_client.models import Baseline, BaselineEvaluation, ProtocolDifference, TrialError

_SCALE = ProtocolDifference("sampler.guidance_scale", 1.0, 2.0)


def _measured(fid: float, samples: int, **changes: Any) -> BaselineEvaluation:
    return BaselineEvaluation("eval_1", "ckpt_1", 0.5, fid, 0.9, 0.8, samples, f"protocol of {samples}", **changes)


def _baseline(index: int, kind: str, *evaluations: BaselineEvaluation, **changes: Any) -> Baseline:
    told = {"status": "succeeded", "error": None, "warnings": (), "best": None, "confirmed": None} | changes
    return Baseline(
        baseline_index=index, kind=kind, settings={}, checkpoint_id="ckpt_1", evaluations=evaluations, **told
    )


def _lines(*baselines: Baseline) -> list[list[str]]:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(baselines_table(baselines))
    return [line.split() for line in captured.get().splitlines()]


def test_baselines_table_has_a_line_for_what_was_kept_and_one_for_each_scale() -> None:
    search, confirmed = _measured(5.0, 1000, differs=()), _measured(6.0, 5000, differs=())
    guided = [
        _measured(fid + samples / 1e4, samples, scale=scale, differs=(_SCALE,))
        for fid, scale in ((4.0, 1.5), (3.0, 2.0))
        for samples in (1000, 5000)
    ]
    header, mle, first, second = _lines(
        _baseline(0, "mle", search, confirmed, best=search, confirmed=confirmed),
        _baseline(1, "guidance", *guided, best=guided[2], confirmed=guided[3]),
    )
    assert header == ["baseline", "status", "scale", "FID", "confirmed", "precision", "recall", "at", "kimg"]
    assert mle == ["0", "mle", "succeeded", "5", "6", "0.9", "0.8", "0.5", "ckpt_1"]
    what = ["another", "protocol:", "sampler.guidance_scale"]
    assert first == ["1", "guidance", "succeeded", "1.5", "4.1", "4.5", "0.9", "0.8", *what]
    assert second == ["1", "guidance", "succeeded", "2", "3.1", "3.5", "0.9", "0.8", *what]


def test_baselines_table_shows_why_one_failed_and_what_waits() -> None:
    error = TrialError("diverged", "the loss is [not] finite")
    header, failed, waiting = _lines(
        _baseline(0, "cca", status="failed", error=error), _baseline(1, "discriminator_guidance", status="pending")
    )
    assert "confirmed" not in header
    assert failed == ["0", "cca", "failed", "–", "–", "–", *["the", "loss", "is", "[not]", "finite"]]
    assert waiting[:4] == ["1", "discriminator_guidance", "pending", "–"]
