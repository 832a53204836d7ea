"""The ``ddo`` command. Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn
from rich.text import Text

from ddo_client import output
from ddo_client.baseline_table import baselines_table
from ddo_client.client import Client
from ddo_client.comparison_table import comparison_table
from ddo_client.curve_figure import draw
from ddo_client.curve_table import curves_table
from ddo_client.errors import DdoError
from ddo_client.job_file import read_job
from ddo_client.models import Job
from ddo_client.rounds_table import rounds_table
from ddo_client.sample_pictures import draw_samples
from ddo_client.watch import watch

app = typer.Typer(
    help="Finetune image models by DDO. The service is DDO_API_URL, your key DDO_API_KEY.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
_PIPE_WIDTH = 200


def _console_of(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH  # what is read by programs is not cut at 80 columns
    return console


_console = _console_of()
_errors = _console_of(stderr=True)

JobId = Annotated[str, typer.Argument(metavar="JOB", help="job_…")]


@contextmanager
def _client() -> Iterator[Client]:
    try:
        with Client.from_environment() as client:
            yield client
    except DdoError as error:
        _errors.print(Text(f"error: {error}", style="red"))
        raise typer.Exit(1) from None


def _watch_to_the_end(client: Client, job_id: str) -> None:
    try:
        job = watch(client, job_id, _console)
    except KeyboardInterrupt:
        _errors.print(f"not watching any more; the job goes on: ddo show {job_id} --watch")
        raise typer.Exit(130) from None
    _console.print(_verdict(job))
    if job.status != "succeeded":
        raise typer.Exit(1)


def _verdict(job: Job) -> Text:
    reason = f" ({job.termination_reason})" if job.termination_reason else ""
    told = output.status(job.status) + Text(reason)
    if job.error:
        return told + Text(": ") + output.job_error(job)
    if job.best_fid is not None:
        told += Text(f": {output.improvement(job)}\nddo download {job.id} --best")
    return told


@app.command()
def submit(
    job_file: Annotated[Path, typer.Argument(metavar="JOB.YAML", help="The job, as YAML or JSON.")],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay and show its progress.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would cost; create nothing.")] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key with the same job never makes a second one.")
    ] = None,
) -> None:
    """Create a job. Prints its id."""
    with _client() as client:
        job = read_job(job_file)
        if dry_run:
            _console.print(output.plan_view(client.plan(job)))
            return
        created = client.submit(job, idempotency_key=idempotency_key)
        _console.print(Text(created.id))
        if watch:
            _watch_to_the_end(client, created.id)


@app.command()
def branch(
    job_id: JobId,
    changes_file: Annotated[
        Path | None, typer.Argument(metavar="CHANGES.YAML", help="Fields that differ from the job's, as YAML or JSON.")
    ] = None,
    from_round: Annotated[
        int | None, typer.Option("--round", min=0, help="From the winner of this round; 0 is the base.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="CHECKPOINT", help="From this checkpoint of the job, ckpt_…")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay and show its progress.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would cost; create nothing.")] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key with the same request never makes a second one.")
    ] = None,
) -> None:
    """Go on from a round of a job in a new one, from its best if none is named. Prints the new job's id."""
    if from_round is not None and checkpoint is not None:
        raise typer.BadParameter("say either --round or --checkpoint")
    with _client() as client:
        changes = read_job(changes_file) if changes_file else {}
        if dry_run:
            plan = client.plan_branch(job_id, changes, from_round=from_round, from_checkpoint=checkpoint)
            _console.print(output.plan_view(plan))
            return
        created = client.branch(
            job_id,
            changes,
            from_round=from_round,
            from_checkpoint=checkpoint,
            idempotency_key=idempotency_key,
        )
        _console.print(Text(created.id))
        if watch:
            _watch_to_the_end(client, created.id)


