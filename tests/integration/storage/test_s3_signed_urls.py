"""Signed URLs of an S3 endpoint that checks signatures, fetched with plain curl."""

import hashlib
import subprocess
import time
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import pytest
from pydantic import SecretStr

from service.settings import ServiceSettings
from service.storage import ObjectStore, open_store

CONTENT = b"weights" * 10_000


@pytest.fixture
def store(swift, tmp_path: Path) -> ObjectStore:
    settings = ServiceSettings(
        database_url=SecretStr("unused"),
        broker_url=SecretStr("unused"),
        storage_url=f"s3://{swift.name}/store",
        s3_endpoint_url=swift.endpoint_url,
        s3_region=swift.region,
        s3_access_key_id=SecretStr(swift.access_key_id),
        s3_secret_access_key=SecretStr(swift.secret_access_key),
    )
    store = open_store(settings)
    (tmp_path / "in").write_bytes(CONTENT)
    for key in ("t/ten/a.safetensors", "t/ten/b.safetensors"):
        store.put_file(key, tmp_path / "in", sha256=hashlib.sha256(CONTENT).hexdigest())
    return store


@pytest.fixture
def url(store: ObjectStore) -> str:
    return store.signed_download("t/ten/a.safetensors", filename="best one.safetensors", expires_in_seconds=60).url


def curl(url: str, *options: str) -> tuple[int, bytes]:
    done = subprocess.run(
        ["curl", "-sS", "--noproxy", "*", "-o", "-", "-w", "%{stderr}%{http_code}", *options, url],
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stderr[-3:]), done.stdout


def changed(url: str, **query: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query=urlencode(dict(parse_qsl(parts.query)) | query, quote_via=quote)))


def test_s3_signed_url_works_with_plain_curl(url, tmp_path) -> None:
    assert curl(url) == (200, CONTENT)
    assert curl(url, "-r", "7-13") == (206, b"weights")
    status, headers = curl(url, "-D", "-", "-o", str(tmp_path / "out"))
    assert status == 200
    assert b"filename*=utf-8''best%20one.safetensors" in headers


def test_s3_signed_url_with_a_changed_signature_is_forbidden(url) -> None:
    signature = dict(parse_qsl(urlsplit(url).query))["X-Amz-Signature"]
    forged = ("0" if signature[0] != "0" else "1") + signature[1:]
    assert curl(changed(url, **{"X-Amz-Signature": forged}))[0] == 403


def test_s3_signed_url_with_another_key_is_forbidden(url) -> None:
    assert curl(url.replace("a.safetensors?", "b.safetensors?"))[0] == 403


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_s3_signed_url_with_another_method_is_forbidden(url, store, method) -> None:
    assert curl(url, "-X", method, "--data-binary", "overwritten")[0] == 403
    assert store.size("t/ten/a.safetensors") == len(CONTENT)


def test_s3_signed_url_with_another_expiry_is_forbidden(url) -> None:
    assert curl(changed(url, **{"X-Amz-Expires": "600"}))[0] == 403


def test_s3_expired_signed_url_is_forbidden(store) -> None:
    signed = store.signed_download("t/ten/a.safetensors", filename="f", expires_in_seconds=2)
    assert curl(signed.url)[0] == 200
    # the server's clock has whole seconds
    time.sleep(max(0.0, signed.expires_at.timestamp() - time.time()) + 1.5)
    assert curl(signed.url)[0] == 403
