"""What people see of rounds. Text from the service is never read as markup."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ddo_client.models import Measured, Round, Trial
from ddo_client.output import number, number_or_name, status


@dataclass(frozen=True)
class _Columns:
    """What a table of rounds has beside what all have: FIDs of the confirmation, guidance scales of the FIDs."""

    confirmed: bool
    scale: bool

    @classmethod
    def of(cls, rounds: Sequence[Round]) -> "_Columns":
        winners = [round_.winner.measured for round_ in rounds if round_.winner]
        trials = [trial for round_ in rounds for trial in round_.trials]
        shown = [each for each in (*winners, *(trial.confirmed or trial.best for trial in trials)) if each]
        return cls(any(trial.confirmed for trial in trials), len({each.guidance_scale for each in shown}) > 1)

    @property
    def names(self) -> tuple[str, ...]:
        return ("FID", *(["confirmed"] * self.confirmed), *(["scale"] * self.scale), "precision", "recall")

    def cells(self, search: Measured | None, confirmed: Measured | None) -> list[str]:
        shown = confirmed or search
        told = [each.fid if each else None for each in ((search, confirmed) if self.confirmed else (search,))]
        if self.scale:
            told.append(shown.guidance_scale if shown else None)
        told += [shown.precision if shown else None, shown.recall if shown else None]
        return [number(each) for each in told]


def rounds_table(rounds: Sequence[Round]) -> Table:
    """Return a line for each trial, winners marked.

    FIDs of the search and of the confirmation, which have different protocols, stand in different columns. Where each
    is the lowest along its curve, the scale that it is of stands beside it.
    """
    columns = _Columns.of(rounds)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("round", "status", "trial", "alpha", "beta", *columns.names, "at kimg", ""):
        table.add_column(name, justify="left" if name in ("status", "") else "right", no_wrap=True)
    for round_ in rounds:
        if round_.round_index == 0:
            base = round_.winner.measured if round_.winner else None
            search = None if columns.confirmed else base
            table.add_row("0", status(round_.status), "base", "", "", *columns.cells(search, base))
        for position, trial in enumerate(round_.trials):
            index = str(round_.round_index) if position == 0 else ""
            table.add_row(index, *_trial_cells(round_, trial, columns))
    return table


def _trial_cells(round_: Round, trial: Trial, columns: _Columns) -> list[RenderableType]:
    is_winner = round_.winner is not None and round_.winner.trial_index == trial.trial_index
    warned = ", ".join(warning.code for warning in trial.warnings)
    note = "★ winner" if is_winner else trial.error.message or "" if trial.error else warned
    told = [str(trial.trial_index), number(trial.alpha), _beta(trial)]
    told += [*columns.cells(trial.best, trial.confirmed), number(trial.best_kimg)]
    return [status(trial.status), *told, Text(note)]


def _beta(trial: Trial) -> str:
    if trial.found_beta is None:
        return number_or_name(trial.beta)
    return f"{trial.beta} {number(trial.found_beta)}"
