"""Signed URLs of the local store, fetched with curl from a real API process."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import pytest

from deploy.commands import api_command
from deploy.local.processes import Process, free_port
from service.storage import SignedUrl
from service.storage.local import LocalStore

CONTENT = bytes(range(256)) * 2000
KEY = "t/ten_1/jobs/job_1/rounds/1/trials/0/attempt-1/checkpoint-1.0.safetensors"
OTHER = KEY.replace("attempt-1", "attempt-2")
SIGNING_KEY = "a signing key of more than 32 bytes"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStore]:
    """A store with two objects, served by an API process. It needs no database for this."""
    folder, port = tmp_path_factory.mktemp("objects"), free_port()
    url = f"http://127.0.0.1:{port}"
    store = LocalStore(folder / "store", public_url=url, signing_key=SIGNING_KEY.encode())
    source = folder / "file"
    source.write_bytes(CONTENT)
    for key in (KEY, OTHER):
        store.put_file(key, source, sha256=hashlib.sha256(CONTENT).hexdigest())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DDO_")} | {
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "DDO_DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:1/none",
        "DDO_BROKER_URL": "redis://127.0.0.1:1/0",
        "DDO_STORAGE_URL": (folder / "store").as_uri(),
        "DDO_URL_SIGNING_KEY": SIGNING_KEY,
        "DDO_PUBLIC_URL": url,
    }
    process = Process(
        "api",
        [sys.executable, *api_command("127.0.0.1", port)],
        log=folder / "api.log",
        env=environment,
        cwd=Path(__file__).parents[3],
        stop_signal=signal.SIGTERM,
        grace_seconds=5,
    )
    with process:
        process.wait_until(lambda: curl(f"{url}/healthz")[0] == 200, 60)
        yield store


@pytest.fixture
def signed(store: LocalStore) -> SignedUrl:
    return store.signed_download(KEY, filename="best checkpoint.safetensors", expires_in_seconds=60)


def curl(url: str, *options: str) -> tuple[int, bytes]:
    """Return status and body of what plain curl gets; 0 where it gets nothing."""
    done = subprocess.run(
        ["curl", "-sS", "--noproxy", "*", "--path-as-is", "-o", "-", "-w", "%{stderr}%{http_code}", *options, url],
        capture_output=True,
        timeout=30,
        check=False,
    )
    return int(done.stderr.decode()[-3:] or 0) if done.returncode == 0 else 0, done.stdout


def changed(url: str, **query: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query=urlencode(dict(parse_qsl(parts.query)) | query, quote_via=quote)))


def test_signed_url_works_with_plain_curl(signed, tmp_path) -> None:
    assert curl(signed.url) == (200, CONTENT)
    named = subprocess.run(
        ["curl", "-sSfJO", "--noproxy", "*", signed.url], cwd=tmp_path, capture_output=True, timeout=30, check=False
    )
    assert named.returncode == 0, named.stderr
    (file,) = tmp_path.iterdir()
    assert file.read_bytes() == CONTENT


def test_signed_url_serves_ranges(signed) -> None:
    assert curl(signed.url, "-r", "100-199") == (206, CONTENT[100:200])
    assert curl(signed.url, "-r", "-10") == (206, CONTENT[-10:])
    assert curl(signed.url, "-r", f"{len(CONTENT) - 5}-") == (206, CONTENT[-5:])
    status, body = curl(signed.url, "-r", f"{len(CONTENT)}-")
    assert status == 416
    assert b'"code":"invalid_range"' in body


def test_signed_url_serves_head(signed) -> None:
    status, headers = curl(signed.url, "-I")
    assert status == 200
    assert f"content-length: {len(CONTENT)}".encode() in headers.lower()
    assert b"cache-control: private, no-store" in headers.lower()


@pytest.mark.parametrize("position", [0, 31, 63])
def test_signed_url_with_a_changed_signature_is_forbidden(signed, position) -> None:
    signature = dict(parse_qsl(urlsplit(signed.url).query))["signature"]
    other = "0" if signature[position] != "0" else "1"
    forged = signature[:position] + other + signature[position + 1 :]
    status, body = curl(changed(signed.url, signature=forged))
    assert status == 403
    assert b'"code":"signature_invalid"' in body
    assert CONTENT[:256] not in body


@pytest.mark.parametrize(
    "query",
    [{"signature": ""}, {"signature": "é"}, {"expires": "99999999999"}, {"filename": "other"}, {"expires": "never"}],
)
def test_signed_url_with_a_changed_query_is_forbidden(signed, query) -> None:
    assert curl(changed(signed.url, **query))[0] == 403


def test_unsigned_url_is_forbidden(signed) -> None:
    assert curl(signed.url.partition("?")[0])[0] == 403


def test_signed_url_with_another_key_is_forbidden(signed) -> None:
    assert curl(signed.url.replace(KEY, OTHER))[0] == 403
    assert curl(signed.url.replace(KEY, KEY + "x"))[0] == 403
    for trick in ("t/../" + KEY, "./" + KEY, KEY.replace("/", "//", 1), "%2e%2e/" + KEY, KEY.replace("t/", "T/", 1)):
        assert curl(signed.url.replace(KEY, trick))[0] == 403, trick


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_signed_url_with_another_method_is_forbidden(signed, store, method) -> None:
    status, body = curl(signed.url, "-X", method, "--data-binary", "overwritten")
    assert status == 403
    assert b'"code":"signature_invalid"' in body
    assert store.size(KEY) == len(CONTENT)


def test_expired_signed_url_is_forbidden(store) -> None:
    signed = store.signed_download(KEY, filename="f", expires_in_seconds=4)
    assert curl(signed.url)[0] == 200
    time.sleep(max(0.0, signed.expires_at.timestamp() - time.time()) + 0.05)
    status, body = curl(signed.url)
    assert status == 403
    assert b'"code":"url_expired"' in body


def test_signed_url_of_a_deleted_object_is_not_found(store, tmp_path) -> None:
    (tmp_path / "f").write_bytes(b"gone soon")
    store.put_file("t/x/gone", tmp_path / "f", sha256=hashlib.sha256(b"gone soon").hexdigest())
    signed = store.signed_download("t/x/gone", filename="f", expires_in_seconds=60)
    store.delete("t/x/gone")
    assert curl(signed.url)[0] == 404


def test_signed_urls_stay_out_of_the_logs(store, signed) -> None:
    curl(signed.url)
    log = (store.root.parent / "api.log").read_text()
    assert "/objects/" in log
    signature = dict(parse_qsl(urlsplit(signed.url).query))["signature"]
    assert signature not in log
    assert SIGNING_KEY not in log
