"""Files that clients name in their jobs: which URIs are allowed, whether they exist, and how they are fetched.

    SourceError                 code
    ├── UriNotAllowed           uri_not_allowed
    ├── InputNotFound           input_not_found
    ├── InputTooLarge           input_too_large
    └── InputUnavailable        input_unavailable   the store did not answer; try again

``file:///…`` below ``DDO_INPUT_ROOTS`` and ``s3://bucket/key`` of ``DDO_INPUT_BUCKETS``. A refused URI is refused
whether or not anything lies behind it. ``object:{key}`` names a file in our own store: units use it, clients may not.
``inception`` is what ``DDO_INCEPTION_WEIGHTS`` names, wherever that lies.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar
from urllib.parse import unquote, urlsplit

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from ddo_engine.spec import FETCH_INCEPTION, INCEPTION, INCEPTION_VARIABLE
from service.settings import ServiceSettings
from service.storage import ObjectNotFound, ObjectStore, StorageError, local_store_folder, split_s3_url
from service.storage.files import (
    CopiedFile,
    Readable,
    TooManyBytesError,
    copy_hashed,
    hash_file,
    sync_file,
    temporary_file,
)
from service.storage.s3_client import MISSING_CODES, create_s3_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

OBJECT_SCHEME = "object:"
ALLOWED = "file:///… below an allowed folder, or s3://bucket/key of an allowed bucket"


class SourceError(Exception):
    """An input cannot be used; the message is for the client and names nothing that the client did not."""

    code: ClassVar[str] = "input_error"


class UriNotAllowed(SourceError, ValueError):
    """The URI's scheme, folder or bucket is not open to jobs."""

    code = "uri_not_allowed"


class InputNotFound(SourceError, ValueError):
    """The URI is allowed, and there is no readable file behind it."""

    code = "input_not_found"


class InputTooLarge(SourceError, ValueError):
    """The file exceeds ``DDO_MAX_INPUT_BYTES``."""

    code = "input_too_large"


class InputUnavailable(SourceError):
    """The store that holds the input did not answer; the same request may succeed later."""

    code = "input_unavailable"


@dataclass(frozen=True)
class Sources:
    """Checks and fetches inputs under one process's settings.

    Attributes:
        settings: Which roots and buckets are open, and how large a file may be.
        store: Where ``object:`` URIs lead.
    """

    settings: ServiceSettings
    store: ObjectStore

    @cached_property
    def _s3(self) -> "S3Client":
        return create_s3_client(self.settings, read_timeout_seconds=20, max_attempts=3)

    def check(self, uri: str) -> int:
        """Return the size in bytes of the input that a client named.

        The operator's own 'inception' may lie anywhere.

        Raises:
            UriNotAllowed: The URI is not open to clients (``object:`` never is).
            InputNotFound: Nothing readable is there.
            InputTooLarge: The file exceeds the limit.
            InputUnavailable: Its store did not answer.
        """
        if uri == INCEPTION:
            own, uri = self._inception()
            return own.check(uri)
        if uri.startswith("file:"):
            with _open_below(_path_of(uri), self._roots, self._private_folder) as file:
                size = os.fstat(file.fileno()).st_size
        elif uri.startswith("s3://"):
            bucket, key = self._bucket_and_key(uri)
            with _translated_s3():
                size = self._s3.head_object(Bucket=bucket, Key=key)["ContentLength"]
        else:
            raise UriNotAllowed(f"URIs of this scheme are not allowed: give {ALLOWED}")
        self._check_size(size)
        return size

    def fetch(self, uri: str, path: Path) -> CopiedFile:
        """Copy the input to ``path``, which appears complete or not at all, and return its SHA-256 and size.

        Raises:
            UriNotAllowed: Neither a client's URI nor one of our objects.
            InputNotFound: Nothing readable is there.
            InputTooLarge: More bytes than the limit arrived.
            InputUnavailable: The transfer broke; try again.
            OSError: ``path`` cannot be written.
        """
        if uri == INCEPTION:
            own, uri = self._inception()
            return own.fetch(uri, path)
        if uri.startswith(OBJECT_SCHEME):
            return self._fetch_object(uri.removeprefix(OBJECT_SCHEME), path)
        if uri.startswith("file:"):
            with _open_below(_path_of(uri), self._roots, self._private_folder) as source:
                return self._copy(source, path)
        if uri.startswith("s3://"):
            bucket, key = self._bucket_and_key(uri)
            with _translated_s3():
                body = self._s3.get_object(Bucket=bucket, Key=key)["Body"]
                try:
                    return self._copy(body, path)
                finally:
                    body.close()
        raise UriNotAllowed(f"URIs of this scheme are not allowed: give {ALLOWED}")

    def _inception(self) -> tuple["Sources", str]:
        """Return sources that are open to what the operator called 'inception', and its URI."""
        weights = self.settings.inception_weights
        if not weights:
            raise InputNotFound(
                f"this service has no weights for 'inception': fetch them with `{FETCH_INCEPTION}` and name them by "
                f"a URI, or have the operator set {INCEPTION_VARIABLE}"
            )
        uri = weights if ":" in weights else Path(weights).absolute().as_uri()
        opened = {"input_roots": (Path("/"),), "input_buckets": (split_s3_url(uri)[0],)}
        return replace(self, settings=self.settings.model_copy(update=opened)), uri

    def _copy(self, source: Readable, path: Path) -> CopiedFile:
        limit = self.settings.max_input_bytes
        with temporary_file(path) as (file, temporary):
            try:
                copied = copy_hashed(source, file, max_bytes=limit)
            except TooManyBytesError as error:
                raise self._too_large() from error
            sync_file(file)
            temporary.replace(path)
        return copied

    def _fetch_object(self, key: str, path: Path) -> CopiedFile:
        try:
            self.store.get_file(key, path)
        except ObjectNotFound as error:
            raise InputNotFound(f"the stored object {key} is gone") from error
        except StorageError as error:
            raise InputUnavailable(str(error)) from error
        return hash_file(path)

    def _check_size(self, size: int) -> None:
        if size > self.settings.max_input_bytes:
            raise self._too_large()

    def _too_large(self) -> InputTooLarge:
        return InputTooLarge(
            f"the file is larger than {self.settings.max_input_bytes} bytes, the limit of this service"
        )

    @property
    def _roots(self) -> tuple[Path, ...]:
        return self.settings.input_roots

    @property
    def _private_folder(self) -> Path | None:
        return local_store_folder(self.settings)

    def _bucket_and_key(self, uri: str) -> tuple[str, str]:
        bucket, key = split_s3_url(uri)
        if bucket not in self.settings.input_buckets:
            raise UriNotAllowed(f"this bucket is not open to jobs: give {ALLOWED}")
        if not key:
            raise UriNotAllowed("the URI names no key: give s3://bucket/key")
        own_bucket, prefix = split_s3_url(self.settings.storage_url)
        if self.settings.storage_url.startswith("s3://") and bucket == own_bucket and key.startswith(prefix):
            raise UriNotAllowed(f"this part of the bucket is not open to jobs: give {ALLOWED}")
        return bucket, key


