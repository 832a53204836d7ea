"""The object store on any S3-compatible endpoint."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

from service.storage.files import hash_file, sync_file, temporary_file
from service.storage.keys import checked_key
from service.storage.protocol import ObjectDiffers, ObjectNotFound, SignedUrl, StorageError
from service.storage.s3_client import MISSING_CODES

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MULTIPART_BYTES = 64 * 2**20
_UNSUPPORTED = frozenset({"NotImplemented", "501", "InvalidArgument", "InvalidRequest"})
_SHA256 = "sha256"


class S3Store:
    """Immutable objects under ``prefix`` of one bucket; see ``service.storage.protocol.ObjectStore``.

    Args:
        client: Moves the files.
        public_client: Signs URLs: its endpoint is where clients reach the store.
        multipart_bytes: Files from this size on go up in parts of this size.
    """

    def __init__(
        self,
        client: "S3Client",
        bucket: str,
        prefix: str = "",
        *,
        public_client: "S3Client | None" = None,
        multipart_bytes: int = MULTIPART_BYTES,
    ) -> None:
        self._client = client
        self._public_client = public_client or client
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._multipart_bytes = multipart_bytes

    def put_file(self, key: str, path: Path, *, sha256: str) -> None:
        """Upload ``path``; the server checks the bytes against ``sha256`` where it can.

        Raises:
            ObjectDiffers: The key holds other bytes.
            StorageError: The store failed; try again.
        """
        with _translated(key):
            size = path.stat().st_size
            if size < self._multipart_bytes:
                self._put_small(key, path, sha256)
            elif not self._holds(key, sha256, size):
                self._put_in_parts(key, path, sha256)
            # an accepted upload that the store cannot show again was not one
            if not self._holds(key, sha256, size):
                raise StorageError(f"{key} is missing right after its upload")

    def _put_small(self, key: str, path: Path, sha256: str) -> None:
        checked = {"IfNoneMatch": "*", "ChecksumSHA256": base64.b64encode(bytes.fromhex(sha256)).decode()}
        try:
            self._put(key, path, sha256, checked)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}:
                return  # somebody wrote the key; the caller compares
            if code not in _UNSUPPORTED:
                raise
            if not self._holds(key, sha256, path.stat().st_size):
                self._put(key, path, sha256, {})

    def _put(self, key: str, path: Path, sha256: str, checked: dict[str, Any]) -> None:
        with path.open("rb") as file:
            self._client.put_object(
                Bucket=self._bucket, Key=self._key(key), Body=file, Metadata={_SHA256: sha256}, **checked
            )

    def _put_in_parts(self, key: str, path: Path, sha256: str) -> None:
        # no server checks the SHA-256 of the whole when it gets parts
        if (read := hash_file(path).sha256) != sha256:
            raise StorageError(f"{path.name} changed on disk: expected {sha256}, read {read}")
        self._client.upload_file(
            str(path),
            self._bucket,
            self._key(key),
            ExtraArgs={"Metadata": {_SHA256: sha256}},
            Config=TransferConfig(
                multipart_threshold=self._multipart_bytes, multipart_chunksize=self._multipart_bytes, max_concurrency=4
            ),
        )

    def _holds(self, key: str, sha256: str, size: int) -> bool:
        try:
            head = self._client.head_object(Bucket=self._bucket, Key=self._key(key))
        except ClientError as error:
            if error.response["Error"]["Code"] in MISSING_CODES:
                return False
            raise
        if head["ContentLength"] != size or head["Metadata"].get(_SHA256) != sha256:
            raise ObjectDiffers(f"{key} exists with other bytes")
        return True

    def get_file(self, key: str, path: Path) -> None:
        """Download the object to ``path``, which appears complete or not at all.

        Raises:
            ObjectNotFound: No such key.
            StorageError: The store or the disk failed; try again.
        """
        with _translated(key), temporary_file(path) as (file, temporary):
            self._client.download_fileobj(self._bucket, self._key(key), file)
            sync_file(file)
            temporary.replace(path)

    def size(self, key: str) -> int:
        """Return the object's size in bytes. Raises ObjectNotFound."""
        with _translated(key):
            return self._client.head_object(Bucket=self._bucket, Key=self._key(key))["ContentLength"]

    def delete(self, key: str) -> None:
        """Delete the object; a missing one is fine."""
        try:
            with _translated(key):
                self._client.delete_object(Bucket=self._bucket, Key=self._key(key))
        except ObjectNotFound:
            return

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield all keys that start with ``prefix``."""
        with _translated(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for entry in page.get("Contents", []):
                    yield entry["Key"].removeprefix(self._prefix)

    def signed_download(self, key: str, *, filename: str, expires_in_seconds: int) -> SignedUrl:
        """Return a SigV4 URL that serves a GET of this key alone until it expires."""
        expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=expires_in_seconds)
        with _translated(key):
            url = self._public_client.generate_presigned_url(
                "get_object",
                Params={
                    "Bucket": self._bucket,
                    "Key": self._key(key),
                    "ResponseContentDisposition": f"attachment; filename*=utf-8''{quote(filename, safe='')}",
                },
                ExpiresIn=expires_in_seconds,
            )
        return SignedUrl(url, expires_at)

    def check(self) -> None:
        """Raise StorageError unless the bucket answers."""
        with _translated(""):
            self._client.head_bucket(Bucket=self._bucket)

    def _key(self, key: str) -> str:
        return self._prefix + checked_key(key)


@contextmanager
def _translated(key: str) -> Iterator[None]:
    """Turn what boto3 and the disk raise into the store's own errors."""
    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in MISSING_CODES:
            raise ObjectNotFound(f"no object {key}" if key else "the bucket does not exist") from error
        raise StorageError(f"the object store refused {key or 'the bucket'}: {code}") from error
    except (BotoCoreError, Boto3Error) as error:
        raise StorageError(f"the object store failed on {key or 'the bucket'}: {type(error).__name__}") from error
    except OSError as error:
        raise StorageError(f"cannot read or write the local copy of {key}: {error.strerror}") from error
