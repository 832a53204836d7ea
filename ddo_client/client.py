"""The service's API in Python.

with Client.from_environment() as client:
    job = client.submit({"preset": "edm-cifar10-uncond", "base_checkpoint": "s3://…", …})
    …
    client.download(client.best(job.id).id, Path("best.safetensors"))
"""

import math
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from ddo_client.decoding import decode
from ddo_client.download import download_file
from ddo_client.errors import ApiError, DdoError, FieldError, UnexpectedAnswer, Unreachable
from ddo_client.models import (
    Baseline,
    Checkpoint,
    Comparison,
    Event,
    GuidanceCurves,
    Job,
    JobSummary,
    Measured,
    Plan,
    Round,
    SignedDownload,
    Snapshot,
    TrainingPoint,
    TrialMetrics,
)

T = TypeVar("T")

_MAX_RETRY_AFTER_SECONDS = 60.0


class Client:
    """A connection to the service. All its calls may be repeated safely, and are when the service is out of reach."""

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        timeout_seconds: float = 30.0,
        attempts: int = 6,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            url: The service's address, ``https://…``.
            api_key: ``ddo_…``.
            timeout_seconds: For each answer.
            attempts: How often a request is sent before giving up: 429, 5xx and broken connections are repeated.
            transport: Instead of the network, for tests.
        """
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {api_key}", "Accept": "application/json"},
            timeout=timeout_seconds,
            transport=transport,
        )
        # signed URLs carry their own rights: the key must not reach whoever stores the objects
        self._anonymous = httpx.Client(timeout=timeout_seconds, follow_redirects=True, transport=transport)
        self._url = url
        self._retrying = Retrying(
            retry=retry_if_exception(_may_pass),
            wait=_wait,
            stop=stop_after_attempt(attempts),
            reraise=True,
        )

    @classmethod
    def from_environment(cls) -> Self:
        """Return a client of ``DDO_API_URL`` with ``DDO_API_KEY``.

        Raises:
            DdoError: One of them is not set.
        """
        missing = [name for name in ("DDO_API_URL", "DDO_API_KEY") if not os.environ.get(name)]
        if missing:
            raise DdoError(
                f"set {' and '.join(missing)}: DDO_API_URL is the service's address, DDO_API_KEY your API key"
            )
        return cls(os.environ["DDO_API_URL"], os.environ["DDO_API_KEY"])

    def submit(self, job: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Create a job.

        Args:
            job: The body of ``POST /jobs``.
            idempotency_key: The same key with the same job always means the same job; None: a new job.

        Raises:
            ApiError: The service refuses it, and says which field is wrong.
            Unreachable: No answer; with the same key the call may be repeated.
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return self._ask(Job, "POST", "/jobs", json=dict(job), headers=headers)

    def plan(self, job: Mapping[str, Any]) -> Plan:
        """Return what a job would do, without creating it."""
        return self._ask(Plan, "POST", "/jobs", json=dict(job), params={"dry_run": "true"})

    def branch(
        self,
        job_id: str,
        changes: Mapping[str, Any] | None = None,
        *,
        from_round: int | None = None,
        from_checkpoint: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Create a job that goes on from a checkpoint of another: a round's winner, any other, or else its best.

        Args:
            job_id: The job to branch from; it is left alone.
            changes: Fields of the new job; the others are inherited.
            from_round: Start from the winner of this round; 0 is the base.
            from_checkpoint: Start from this checkpoint of the job.
            idempotency_key: The same key with the same request always means the same job; None: a new job.

        Raises:
            ApiError: The service refuses it, and says which field is wrong.
            Unreachable: No answer; with the same key the call may be repeated.
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        body = _branch(changes, from_round, from_checkpoint)
        return self._ask(Job, "POST", f"/jobs/{_segment(job_id)}/branch", json=body, headers=headers)

    def plan_branch(
        self,
        job_id: str,
        changes: Mapping[str, Any] | None = None,
        *,
        from_round: int | None = None,
        from_checkpoint: str | None = None,
    ) -> Plan:
        """Return what a branch would do, without creating it."""
        body = _branch(changes, from_round, from_checkpoint)
        path = f"/jobs/{_segment(job_id)}/branch"
        return self._ask(Plan, "POST", path, json=body, params={"dry_run": "true"})

    def jobs(self, *, statuses: Sequence[str] = (), limit: int | None = None) -> Iterator[JobSummary]:
        """Yield jobs, newest first, at most ``limit`` of them."""
        params: dict[str, Any] = {"limit": min(limit or 100, 100)}
        if statuses:
            params["status"] = list(statuses)
        yield from islice(self._pages(JobSummary, "/jobs", params), limit)

    def job(self, job_id: str) -> Job:
        """Return a job."""
        return self._ask(Job, "GET", f"/jobs/{_segment(job_id)}")

    def rounds(self, job_id: str) -> tuple[Round, ...]:
        """Return a job's rounds; round 0 is the base."""
        return self._list(Round, f"/jobs/{_segment(job_id)}/rounds")

    def baselines(self, job_id: str) -> tuple[Baseline, ...]:
        """Return what a job's baselines have found, in order of the job's."""
        return self._list(Baseline, f"/jobs/{_segment(job_id)}/baselines")

    def guidance_curve(self, job_id: str) -> GuidanceCurves:
        """Return the metrics over the guidance scale, of a job's base and of every round's winner."""
        return decode(GuidanceCurves, self._json("GET", f"/jobs/{_segment(job_id)}/guidance-curve"))

    def metrics(self, job_id: str, round_index: int, trial_index: int) -> TrialMetrics:
        """Return all curves of a trial."""
        path = f"/jobs/{_segment(job_id)}/rounds/{round_index}/trials/{trial_index}/metrics"
        training: list[TrainingPoint] = []
        evaluations: list[Measured] = []
        params: dict[str, Any] = {"limit": 1000}
        while True:
            page = self._json("GET", path, params=params)
            part = decode(TrialMetrics, page)
            training += part.training
            evaluations += part.evaluations
            if not page.get("has_more"):
                return TrialMetrics(tuple(training), tuple(evaluations))
            params["since_kimg"] = page["next_since_kimg"]

    def snapshots(self, job_id: str, round_index: int, trial_index: int) -> tuple[Snapshot, ...]:
        """Return the averages that a trial has written, by length, then by kimg."""
        return self._list(Snapshot, f"/jobs/{_segment(job_id)}/rounds/{round_index}/trials/{trial_index}/snapshots")

    def events(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """Yield what happened to a job so far, oldest first, after the event ``after``."""
        yield from self._pages(Event, f"/jobs/{_segment(job_id)}/events", {"after": after, "limit": 1000})

    def follow(self, job_id: str, *, after: int = 0, poll_seconds: float = 1.0) -> Iterator[Event]:
        """Yield events as they happen until the job has ended."""
        while True:
            ended = self.job(job_id).has_ended  # asked first: the events read next are then the last ones
            for event in self.events(job_id, after=after):
                yield event
                after = event.id
            if ended:
                return
            time.sleep(poll_seconds)

    def checkpoints(self, job_id: str) -> tuple[Checkpoint, ...]:
        """Return a job's checkpoints, best first."""
        return self._list(Checkpoint, f"/jobs/{_segment(job_id)}/checkpoints")

    def best(self, job_id: str) -> Checkpoint:
        """Return a job's best checkpoint so far; the base until something beats it."""
        return self._ask(Checkpoint, "GET", f"/jobs/{_segment(job_id)}/best")

    def compare(self, ids: Sequence[str], *, metric: str = "fid") -> Comparison:
        """Rank checkpoints, of one job or several, by numbers of one protocol.

        Args:
            ids: ``ckpt_…``, which stands for all of its evaluations, or ``eval_…`` for one.
            metric: "fid", "precision", "recall", "inception_score", "sfid", "kid", "density" or "coverage".

        Raises:
            ApiError: ``protocols_differ``: their numbers must not be ranked; the message says which parts differ.
        """
        return self._ask(Comparison, "GET", "/comparison", params={"of": list(ids), "metric": metric})

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; cancelling twice is fine."""
        return self._ask(Job, "POST", f"/jobs/{_segment(job_id)}/cancel")

    def sign_download(self, file_id: str) -> SignedDownload:
        """Return a URL that needs no key for some minutes: of a checkpoint, or of a file whose id is ``art_…``."""
        kind = "artifacts" if file_id.startswith("art_") else "checkpoints"
        return self._ask(SignedDownload, "POST", f"/{kind}/{_segment(file_id)}/download", json={})

    def download(self, file_id: str, path: Path, *, on_progress: Callable[[int, int], None] | None = None) -> Path:
        """Download a file, going on where an earlier attempt was cut off, and check its SHA-256.

        Args:
            file_id: A checkpoint's, ``ckpt_…``, or that of a snapshot, a picture of samples or a baseline's
                discriminator, ``art_…``.
            path: The file to write, or an existing folder: then the service names the file.
            on_progress: Called with the bytes that are there and those that there will be.

        Returns:
            The file.

        Raises:
            DownloadFailed: The bytes are wrong, the connection keeps breaking, or the file exists with other content.
        """
        return download_file(self._anonymous, lambda: self.sign_download(file_id), path, on_progress)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        self._anonymous.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _list(self, kind: type[T], path: str) -> tuple[T, ...]:
        return tuple(decode(kind, item) for item in self._json("GET", path).get("data", ()))

    def _pages(self, kind: type[T], path: str, params: dict[str, Any]) -> Iterator[T]:
        while True:
            page = self._json("GET", path, params=params)
            for item in page.get("data", ()):
                yield decode(kind, item)
            if not page.get("has_more"):
                return
            params = params | {"after": page["next_after"]}

    def _ask(self, kind: type[T], method: str, path: str, **request: Any) -> T:
        return decode(kind, self._json(method, path, **request))

    def _json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        try:
            response = self._retrying(self._send, method, path, **request)
        except httpx.TransportError as error:
            raise Unreachable(f"no answer from {self._url}: {error or type(error).__name__}") from error
        try:
            answer = response.json()
        except ValueError as error:
            raise UnexpectedAnswer(f"{self._url} does not answer in JSON: is it the service?") from error
        if not isinstance(answer, dict):
            raise UnexpectedAnswer(f"{self._url} answers with something else than an object: is it the service?")
        return answer

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        if "json" in request and not _is_finite(request["json"]):
            raise DdoError("NaN and infinity are no numbers for a job")
        response = self._http.request(method, path, **request)
        if response.status_code >= 300:
            raise _api_error(response)
        return response


def _segment(identifier: str) -> str:
    """Return an id as a path segment: nothing in it may lead to another path."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", identifier):
        raise DdoError(f"{identifier!r} is no id: ids look like job_0198f3a1b2c3d4e5f60718293a")
    return identifier


