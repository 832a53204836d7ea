"""What people see: tables and sentences. Text from the service is never read as markup."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from ddo_client.models import Event, Job, JobSummary, Plan, RunningUnit, Snapshot

_COLOURS = {"succeeded": "green", "completed": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}
_MISSING = "–"
_METRICS = {
    "fid": "FID",
    "precision": "precision",
    "recall": "recall",
    "inception_score": "IS",
    "sfid": "sFID",
    "kid": "KID",
    "density": "density",
    "coverage": "coverage",
}


def number(value: float | None, *, digits: int = 4) -> str:
    """Return a number with so many significant digits."""
    return _MISSING if value is None else f"{value:.{digits}g}"


def status(name: str) -> Text:
    """Return a status in its colour."""
    return Text(name, style=_COLOURS.get(name, ""))


def improvement(job: JobSummary) -> str:
    """Return the best FID against the base's, in words; empty until the base was measured."""
    if job.best_fid is None:
        return ""
    if not job.improvement_percent:
        return f"FID {number(job.best_fid)} (base)"
    return f"FID {number(job.best_fid)} (base {number(job.base_fid)}, −{job.improvement_percent:.0f} %)"


def jobs_table(jobs: Iterable[JobSummary]) -> Table:
    """Return a line for each job."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("job", "name", "status", "rounds", "base FID", "best FID", "created"):
        # ids are there to be copied: they are never cut
        width = 30 if name == "job" else None
        justify: JustifyMethod = "right" if name in ("rounds", "base FID", "best FID") else "left"
        table.add_column(name, justify=justify, min_width=width, no_wrap=name in ("job", "created"))
    for job in jobs:
        table.add_row(
            Text(job.id),
            Text(job.name or _MISSING),
            status(job.status),
            str(job.rounds_completed),
            number(job.base_fid),
            number(job.best_fid),
            local_time(job.created_at),
        )
    return table


def job_view(job: Job) -> RenderableType:
    """Return everything worth knowing of a job at a glance."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row("job", Text(job.id))
    if job.name:
        table.add_row("name", Text(job.name))
    if job.parent:
        told = f"{job.parent.checkpoint_id}, round {job.parent.round_index} of {job.parent.job_id}"
        table.add_row("branched from", Text(told))
    reason = f" ({job.termination_reason})" if job.termination_reason else ""
    table.add_row("status", status(job.status) + Text(reason))
    if job.termination_message:
        table.add_row("", Text(job.termination_message))
    table.add_row("progress", f"{job.progress.fraction:.0%}, {_units(job)}")
    for unit in job.progress.running:
        table.add_row("", Text(running_unit(unit)))
    if job.best_fid is not None:
        table.add_row("best", improvement(job))
    table.add_row("rounds", str(job.rounds_completed))
    for label, moment in (("created", job.created_at), ("started", job.started_at), ("finished", job.finished_at)):
        table.add_row(label, local_time(moment))
    return Group(table, job_error(job)) if job.error else table


def job_error(job: JobSummary) -> Text:
    """Return why a job failed, in one line."""
    assert job.error
    where = f"{job.error.param}: " if job.error.param else ""
    return Text(f"{where}{job.error.message} ({job.error.code})", style="red")


def snapshots_table(snapshots: Iterable[Snapshot]) -> Table:
    """Return a line for each average of a trial."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("snapshot", "std", "kimg", "MiB"):
        table.add_column(name, justify="left" if name == "snapshot" else "right", no_wrap=True)
    for each in snapshots:
        table.add_row(Text(each.id), number(each.ema_std), number(each.kimg), f"{each.size_bytes / 2**20:,.1f}")
    return table


def number_or_name(value: float | str) -> str:
    """Return a number as :func:`number` does, and a name as it is."""
    return value if isinstance(value, str) else number(value)


def plan_view(plan: Plan) -> Table:
    """Return what a job would cost."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    for kind, count in plan.units.items():
        table.add_row(f"{kind} units", f"{count:,}")
    table.add_row("images trained on", f"{plan.trained_images:,}")
    table.add_row("images generated", f"{plan.generated_images:,}")
    table.add_row("network evaluations", f"{plan.network_evaluations:,}")
    if len(plan.phases) > 1:
        for phase in plan.phases:
            grid = f"α {_values(phase.grid['alpha'])} × β {_values(phase.grid['beta'])}"
            table.add_row(f"rounds {phase.first_round}–{phase.last_round}", f"{grid}, {phase.network_evaluations:,}")
    for baseline in plan.baselines:
        table.add_row(f"baseline {baseline.baseline_index} {baseline.kind}", f"{baseline.network_evaluations:,}")
    table.add_row("storage at most", f"{plan.storage.total_bytes / 2**20:,.1f} MiB")
    return table


