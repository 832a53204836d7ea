"""The object store as the rest of the service sees it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


class StorageError(Exception):
    """The store cannot be reached or refused the request; the operation may be tried again."""


class ObjectNotFound(StorageError):
    """There is no object under that key."""


class ObjectDiffers(StorageError):
    """The key exists with other bytes; keys are immutable, so the writer has a defect."""


@dataclass(frozen=True)
class SignedUrl:
    """A URL that needs no further credentials until ``expires_at`` (UTC)."""

    url: str
    expires_at: datetime


class ObjectStore(Protocol):
    """Immutable objects under keys such as ``t/{tenant}/jobs/{job}/rounds/1/trials/0/…``.

    A key is written once. Writing the same bytes again succeeds; other bytes raise ``ObjectDiffers``.
    """

    def put_file(self, key: str, path: Path, *, sha256: str) -> None:
        """Upload ``path`` under ``key``; returns once the store holds all of it.

        Args:
            key: Where the object will be found.
            path: A finished file.
            sha256: Hex digest of the file, checked by the store where it can.

        Raises:
            ObjectDiffers: The key holds other bytes.
            StorageError: The store failed; try again.
        """

    def get_file(self, key: str, path: Path) -> None:
        """Download ``key`` to ``path`` (through a temporary file beside it).

        Raises:
            ObjectNotFound: No such key.
        """

    def size(self, key: str) -> int:
        """Return the object's size in bytes. Raises ObjectNotFound."""

    def delete(self, key: str) -> None:
        """Delete the object; a missing one is fine."""

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield all keys that start with ``prefix``."""

    def signed_download(self, key: str, *, filename: str, expires_in_seconds: int) -> SignedUrl:
        """Return a URL that serves a GET (and, locally, HEAD) of this key alone until it expires."""

    def check(self) -> None:
        """Raise StorageError unless the store answers (for readiness)."""
