"""The object store as a folder. Its URLs lead to the API's own ``/objects`` route."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from service.storage.files import copy_hashed, hash_file, sync_file, sync_folders, temporary_file
from service.storage.keys import checked_key
from service.storage.protocol import ObjectDiffers, ObjectNotFound, SignedUrl, StorageError
from service.storage.signing import sign_query


class LocalStore:
    """Immutable objects as files below one folder; see ``service.storage.protocol.ObjectStore``.

    Args:
        root: The folder; created on first use.
        public_url: Where clients reach the API.
        signing_key: For ``signed_download``; a process that only moves files needs none.
    """

    def __init__(self, root: Path, *, public_url: str, signing_key: bytes | None) -> None:
        self.root = root
        self.signing_key = signing_key
        self._public_url = public_url.rstrip("/")

    def path_of(self, key: str) -> Path:
        """Return where the object lies.

        Raises:
            ObjectNotFound: No such key.
        """
        try:
            path = self.root / checked_key(key)
        except ValueError as error:
            raise ObjectNotFound(str(error)) from error
        if not path.is_file():
            raise ObjectNotFound(f"no object {key}")
        return path

    def put_file(self, key: str, path: Path, *, sha256: str) -> None:
        """Copy ``path`` in, synced to disk, under a name that appears at once and is never replaced.

        Raises:
            ObjectDiffers: The key holds other bytes.
            StorageError: The file does not have the given hash, or the disk refused it.
        """
        target = self.root / checked_key(key)
        try:
            with temporary_file(target) as (file, temporary), path.open("rb") as source:
                copied = copy_hashed(source, file)
                if copied.sha256 != sha256:
                    raise StorageError(
                        f"{path.name} changed while it was stored: expected {sha256}, read {copied.sha256}"
                    )
                sync_file(file)
                self._publish(temporary, target, sha256)
            sync_folders(target.parent, self.root)
        except OSError as error:
            raise StorageError(f"cannot store {key}: {error.strerror}") from error

    def _publish(self, temporary: Path, target: Path, sha256: str) -> None:
        try:
            os.link(temporary, target)  # unlike a rename, never replaces
        except FileExistsError as error:
            if hash_file(target).sha256 != sha256:
                raise ObjectDiffers(f"{target.relative_to(self.root)} exists with other bytes") from error

    def get_file(self, key: str, path: Path) -> None:
        """Copy the object to ``path``, which appears complete or not at all.

        Raises:
            ObjectNotFound: No such key.
            StorageError: Reading or writing failed.
        """
        stored = self.path_of(key)
        try:
            with temporary_file(path) as (file, temporary), stored.open("rb") as source:
                copy_hashed(source, file)
                sync_file(file)
                temporary.replace(path)
        except OSError as error:
            raise StorageError(f"cannot read {key}: {error.strerror}") from error

    def size(self, key: str) -> int:
        """Return the object's size in bytes. Raises ObjectNotFound."""
        return self.path_of(key).stat().st_size

    def delete(self, key: str) -> None:
        """Delete the object; a missing one is fine."""
        try:
            (self.root / checked_key(key)).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot delete {key}: {error.strerror}") from error

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield all keys that start with ``prefix``, in no order; files still being written are left out."""
        for folder, _, names in os.walk(self.root):
            for name in names:
                key = (Path(folder) / name).relative_to(self.root).as_posix()
                if not name.startswith(".") and key.startswith(prefix):
                    yield key

    def signed_download(self, key: str, *, filename: str, expires_in_seconds: int) -> SignedUrl:
        """Return a URL of the API that serves GET and HEAD of this key alone until it expires.

        Raises:
            StorageError: This process holds no signing key.
        """
        if self.signing_key is None:
            raise StorageError("DDO_URL_SIGNING_KEY is not set in this process")
        expires = int(time.time()) + expires_in_seconds
        query = sign_query(self.signing_key, method="GET", key=checked_key(key), expires=expires, filename=filename)
        return SignedUrl(f"{self._public_url}/objects/{quote(key)}?{query}", datetime.fromtimestamp(expires, UTC))

    def check(self) -> None:
        """Raise StorageError unless the folder is there (or can be made) and takes a file."""
        try:
            with temporary_file(self.root / "check") as (file, _):
                file.write(b"ok")
        except OSError as error:
            raise StorageError(f"the storage folder cannot be written: {error.strerror}") from error