@app.command()
def jobs(
    status: Annotated[list[str] | None, typer.Option(help="Only jobs in this status; repeatable.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
) -> None:
    """List jobs, newest first."""
    with _client() as client:
        _console.print(output.jobs_table(client.jobs(statuses=status or (), limit=limit)))


@app.command()
def show(
    job_id: JobId, watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end.")] = False
) -> None:
    """Show a job."""
    with _client() as client:
        if watch:
            _watch_to_the_end(client, job_id)
        else:
            _console.print(output.job_view(client.job(job_id)))


@app.command()
def rounds(job_id: JobId) -> None:
    """Show a job's rounds: every trial with its best FID. Its baselines stand below."""
    with _client() as client:
        _console.print(rounds_table(client.rounds(job_id)))
        if client.job(job_id).spec.get("baselines"):
            _console.print()
            _console.print(baselines_table(client.baselines(job_id)))


@app.command()
def baselines(job_id: JobId) -> None:
    """Show what a job compares DDO with."""
    with _client() as client:
        _console.print(baselines_table(client.baselines(job_id)))


@app.command()
def curve(
    job_id: JobId,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it too; needs matplotlib.")] = None,
) -> None:
    """Show the metrics over the guidance scale: of the base and of every round's winner."""
    with _client() as client:
        found = client.guidance_curve(job_id)
        if png is not None:
            draw(found, png)
        _console.print(curves_table(found))


@app.command()
def compare(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="ckpt_… or eval_…, of one job or several.")],
    metric: Annotated[
        str, typer.Option(help="fid, precision, recall, inception_score, sfid, kid, density or coverage.")
    ] = "fid",
) -> None:
    """Rank checkpoints by numbers of one protocol; those of different protocols are refused."""
    with _client() as client:
        _console.print(comparison_table(client.compare(ids, metric=metric)))


@app.command()
def samples(
    job_id: JobId,
    round_index: Annotated[
        int | None, typer.Option("--round", min=0, help="Of this round; the last that has a winner by default.")
    ] = None,
    trial_index: Annotated[
        int | None, typer.Option("--trial", min=0, help="The best of this trial in the winner's place.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG to write.")] = Path("samples.png"),
) -> None:
    """Draw samples of the base, of what a round started from and of its winner, from the same latents; needs Pillow."""
    with _client() as client:
        for shown in draw_samples(client, job_id, out, round_index=round_index, trial_index=trial_index):
            _console.print(Text(f"{shown.samples_id}  {shown.who}: FID {shown.measured.fid:.4g}"))
    _console.print(Text(str(out)))


@app.command()
def snapshots(
    job_id: JobId,
    round_index: Annotated[int, typer.Argument(metavar="ROUND", min=1)],
    trial_index: Annotated[int, typer.Argument(metavar="TRIAL", min=0)],
) -> None:
    """Show the averages of a trial that others can be put together from."""
    with _client() as client:
        _console.print(output.snapshots_table(client.snapshots(job_id, round_index, trial_index)))


@app.command()
def events(
    job_id: JobId, follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False
) -> None:
    """Show what happened to a job."""
    with _client() as client:
        for event in client.follow(job_id) if follow else client.events(job_id):
            _console.print(output.event_line(event))


@app.command()
def cancel(job_id: JobId) -> None:
    """Cancel a job; what was found so far stays."""
    with _client() as client:
        _console.print(output.status(client.cancel(job_id).status))


@app.command()
def download(
    job_id: JobId,
    best: Annotated[bool, typer.Option("--best", help="The job's best checkpoint.")] = False,
    checkpoint: Annotated[str | None, typer.Option(metavar="CHECKPOINT", help="This checkpoint of it, ckpt_…")] = None,
    file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="This snapshot, picture of samples, or baseline's discriminator, art_…"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, or folder.")] = Path(),
) -> None:
    """Download a file of a job and check its SHA-256; goes on where an earlier try was cut off."""
    if [best, checkpoint is not None, file is not None].count(True) != 1:
        raise typer.BadParameter("say one of --best, --checkpoint and --file")
    with _client() as client, _bytes_bar() as bar:
        chosen = checkpoint or file or client.best(job_id).id
        task = bar.add_task("", total=None)
        path = client.download(
            chosen, out, on_progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    _console.print(Text(str(path)))


def _bytes_bar() -> Progress:
    return Progress(BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=_errors, transient=True)
