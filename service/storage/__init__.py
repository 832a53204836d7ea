"""Where checkpoints and sample sets live: a local folder or an S3-compatible bucket behind one protocol."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from service.settings import ServiceSettings
from service.storage.local import LocalStore
from service.storage.protocol import ObjectDiffers, ObjectNotFound, ObjectStore, SignedUrl, StorageError
from service.storage.s3 import S3Store
from service.storage.s3_client import create_s3_client

__all__ = ["ObjectDiffers", "ObjectNotFound", "ObjectStore", "SignedUrl", "StorageError", "open_store", "split_s3_url"]

_MIN_SIGNING_KEY_BYTES = 32


def split_s3_url(url: str) -> tuple[str, str]:
    """Return bucket and key (or prefix, perhaps empty) of ``s3://bucket/key``. The key is taken as it is written."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key


def local_store_folder(settings: ServiceSettings) -> Path | None:
    """Return the folder of a ``file://`` store, or None."""
    parts = urlsplit(settings.storage_url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def open_store(settings: ServiceSettings) -> ObjectStore:
    """Return the store that ``DDO_STORAGE_URL`` names. Nothing is contacted yet.

    Raises:
        ValueError: The URL has another scheme, or the signing key is too short to be one.
    """
    folder = local_store_folder(settings)
    if folder is not None:
        secret = settings.url_signing_key.get_secret_value().encode() if settings.url_signing_key else None
        if secret is not None and len(secret) < _MIN_SIGNING_KEY_BYTES:
            raise ValueError(f"DDO_URL_SIGNING_KEY needs at least {_MIN_SIGNING_KEY_BYTES} bytes")
        return LocalStore(folder, public_url=str(settings.public_url), signing_key=secret)
    if not settings.storage_url.startswith("s3://"):
        raise ValueError("DDO_STORAGE_URL must be file:///folder or s3://bucket/prefix")
    bucket, prefix = split_s3_url(settings.storage_url)
    client = create_s3_client(settings)
    public = settings.s3_public_endpoint_url
    public_client = create_s3_client(settings, endpoint_url=public) if public else None
    return S3Store(client, bucket, prefix, public_client=public_client)
