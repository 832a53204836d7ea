"""The compose file's bucket step, on a server that checks signatures."""

import pytest
from botocore.exceptions import ClientError

from deploy.buckets import create_buckets
from service.settings import ServiceSettings
from tests.servers.s3 import Bucket


def _settings(bucket: Bucket, name: str, **changes: str) -> ServiceSettings:
    values = {name.removeprefix("DDO_").lower(): value for name, value in bucket.environment().items()}
    values |= {"database_url": "postgresql+psycopg://nowhere/ddo", "broker_url": "redis://nowhere/0"}
    values |= {"storage_url": f"s3://{name}", "input_buckets": f"{name}-inputs"}
    return ServiceSettings(**{**values, **changes})  # type: ignore[arg-type]


def test_create_buckets_twice_makes_them_once(swift: Bucket) -> None:
    settings = _settings(swift, f"{swift.name}-new")
    for _ in range(2):
        assert create_buckets(settings) == (f"{swift.name}-new", f"{swift.name}-new-inputs")
    names = [bucket["Name"] for bucket in swift.client().list_buckets()["Buckets"]]
    assert names.count(f"{swift.name}-new") == names.count(f"{swift.name}-new-inputs") == 1


def test_create_buckets_with_a_wrong_secret_raises(swift: Bucket) -> None:
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        create_buckets(_settings(swift, f"{swift.name}-new", s3_secret_access_key="wrong"))
