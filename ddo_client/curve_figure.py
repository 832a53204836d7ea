"""Draws curves over the guidance scale. Needs matplotlib, which the client does without otherwise."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ddo_client.curve_table import name_of
from ddo_client.errors import MissingLibrary
from ddo_client.models import GuidanceCurves, Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Coordinate = Callable[[Measured], float | None]


def draw(found: GuidanceCurves, out: Path) -> None:
    """Write a PNG: FID over the scale, and beside it FID over inception score, or else recall over precision.

    Raises:
        MissingLibrary: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  a library of the extra "plot"
    except ImportError as error:
        raise MissingLibrary("drawing needs matplotlib: pip install 'ddo-finetuning-service[plot]'") from error
    has_scores = any(point.inception_score is not None for curve in found.curves for point in curve.points)
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _lines(left, found, lambda point: point.guidance_scale, lambda point: point.fid)
    left.axvline(found.unguided_scale, color="0.8", linewidth=1, zorder=0)
    left.set(xlabel=f"guidance scale ({found.unguided_scale:g}: none)", ylabel="FID")
    if has_scores:
        _lines(right, found, lambda point: point.inception_score, lambda point: point.fid)
        right.set(xlabel="inception score", ylabel="FID")
    else:
        _lines(right, found, lambda point: point.precision, lambda point: point.recall)
        right.set(xlabel="precision", ylabel="recall")
    if found.curves:
        left.legend(frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, format="png", dpi=110, metadata={"Software": None})


def _lines(axis: "Axes", found: GuidanceCurves, x: Coordinate, y: Coordinate) -> None:
    for curve in found.curves:
        places = [(x(point), y(point)) for point in curve.points]
        known = [(across, up) for across, up in places if across is not None and up is not None]
        axis.plot(*zip(*known, strict=True) if known else ([], []), marker="o", markersize=4, label=name_of(curve))
