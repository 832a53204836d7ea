"""What people see of curves over the guidance scale, as a table and as a figure."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from ddo_client.curve_figure import draw
from ddo_client.curve_table import curves_table
from ddo_client.errors import MissingLibrary
from ddo_client.models import CheckpointCurve, GuidanceCurves, Measured

SCORE = {0.0: 80.0, 1.5: 200.0}
PNG = b"\x89PNG\r\n\x1a\n"


def _curve(round_index: int, fids: dict[float, float], scores: dict[float, float] | None = None) -> CheckpointCurve:
    points = tuple(
        Measured(
            f"eval_{round_index}_{scale}",
            "ckpt_1",
            1.0,
            fid,
            0.7,
            0.6,
            50_000,
            f"protocol at {scale}",
            (scores or {}).get(scale),
            guidance_scale=scale,
        )
        for scale, fid in fids.items()
    )
    best = min(points, key=lambda point: point.fid)
    trial = None if round_index == 0 else 3
    return CheckpointCurve(points, best, round_index, "ckpt_1", trial, None, None, 1.0)


def _curves(scores: dict[float, float] | None = None, rank_by: str = "sampler_scale") -> GuidanceCurves:
    curves = (_curve(0, {0.0: 11.3, 1.5: 3.7}, scores), _curve(1, {0.0: 3.1, 1.5: 2.5}, scores))
    return GuidanceCurves("s: at scale [k] of K", 0.0, 0.0, rank_by, 50_000, curves)


def _lines(found: GuidanceCurves) -> list[list[str]]:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(curves_table(found))
    return [line.split() for line in captured.get().splitlines()]


def test_table_has_a_line_for_each_scale_and_says_what_the_scale_is() -> None:
    header, *lines = _lines(_curves(SCORE))
    assert header == ["checkpoint", "scale", "FID", "IS", "precision", "recall"]
    assert lines[0] == ["base", "0", "11.3", "80", "0.7", "0.6", "no", "guidance,", "ranks"]
    assert lines[1] == ["1.5", "3.7", "200", "0.7", "0.6", "lowest"]
    assert lines[2][:6] == ["round", "1", "trial", "3", "0", "3.1"]
    assert [" ".join(line) for line in lines[4:]] == ["", "scale: s: at scale [k] of K", "50,000 samples a point"]


def test_table_marks_the_lowest_where_that_ranks_and_leaves_out_what_was_not_measured() -> None:
    header, *lines = _lines(_curves(rank_by="best_scale"))
    assert "IS" not in header
    assert [line[-2:] for line in lines[:4]] == [["no", "guidance"], ["lowest,", "ranks"]] * 2


@pytest.mark.parametrize("scores", [None, SCORE])
def test_figure_is_a_png(tmp_path: Path, scores: dict[float, float] | None) -> None:
    out = tmp_path / "new" / "curve.png"
    draw(_curves(scores), out)
    assert out.read_bytes().startswith(PNG)
    assert out.stat().st_size > 10_000


def test_figure_of_a_job_that_has_measured_nothing_is_empty_and_no_error(tmp_path: Path) -> None:
    out = tmp_path / "curve.png"
    draw(replace(_curves(), curves=()), out)
    assert out.read_bytes().startswith(PNG)


def test_figure_without_matplotlib_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingLibrary, match=r"pip install .*\[plot\]"):
        draw(_curves(), tmp_path / "curve.png")
