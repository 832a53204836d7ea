"""Creating jobs: the body to a spec, the inputs checked, the row inserted once per idempotency key."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session, sessionmaker

from ddo_engine.presets import with_preset
from ddo_engine.spec import AutoguidanceBaseline, JobSpec
from service import lifecycle
from service.api.jobs import repository
from service.api.jobs.parents import Parent, branched_body, find_parent
from service.api.problems import FieldError, Unavailable, Unprocessable
from service.api.validation import converted, field_names, unprocessable
from service.models import Job
from service.sources import InputUnavailable, SourceError, Sources

_FIELDS = field_names(JobSpec)


@dataclass(frozen=True)
class Created:
    """A job, whether this request made it, and the units to ring for after the commit."""

    job: Job
    is_new: bool
    unit_ids: list[str]


@dataclass(frozen=True)
class InputSizes:
    """Bytes of a job's inputs."""

    base_checkpoint: int
    others: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.base_checkpoint + self.others


def parse_spec(body: Any) -> JobSpec:
    """Return the job that a body describes, preset filled in.

    Raises:
        Unprocessable: With every wrong field.
    """
    try:
        spec = JobSpec.model_validate(body)
    except ValidationError as error:
        raise unprocessable(error.errors(), fields=_FIELDS) from error
    errors = converted(with_preset(body), spec.model_dump(mode="json"))
    if errors:
        raise Unprocessable(f"{errors[0].param}: {errors[0].message}", param=errors[0].param, errors=errors)
    return spec


def check_inputs(spec: JobSpec, sources: Sources, parent: Parent | None) -> InputSizes:
    """Return the sizes of the inputs.

    Args:
        spec: The job.
        sources: Where files come from.
        parent: The checkpoint that the job starts from; None: a file.

    Raises:
        Unprocessable: One of them is not allowed, missing or too large; all such are listed.
        Unavailable: A store did not answer.
    """
    uris: dict[str, str | None] = {
        "base_checkpoint": spec.base_checkpoint,
        "dataset.uri": spec.dataset.uri,
        "feature_network": spec.feature_network,
        "reference_statistics": spec.reference_statistics,
        "autoencoder": spec.autoencoder,
        "guide": spec.guide,
    }
    uris |= {
        f"baselines[{index}].guide": baseline.guide
        for index, baseline in enumerate(spec.baselines)
        if isinstance(baseline, AutoguidanceBaseline)
    }
    sizes: dict[str, int] = {}
    if parent is not None:
        sizes["base_checkpoint"] = parent.checkpoint.size_bytes
        uris["base_checkpoint"] = None
    errors: list[FieldError] = []
    for param, uri in uris.items():
        if uri is None:
            continue
        try:
            sizes[param] = sources.check(uri)
        except InputUnavailable as error:
            raise Unavailable(
                f"{param}: {error}", code=error.code, param=param, headers={"Retry-After": "10"}
            ) from error
        except SourceError as error:
            errors.append(
                FieldError(param=param, code=error.code, message=f"{str(error)[:1].upper()}{str(error)[1:]}.")
            )
    if errors:
        first = errors[0]
        raise Unprocessable(f"{first.param}: {first.message}", code=first.code, param=first.param, errors=errors)
    base_checkpoint = sizes.pop("base_checkpoint")
    return InputSizes(base_checkpoint, others=sum(sizes.values()))


def request_hash(body: Mapping[str, Any]) -> str:
    """Return a hash of the body that does not depend on the order of fields or on white space."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def input_sizes(sessions: sessionmaker[Session], sources: Sources, tenant_id: str, spec: JobSpec) -> InputSizes:
    """Return the sizes of a job's inputs, as ``check_inputs`` does, its parent looked up."""
    with sessions() as session:
        parent = find_parent(session, tenant_id, spec)
    return check_inputs(spec, sources, parent)


def create_job(
    sessions: sessionmaker[Session],
    sources: Sources,
    tenant_id: str,
    body: Any,
    *,
    idempotency_key: str | None,
) -> Created:
    """Create the job, or return the one that the same key and body made before. Committed on return.

    Raises:
        Unprocessable: The body or an input is wrong, or the key was used with another body.
    """
    spec, hashed = parse_spec(body), request_hash(body)
    before = _made_before(sessions, tenant_id, idempotency_key, hashed)
    return before or _create(sessions, sources, tenant_id, spec, hashed, idempotency_key)


def branch_job(
    sessions: sessionmaker[Session],
    sources: Sources,
    tenant_id: str,
    job_id: str,
    body: Any,
    *,
    idempotency_key: str | None,
) -> Created:
    """Create a job that branches from another, or return the one that the same key and request made before.

    Raises:
        NotFound: There is no such job, or nothing of it was measured yet.
        Conflict: The round has no winner yet.
        Unprocessable: The body or an input is wrong, or the key was used with another request.
    """
    hashed = request_hash({"branch_of": job_id, "body": body})
    # first: what a request amounts to changes while the job goes on, and it is to mean one branch all the same
    before = _made_before(sessions, tenant_id, idempotency_key, hashed)
    if before is not None:
        return before
    spec = branched_spec(sessions, tenant_id, job_id, body)
    return _create(sessions, sources, tenant_id, spec, hashed, idempotency_key)


def branched_spec(sessions: sessionmaker[Session], tenant_id: str, job_id: str, body: Any) -> JobSpec:
    """Return the job that a branch of another amounts to.

    Raises:
        NotFound: There is no such job, or nothing of it was measured yet.
        Conflict: The round has no winner yet.
        Unprocessable: The body is wrong.
    """
    with sessions() as session:
        whole = branched_body(session, tenant_id, job_id, body)
    return parse_spec(whole)


def _create(
    sessions: sessionmaker[Session],
    sources: Sources,
    tenant_id: str,
    spec: JobSpec,
    hashed: str,
    idempotency_key: str | None,
) -> Created:
    with sessions() as session:
        parent = find_parent(session, tenant_id, spec)
    check_inputs(spec, sources, parent)
    with sessions.begin() as session:
        job_id = repository.insert_job(
            session,
            tenant_id,
            spec=spec.model_dump(mode="json"),
            parent_checkpoint_id=None if parent is None else parent.checkpoint.id,
            idempotency_key=idempotency_key,
            request_hash=hashed,
        )
        if job_id is not None:
            unit_ids = lifecycle.advance(session, job_id)
            return Created(repository.find_job(session, tenant_id, job_id), is_new=True, unit_ids=unit_ids)
        assert idempotency_key is not None
        winner = repository.find_by_idempotency_key(session, tenant_id, idempotency_key)
        assert winner is not None
        return _replayed(winner, hashed)


def _made_before(
    sessions: sessionmaker[Session], tenant_id: str, idempotency_key: str | None, hashed: str
) -> Created | None:
    if idempotency_key is None:
        return None
    with sessions() as session:
        before = repository.find_by_idempotency_key(session, tenant_id, idempotency_key)
    return None if before is None else _replayed(before, hashed)


def _replayed(job: Job, hashed: str) -> Created:
    if job.request_hash != hashed:
        raise Unprocessable(
            "This Idempotency-Key was used with another body: send the same body, or a new key.",
            code="idempotency_mismatch",
            param="Idempotency-Key",
        )
    return Created(job, is_new=False, unit_ids=[])
