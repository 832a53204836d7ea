"""What people see of curves over the guidance scale. Text from the service is never read as markup."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ddo_client.models import CheckpointCurve, GuidanceCurves, Measured
from ddo_client.output import number


def curves_table(found: GuidanceCurves) -> RenderableType:
    """Return a line for each scale of each checkpoint, and what the scale is."""
    points = [point for curve in found.curves for point in curve.points]
    has_scores = any(point.inception_score is not None for point in points)
    scores = ("IS",) if has_scores else ()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("checkpoint", "scale", "FID", *scores, "precision", "recall", ""):
        table.add_column(name, justify="left" if name in ("checkpoint", "") else "right", no_wrap=True)
    for curve in found.curves:
        for position, point in enumerate(curve.points):
            told = [number(point.guidance_scale), number(point.fid)]
            if has_scores:
                told.append(number(point.inception_score))
            told += [number(point.precision), number(point.recall)]
            table.add_row(Text(name_of(curve) if position == 0 else ""), *told, _note(found, curve, point))
    return Group(table, Text(f"\nscale: {found.scale_is}\n{found.num_samples:,} samples a point"))


def name_of(curve: CheckpointCurve) -> str:
    """Return what people call the checkpoint of a curve."""
    return "base" if curve.round_index == 0 else f"round {curve.round_index} trial {curve.trial_index}"


def _note(found: GuidanceCurves, curve: CheckpointCurve, point: Measured) -> str:
    notes = []
    if point.guidance_scale == found.unguided_scale:
        notes.append("no guidance")
    is_best = curve.best is not None and point.evaluation_id == curve.best.evaluation_id
    if is_best and len(curve.points) > 1:
        notes.append("lowest")
    if is_best if found.rank_by == "best_scale" else point.guidance_scale == found.sampler_scale:
        notes.append("ranks")
    return ", ".join(notes)