def _values(values: Iterable[float | str]) -> str:
    return ", ".join(value if isinstance(value, str) else number(value) for value in values)


def event_line(event: Event) -> Text:
    """Return an event in one line."""
    data = " ".join(f"{name}={_value(value)}" for name, value in event.data.items() if value is not None)
    return Text(f"{local_time(event.created_at)}  {event.type:<20} {data}".rstrip())


def _value(value: object) -> str:
    if isinstance(value, float):
        return number(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} {_value(inside)}" for name, inside in value.items()) + "}"
    return str(value)


def evaluation_line(event: Event) -> Text | None:
    """Return an event in words if it is one that people wait for: an evaluation, the end of a round, a failure."""
    data = event.data
    round_ = f"round {data.get('round_index', '?')}"
    if event.type in ("trial.evaluated", "checkpoint.evaluated", "baseline.evaluated"):
        metrics = ", ".join(
            f"{_METRICS.get(name, name)} {number(value)}"
            for name, value in sorted((data.get("metrics") or {}).items(), key=lambda item: _order(item[0]))
        )
        samples = f" on {data['num_samples']:,} samples" if data.get("num_samples") else ""
        whose = _what_baseline(data) if event.type == "baseline.evaluated" else f"{round_} {_what(event)}"
        return Text(f"{whose}{_guidance(data)}: {metrics}{samples}")
    if event.type == "round.completed" and data.get("round_index"):
        return Text(f"{round_} completed", style="bold")
    if event.type == "unit.failed":
        error = data.get("error") or {}
        return Text(f"{data.get('kind', 'unit')} failed: {error.get('message', 'no reason given')}", style="red")
    return None


def _guidance(data: Mapping[str, Any]) -> str:
    """Return by how much the samples were guided, unless the name of a baseline says it."""
    is_named = "baseline_index" in data and "objective" not in data
    return f", guidance {number(data['guidance_scale'])}" if "guidance_scale" in data and not is_named else ""


def _order(metric: str) -> tuple[int, str]:
    known = list(_METRICS)
    return (known.index(metric) if metric in known else len(known), metric)


def _what(event: Event) -> str:
    data = event.data
    if event.type == "checkpoint.evaluated":
        return "base" if data.get("kind") == "baseline" else f"finalist {data.get('position')}"
    cell = (
        f" (α {number(data['alpha'])}, β {number_or_name(data['beta'])})" if "alpha" in data and "beta" in data else ""
    )
    return f"trial {data.get('position')}{cell} at {number(data.get('kimg'))} kimg"


def _what_baseline(data: Mapping[str, Any]) -> str:
    told = f"baseline {data.get('baseline_index')}"
    if "objective" in data:
        return f"{told} ({data['objective']}) at {number(data.get('kimg'))} kimg"
    names = {"guidance_scale": "guidance", "discriminator_weight": "discriminator"}
    by = ", ".join(f"{name} {number(data[field])}" for field, name in names.items() if field in data)
    return f"{told} ({by or 'confirmed'})"


def running_unit(unit: RunningUnit) -> str:
    """Return what a worker is doing, in words."""
    where = f" {unit.position}" if unit.kind in ("trial", "reference", "confirm") else ""
    told = f"{unit.kind}{where}"
    if unit.baseline_index is not None:
        told = f"baseline {unit.baseline_index} {unit.kind.removeprefix('baseline_')}"
    elif unit.round_index is not None:
        told = f"round {unit.round_index} {told}"
    if unit.phase and unit.total:
        told += f": {unit.phase} {unit.done or 0:,}/{unit.total:,} {unit.unit or ''}".rstrip()
    return told


def _units(job: Job) -> str:
    running = len(job.progress.running)
    return f"{job.progress.units_done}/{job.progress.units_planned} units" + (f", {running} running" if running else "")


def progress_line(job: Job) -> str:
    """Return how far a job is, in words."""
    first = f" · {running_unit(job.progress.running[0])}" if job.progress.running else ""
    return f"{_units(job)}{first}"


def local_time(moment: datetime | None) -> str:
    """Return a moment in the local time zone."""
    return _MISSING if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
