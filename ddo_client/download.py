"""Downloads that survive a broken connection, and are what they claim to be."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from ddo_client.errors import DownloadFailed
from ddo_client.models import SignedDownload

_ATTEMPTS_WITHOUT_PROGRESS = 6

OnProgress = Callable[[int, int], None]


class _InterruptedError(Exception):
    """The connection broke, or the URL expired; what arrived so far is kept."""


def download_file(
    http: httpx.Client, sign: Callable[[], SignedDownload], path: Path, on_progress: OnProgress | None = None
) -> Path:
    """Download to ``path`` by way of ``path``'s neighbour ``….part``, which a later call goes on from.

    Args:
        http: A client without credentials.
        sign: Returns a fresh signed URL.
        path: File to write, or an existing folder.
        on_progress: Called with bytes done and in all.

    Raises:
        DownloadFailed: Wrong bytes, no connection, or ``path`` exists with other content.
    """
    first = sign()
    if path.is_dir():
        path = path / Path(first.filename).name
    if path.exists():
        if path.stat().st_size == first.size_bytes and _sha256_of(path) == first.sha256:
            return path
        raise DownloadFailed(f"{path} exists and is another file: move it away, or choose another name")
    part = path.with_name(f"{path.name}.{first.sha256[:12]}.part")
    _fetch_all(http, first, sign, part, on_progress or (lambda done, total: None))
    if (found := _sha256_of(part)) != first.sha256:
        part.unlink()
        raise DownloadFailed(f"what arrived is damaged: SHA-256 {found} instead of {first.sha256}; try again")
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.rename(path)
    return path


def _fetch_all(
    http: httpx.Client, signed: SignedDownload, sign: Callable[[], SignedDownload], part: Path, on_progress: OnProgress
) -> None:
    failures = 0
    while (before := _size_of(part)) < signed.size_bytes:
        reason = "the store sent less than it announced"
        try:
            _fetch_rest(http, signed, part, on_progress)
        except _InterruptedError as error:
            reason = str(error)
        if (have := _size_of(part)) >= signed.size_bytes:
            return
        failures = 0 if have > before else failures + 1
        if failures == _ATTEMPTS_WITHOUT_PROGRESS:
            raise DownloadFailed(f"{reason}; {have} of {signed.size_bytes} bytes are kept in {part}, try again later")
        time.sleep(min(0.25 * 2**failures, 10.0))
        signed = sign()  # the URL may have expired


def _fetch_rest(http: httpx.Client, signed: SignedDownload, part: Path, on_progress: OnProgress) -> None:
    have = _size_of(part)
    headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
    try:
        with http.stream("GET", signed.url, headers=headers) as response:
            if response.status_code not in (200, 206):
                raise _InterruptedError(f"the store answered {response.status_code} {response.reason_phrase}")
            resumes = response.status_code == 206 and have > 0
            done = have if resumes else 0
            with part.open("ab" if resumes else "wb") as file:
                for chunk in response.iter_bytes():
                    done += len(chunk)
                    if done > signed.size_bytes:
                        raise DownloadFailed(f"more than the {signed.size_bytes} bytes of the checkpoint arrived")
                    file.write(chunk)
                    on_progress(done, signed.size_bytes)
    except httpx.TransportError as error:
        raise _InterruptedError(str(error) or type(error).__name__) from error


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
