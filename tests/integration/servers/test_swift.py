"""The tests' S3 endpoint refuses what AWS refuses; else tests of signed URLs would prove nothing."""

import time
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from botocore.exceptions import ClientError

from tests.servers.s3 import Bucket, SwiftServer

_KEY = "folder/file.bin"


@pytest.fixture
def signed_url(swift: Bucket) -> str:
    client = swift.client()
    client.put_object(Bucket=swift.name, Key=_KEY, Body=b"content")
    client.put_object(Bucket=swift.name, Key="folder/other.bin", Body=b"other")
    return client.generate_presigned_url("get_object", Params={"Bucket": swift.name, "Key": _KEY}, ExpiresIn=60)


def _with_query(url: str, **changed: str) -> str:
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()} | changed
    return parts._replace(query=urlencode(query)).geturl()


def test_swift_signed_url_serves_the_object_and_its_ranges(signed_url: str) -> None:
    assert httpx.get(signed_url).content == b"content"
    part = httpx.get(signed_url, headers={"Range": "bytes=2-3"})
    assert (part.status_code, part.content) == (206, b"nt")


def test_swift_changed_signature_is_refused(signed_url: str) -> None:
    signature = parse_qs(urlsplit(signed_url).query)["X-Amz-Signature"][0]
    forged = signature[:-1] + ("0" if signature[-1] != "0" else "1")
    assert httpx.get(_with_query(signed_url, **{"X-Amz-Signature": forged})).status_code == 403


def test_swift_other_key_under_the_same_signature_is_refused(signed_url: str) -> None:
    assert httpx.get(signed_url.replace("file.bin", "other.bin")).status_code == 403


def test_swift_other_method_under_the_same_signature_is_refused(signed_url: str) -> None:
    assert httpx.put(signed_url, content=b"overwritten").status_code == 403
    assert httpx.delete(signed_url).status_code == 403
    assert httpx.get(signed_url).content == b"content"


def test_swift_prolonged_expiry_is_refused(signed_url: str) -> None:
    assert httpx.get(_with_query(signed_url, **{"X-Amz-Expires": "600"})).status_code == 403


def test_swift_expired_url_is_refused(swift: Bucket) -> None:
    client = swift.client()
    client.put_object(Bucket=swift.name, Key=_KEY, Body=b"content")
    url = client.generate_presigned_url("get_object", Params={"Bucket": swift.name, "Key": _KEY}, ExpiresIn=5)
    assert httpx.get(url).status_code == 200
    time.sleep(6.1)
    assert httpx.get(url).status_code == 403


def test_swift_unsigned_request_is_refused(signed_url: str) -> None:
    reply = httpx.get(signed_url.partition("?")[0])
    assert reply.status_code in (400, 403)
    assert b"content" not in reply.content


def test_swift_wrong_secret_is_refused(swift: Bucket) -> None:
    forger = Bucket(swift.name, swift.endpoint_url, swift.access_key_id, "not-the-secret")
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        forger.client().list_objects_v2(Bucket=swift.name)


def test_swift_killed_and_started_again_keeps_its_objects(swift_server: SwiftServer, swift: Bucket) -> None:
    swift.client().put_object(Bucket=swift.name, Key=_KEY, Body=b"content")
    swift_server.process.kill()
    swift_server.process.wait(5)
    swift_server.start()
    assert swift.client().get_object(Bucket=swift.name, Key=_KEY)["Body"].read() == b"content"