def _is_finite(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(_is_finite(inside) for inside in value.values())
    if isinstance(value, list | tuple):
        return all(_is_finite(inside) for inside in value)
    return not isinstance(value, float) or math.isfinite(value)


class _RefusedError(ApiError):
    """An ApiError that remembers when the service wants to be asked again."""

    retry_after_seconds: float | None = None


def _api_error(response: httpx.Response) -> ApiError:
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {}
    errors = [
        FieldError(entry.get("param"), str(entry.get("code")), str(entry.get("message")))
        for entry in problem.get("errors") or ()
        if isinstance(entry, dict)
    ]
    error = _RefusedError(
        response.status_code,
        str(problem.get("code", "unknown_error")),
        str(problem.get("detail") or f"The service answered {response.status_code} {response.reason_phrase}."),
        param=problem.get("param"),
        request_id=problem.get("request_id") or response.headers.get("X-Request-ID"),
        errors=errors,
    )
    after = response.headers.get("Retry-After", "")
    if after.isdigit():
        error.retry_after_seconds = min(float(after), _MAX_RETRY_AFTER_SECONDS)
    return error


def _branch(changes: Mapping[str, Any] | None, from_round: int | None, from_checkpoint: str | None) -> dict[str, Any]:
    start = {"from_round": from_round, "from_checkpoint": from_checkpoint}
    return dict(changes or {}) | {name: value for name, value in start.items() if value is not None}


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, ApiError):
        return error.status == 429 or error.status in (500, 502, 503, 504)
    return isinstance(error, httpx.TransportError) and not isinstance(
        error, httpx.UnsupportedProtocol | httpx.LocalProtocolError
    )


_backoff = wait_random_exponential(multiplier=0.25, max=10)


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, _RefusedError) and error.retry_after_seconds is not None:
        return error.retry_after_seconds
    return float(_backoff(state))
