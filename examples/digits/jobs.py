"""A job of an example over HTTP: submitted, watched, its best checkpoint downloaded, verified and loaded."""

from pathlib import Path
from typing import Any

from rich.console import Console

from ddo_client import Client, DdoError
from ddo_client.models import Checkpoint, Job
from ddo_client.output import improvement, job_error
from ddo_client.rounds_table import rounds_table
from ddo_client.watch import watch
from ddo_engine import load_model
from ddo_engine.files import sha256_of


def run_job(client: Client, body: dict[str, Any], console: Console) -> Job:
    """Submit a job and show its progress until it ended."""
    job = client.submit(body)
    console.print(f"POST /jobs → {job.id}")
    job = watch(client, job.id, console, poll_seconds=0.5)
    console.print(f"\nGET /jobs/{job.id}/rounds", style="bold")
    console.print(rounds_table(client.rounds(job.id)))
    if job.error is not None:
        console.print(job_error(job))
    else:
        console.print(f"{job.status} ({job.termination_reason}): {improvement(job)}\n")
    return job


def download_best(
    client: Client, job: Job, folder: Path, console: Console, *, autoencoder: Path | None = None
) -> tuple[Checkpoint, Path]:
    """Download the job's best checkpoint by its signed URL, compare the SHA-256, and load it.

    Args:
        client: Of the service that did the job.
        job: One that succeeded.
        folder: Gets the file.
        console: Where to tell of it.
        autoencoder: What the model works behind, if it works on tokens.

    Raises:
        DdoError: The service does not answer, or the file is not what it announced.
        EngineError: The file is not a checkpoint that works.
    """
    best = client.best(job.id)
    signed = client.sign_download(best.id)
    console.print(
        f"POST /checkpoints/{best.id}/download → {signed.size_bytes:,} bytes, until {signed.expires_at:%H:%M:%S} UTC"
    )
    console.print(signed.url, style="dim", soft_wrap=True)
    path = folder / signed.filename
    path.unlink(missing_ok=True)
    client.download(best.id, path)
    if sha256_of(path) != best.sha256:
        raise DdoError(f"{path} is not what the service announced")
    parameters = sum(parameter.numel() for parameter in load_model(path, autoencoder=autoencoder).parameters())
    console.print(f"{path}: SHA-256 {best.sha256[:16]}… is right, {parameters:,} parameters loaded\n")
    return best, path
