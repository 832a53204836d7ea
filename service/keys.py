"""Where objects lie in the store, and how a spec names them: ``object:{key}``.

    t/{tenant}/inputs/{sha256}{suffix}                                      checked inputs, content-addressed
    t/{tenant}/jobs/{job}/rounds/{n}/{plural kind}/{position}/attempt-{a}/…  what an attempt wrote; never shared
    t/{tenant}/jobs/{job}/baselines/{i}/…                                    the same of a baseline's units

An attempt writes below its own prefix, so that a worker that lost its lease cannot touch its successor's files.
"""

import re

from ddo_engine.spec import FileRef

_SCHEME = "object:"
_SUFFIX = re.compile(r"\.[a-z0-9]{1,16}")


def object_file(key: str, *, sha256: str, size_bytes: int) -> FileRef:
    """Return the reference by which specs name an object of our store."""
    return FileRef(uri=_SCHEME + key, sha256=sha256, size_bytes=size_bytes)


def key_of(file: FileRef) -> str:
    """Return the object key that ``file`` names.

    Raises:
        ValueError: ``file`` is not an object of our store.
    """
    if file.uri is None or not file.uri.startswith(_SCHEME):
        raise ValueError(f"{file.uri} is not in the object store")
    return file.uri.removeprefix(_SCHEME)


def input_key(tenant_id: str, sha256: str, suffix: str) -> str:
    """Return the key of a checked input; ``suffix`` (``.zip``) is kept if it is a plain one."""
    return f"t/{tenant_id}/inputs/{sha256}{plain_suffix(suffix)}"


def plain_suffix(suffix: str) -> str:
    """Return ``suffix`` if it is short, of letters and digits behind a dot; else nothing."""
    return suffix if _SUFFIX.fullmatch(suffix) else ""


def attempt_prefix(
    tenant_id: str,
    job_id: str,
    round_index: int,
    kind: str,
    position: int,
    attempt: int,
    baseline_index: int | None = None,
) -> str:
    """Return the prefix, without a slash at its end, below which one attempt of a unit writes."""
    part = f"rounds/{round_index}" if baseline_index is None else f"baselines/{baseline_index}"
    return f"t/{tenant_id}/jobs/{job_id}/{part}/{kind}s/{position}/attempt-{attempt}"
