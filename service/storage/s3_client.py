"""One way to make an S3 client, for the store and for the inputs of jobs."""

from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from service.settings import ServiceSettings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MISSING_CODES = frozenset({"404", "NoSuchKey", "NotFound", "NoSuchBucket"})


def create_s3_client(
    settings: ServiceSettings,
    *,
    endpoint_url: str | None = None,
    read_timeout_seconds: float = 60,
    max_attempts: int = 5,
) -> "S3Client":
    """Return a client of the configured endpoint. Signs payloads, so that the server checks every byte.

    Args:
        settings: Endpoint, region and credentials.
        endpoint_url: Instead of the settings' endpoint.
        read_timeout_seconds: How long one answer may stay silent.
        max_attempts: Tries of one request, with exponential backoff.
    """
    key_id, secret = settings.s3_access_key_id, settings.s3_secret_access_key
    endpoint = endpoint_url or settings.s3_endpoint_url
    config = Config(
        signature_version="s3v4",
        connect_timeout=5,
        read_timeout=read_timeout_seconds,
        retries={"mode": "standard", "total_max_attempts": max_attempts},
        # checksum trailers are boto3's default and unknown to many compatible servers
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if endpoint else "auto", "payload_signing_enabled": True},
    )
    session = boto3.session.Session(
        aws_access_key_id=key_id.get_secret_value() if key_id else None,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        region_name=settings.s3_region,
    )
    return session.client("s3", endpoint_url=endpoint, config=config)
