"""Both stores keep the same promises: keys are written once, files arrive whole, errors are the store's own."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr

from service.settings import ServiceSettings
from service.storage import ObjectDiffers, ObjectNotFound, ObjectStore, StorageError, open_store
from service.storage.local import LocalStore
from service.storage.s3 import S3Store
from service.storage.s3_client import create_s3_client

PART_BYTES = 5 * 2**20  # the smallest part that S3 takes


def s3_settings(bucket) -> ServiceSettings:
    return ServiceSettings(
        database_url=SecretStr("unused"),
        broker_url=SecretStr("unused"),
        storage_url=f"s3://{bucket.name}/prefix",
        s3_endpoint_url=bucket.endpoint_url,
        s3_region=bucket.region,
        s3_access_key_id=SecretStr(bucket.access_key_id),
        s3_secret_access_key=SecretStr(bucket.secret_access_key),
    )


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    if request.param == "local":
        yield LocalStore(tmp_path / "store", public_url="http://127.0.0.1:1", signing_key=b"k" * 32)
        return
    bucket = request.getfixturevalue("swift")
    client = create_s3_client(s3_settings(bucket))
    yield S3Store(client, bucket.name, "prefix", multipart_bytes=PART_BYTES)
    client.close()


def write(path: Path, content: bytes) -> tuple[Path, str]:
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 100_000, PART_BYTES - 1, PART_BYTES, 2 * PART_BYTES + 7])
def test_put_then_get_returns_the_same_bytes(store, tmp_path, size) -> None:
    file, sha256 = write(tmp_path / "in", bytes(index % 251 for index in range(min(size, 251))) * (size // 251 + 1))
    file.write_bytes(file.read_bytes()[:size])
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    store.put_file("t/ten/a.bin", file, sha256=sha256)
    assert store.size("t/ten/a.bin") == size
    store.get_file("t/ten/a.bin", tmp_path / "deep" / "out")
    assert hashlib.sha256((tmp_path / "deep" / "out").read_bytes()).hexdigest() == sha256
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


@pytest.mark.parametrize("size", [10, PART_BYTES])
def test_put_again_same_bytes_is_fine_and_other_bytes_are_refused(store, tmp_path, size) -> None:
    first, sha256 = write(tmp_path / "first", b"a" * size)
    store.put_file("t/ten/a.bin", first, sha256=sha256)
    store.put_file("t/ten/a.bin", first, sha256=sha256)
    other, other_sha256 = write(tmp_path / "other", b"b" * size)
    with pytest.raises(ObjectDiffers):
        store.put_file("t/ten/a.bin", other, sha256=other_sha256)
    store.get_file("t/ten/a.bin", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"a" * size


@pytest.mark.parametrize("size", [10, PART_BYTES])
def test_put_of_a_file_that_changed_since_it_was_hashed_is_refused(store, tmp_path, size) -> None:
    file, _ = write(tmp_path / "in", b"c" * size)
    with pytest.raises(StorageError):
        store.put_file("t/ten/a.bin", file, sha256=hashlib.sha256(b"original").hexdigest())
    with pytest.raises(ObjectNotFound):
        store.size("t/ten/a.bin")


def test_missing_object_is_not_found(store, tmp_path) -> None:
    with pytest.raises(ObjectNotFound):
        store.size("t/ten/none")
    with pytest.raises(ObjectNotFound):
        store.get_file("t/ten/none", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    store.delete("t/ten/none")


def test_put_of_a_missing_file_is_a_storage_error_and_leaves_nothing(store, tmp_path) -> None:
    with pytest.raises(StorageError):
        store.put_file("t/ten/a.bin", tmp_path / "none", sha256="0" * 64)
    assert list(store.keys("")) == []


def test_deleted_object_is_gone_and_others_stay(store, tmp_path) -> None:
    file, sha256 = write(tmp_path / "in", b"x")
    for key in ("t/ten/a", "t/ten/b"):
        store.put_file(key, file, sha256=sha256)
    store.delete("t/ten/a")
    assert list(store.keys("t/")) == ["t/ten/b"]


def test_keys_are_listed_by_prefix(store, tmp_path) -> None:
    file, sha256 = write(tmp_path / "in", b"x")
    for key in ("t/one/a", "t/one/b/c", "t/two/a"):
        store.put_file(key, file, sha256=sha256)
    assert sorted(store.keys("t/one/")) == ["t/one/a", "t/one/b/c"]
    assert sorted(store.keys("")) == ["t/one/a", "t/one/b/c", "t/two/a"]
    assert list(store.keys("none/")) == []


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.b", ".", "a\0b", "a b", "ä", "a\\b", "x" * 901]
)
def test_bad_keys_are_refused(store, tmp_path, key) -> None:
    file, sha256 = write(tmp_path / "in", b"x")
    with pytest.raises(ValueError, match="not a valid object key"):
        store.put_file(key, file, sha256=sha256)


def test_eight_writers_of_one_key_leave_one_of_their_files(store, tmp_path) -> None:
    files = [write(tmp_path / f"in{index}", b"%d" % index * 100_000) for index in range(8)]

    def put(item: tuple[Path, str]) -> bool:
        try:
            store.put_file("t/ten/raced", item[0], sha256=item[1])
        except ObjectDiffers:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(put, files))
    store.get_file("t/ten/raced", tmp_path / "out")
    kept = hashlib.sha256((tmp_path / "out").read_bytes()).hexdigest()
    assert kept in [sha256 for _, sha256 in files]
    if isinstance(store, LocalStore):  # Swift's If-None-Match is not atomic
        assert won.count(True) == 1
        assert files[won.index(True)][1] == kept


def test_check_passes_on_a_working_store(store) -> None:
    store.check()
    assert list(store.keys("")) == []


def test_check_fails_without_the_bucket(swift) -> None:
    client = create_s3_client(s3_settings(swift))
    with pytest.raises(StorageError):
        S3Store(client, "no-such-bucket-here").check()
    client.close()


def test_check_fails_with_a_wrong_secret(swift) -> None:
    settings = s3_settings(swift).model_copy(update={"s3_secret_access_key": SecretStr("wrong")})
    with pytest.raises(StorageError):
        open_store(settings).check()


def test_unreachable_endpoint_is_a_storage_error(swift, tmp_path) -> None:
    settings = s3_settings(swift).model_copy(update={"s3_endpoint_url": "http://127.0.0.1:1"})
    client = create_s3_client(settings, max_attempts=1)
    store = S3Store(client, swift.name)
    file, sha256 = write(tmp_path / "in", b"x")
    for ask in (
        store.check,
        lambda: store.size("a"),
        lambda: store.put_file("a", file, sha256=sha256),
        lambda: store.get_file("a", tmp_path / "out"),
        lambda: list(store.keys("")),
        lambda: store.delete("a"),
    ):
        with pytest.raises(StorageError):
            ask()
    assert not (tmp_path / "out").exists()
    client.close()


def test_local_store_without_a_signing_key_signs_nothing(tmp_path) -> None:
    store = LocalStore(tmp_path, public_url="http://127.0.0.1:1", signing_key=None)
    with pytest.raises(StorageError, match="DDO_URL_SIGNING_KEY"):
        store.signed_download("a", filename="f", expires_in_seconds=1)


@pytest.mark.parametrize(
    "changes",
    [{"storage_url": "gs://bucket"}, {"storage_url": "/folder"}, {"url_signing_key": SecretStr("too short")}],
)
def test_open_store_refuses_settings_that_make_no_store(tmp_path, changes) -> None:
    settings = ServiceSettings(
        database_url=SecretStr("unused"), broker_url=SecretStr("unused"), storage_url=tmp_path.as_uri()
    )
    with pytest.raises(ValueError, match="DDO_"):
        open_store(settings.model_copy(update=changes))
