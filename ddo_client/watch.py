"""A job's progress, live."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from ddo_client.client import Client
from ddo_client.models import Job
from ddo_client.output import evaluation_line, improvement, progress_line


def watch(client: Client, job_id: str, console: Console, *, poll_seconds: float = 1.0) -> Job:
    """Show a progress bar, and a line for every evaluation, until the job has ended; return the job as it ended."""
    columns = (
        TextColumn("{task.fields[status]}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    last_event = 0
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=1.0, status="")
        while True:
            job = client.job(job_id)
            for event in client.events(job_id, after=last_event):
                last_event = event.id
                if (line := evaluation_line(event)) is not None:
                    bar.console.print(line, soft_wrap=True)
            told = " · ".join(part for part in (progress_line(job), improvement(job)) if part)
            bar.update(task, completed=job.progress.fraction, description=told, status=job.status)
            if job.has_ended:
                return job
            time.sleep(poll_seconds)