def _path_of(uri: str) -> Path:
    """Return the path that a ``file:`` URI names, percent-decoding applied once."""
    try:
        parts = urlsplit(uri)
        path = unquote(parts.path, errors="strict")
    except ValueError as error:
        raise UriNotAllowed("the file URI is not valid: give file:///folder/name") from error
    if parts.netloc not in ("", "localhost"):
        raise UriNotAllowed("files of other hosts are not allowed: give file:///folder/name with three slashes")
    if parts.query or parts.fragment:
        raise UriNotAllowed("a file URI has no query and no fragment: write ? as %3F and # as %23")
    if not path.startswith("/") or "\0" in path or {".", ".."} & set(path.split("/")):
        raise UriNotAllowed("the file URI must hold an absolute path without '.' and '..'")
    return Path(path)


@contextmanager
def _open_below(path: Path, roots: tuple[Path, ...], private: Path | None) -> Iterator[BinaryIO]:
    """Open a regular file whose real path lies below one of ``roots`` and not below ``private``."""
    refused = UriNotAllowed(f"this path is not open to jobs: give {ALLOWED}")
    real_roots = tuple(root.resolve() for root in roots)
    # first by name, so that nothing outside the roots is even looked at
    if not any(path.is_relative_to(root) for root in (*roots, *real_roots)):
        raise refused
    real_path = _resolved(path)
    if real_path is None or not any(real_path.is_relative_to(root) for root in real_roots):
        raise refused
    if private is not None and real_path.is_relative_to(private.resolve()):
        raise refused
    missing = InputNotFound("there is no readable file under this URI")
    try:
        descriptor = _open_without_links(real_path)
    except OSError as error:
        raise missing from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise missing
    with os.fdopen(descriptor, "rb") as file:
        yield file


def _open_without_links(path: Path) -> int:
    """Open a path folder by folder: a link that has appeared since it was resolved, even for an instant, is refused.

    Raises:
        OSError: A part of the path is missing, closed to us, or a link.
    """
    folder = os.open(path.anchor, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in path.parts[1:-1]:
            inner = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = inner
        # a FIFO must not block us
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(path.name or ".", flags, dir_fd=folder)
    finally:
        os.close(folder)


def _resolved(path: Path) -> Path | None:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, or a name that is too long
        return None


@contextmanager
def _translated_s3() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        # without the right to list, S3 answers 403 for what is missing
        if code in MISSING_CODES | {"403", "AccessDenied"}:
            raise InputNotFound("there is no readable object under this URI") from error
        raise InputUnavailable(f"the store of this input answered {code}; try again later") from error
    except (BotoCoreError, HTTPError) as error:
        raise InputUnavailable("the store of this input did not answer; try again later") from error
