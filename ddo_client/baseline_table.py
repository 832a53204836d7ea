"""What people see of baselines. Text from the service is never read as markup."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ddo_client.models import Baseline, BaselineEvaluation
from ddo_client.output import number, status


def baselines_table(baselines: Sequence[Baseline]) -> Table:
    """Return a line for what each trained baseline kept, and for each scale of those that are samples of the base.

    FIDs of the search and of the confirmation, which have different protocols, stand in different columns.
    """
    is_confirmed = any(each.confirmed for each in baselines)
    table = Table(box=None, header_style="bold", pad_edge=False)
    fids = ("FID", "confirmed") if is_confirmed else ("FID",)
    for name in ("baseline", "status", "scale", *fids, "precision", "recall", "at kimg", ""):
        table.add_column(name, justify="left" if name in ("baseline", "status", "") else "right", no_wrap=True)
    for baseline in baselines:
        for search, confirmed in _lines(baseline):
            shown = confirmed or search
            numbers = [number(search.fid if search else None)]
            if is_confirmed:
                numbers.append(number(confirmed.fid if confirmed else None))
            numbers += [number(shown.precision if shown else None), number(shown.recall if shown else None)]
            scale = number(shown.scale) if shown and shown.scale is not None else ""
            kimg = number(shown.kimg) if shown and shown.scale is None else ""
            cells: list[RenderableType] = [Text(f"{baseline.baseline_index} {baseline.kind}"), status(baseline.status)]
            table.add_row(*cells, scale, *numbers, kimg, Text(_note(baseline, shown)))
    return table


def _lines(baseline: Baseline) -> Iterator[tuple[BaselineEvaluation | None, BaselineEvaluation | None]]:
    """Yield what stands in one line: an evaluation by the search protocol, and the confirming one."""
    scales = list(dict.fromkeys(each.scale for each in baseline.evaluations if each.scale is not None))
    if not scales:
        yield baseline.best, baseline.confirmed
        return
    of_search = baseline.best.num_samples if baseline.best else None
    for scale in scales:
        found = [each for each in baseline.evaluations if each.scale == scale]
        search = next((each for each in found if each.num_samples == of_search), None)
        yield search, next((each for each in found if baseline.confirmed and each is not search), None)


def _note(baseline: Baseline, shown: BaselineEvaluation | None) -> str:
    if baseline.error:
        return baseline.error.message or ""
    if shown is not None and shown.differs:
        return "another protocol: " + ", ".join(difference.field for difference in shown.differs)
    warned = ", ".join(warning.code for warning in baseline.warnings)
    kept = baseline.checkpoint_id or ""
    return warned or kept
