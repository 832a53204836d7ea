"""Signed downloads of stored files: what a client asks for, and what it gets."""

from datetime import datetime
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.api.problems import (
    BodyTooLarge,
    MalformedBody,
    NotFound,
    Unauthorized,
    Unavailable,
    Unprocessable,
    UnsupportedMediaType,
    documented,
)
from service.api.validation import field_names, unprocessable
from service.settings import ServiceSettings
from service.storage import ObjectStore


class DownloadRequest(BaseModel):
    """How long the URL shall live."""

    model_config = ConfigDict(extra="forbid", strict=True)

    expires_in_seconds: int | None = Field(
        default=None, ge=1, le=900, description="Null: the service's setting, 900 at most."
    )


class Download(BaseModel):
    """A signed URL: it needs no key, serves one GET path until it expires, and supports range requests."""

    url: str
    expires_at: datetime
    sha256: str = Field(description="Compare it with what you downloaded.")
    size_bytes: int
    filename: str


class StoredFile(Protocol):
    """A row that names an object of the store."""

    object_key: Any
    sha256: Any
    size_bytes: Any


DOWNLOAD_ERRORS = documented(
    MalformedBody, Unauthorized, NotFound, BodyTooLarge, UnsupportedMediaType, Unprocessable, Unavailable
)
DOWNLOAD_BODY = {
    "required": False,
    "content": {
        "application/json": {"schema": DownloadRequest.model_json_schema(), "example": {"expires_in_seconds": 300}}
    },
}


def parse_request(body: Any) -> DownloadRequest:
    """Return what a body asks for.

    Raises:
        Unprocessable: With every wrong field.
    """
    try:
        return DownloadRequest.model_validate(body)
    except ValidationError as error:
        raise unprocessable(error.errors(), fields=field_names(DownloadRequest)) from error


def sign(
    wanted: DownloadRequest, file: StoredFile, filename: str, store: ObjectStore, settings: ServiceSettings
) -> Download:
    """Return a URL that downloads a file until it expires, under this name."""
    seconds = min(wanted.expires_in_seconds or settings.download_expiry_seconds, settings.download_expiry_seconds)
    signed = store.signed_download(file.object_key, filename=filename, expires_in_seconds=seconds)
    return Download(
        url=signed.url, expires_at=signed.expires_at, sha256=file.sha256, size_bytes=file.size_bytes, filename=filename
    )
