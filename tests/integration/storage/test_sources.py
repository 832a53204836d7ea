"""Inputs of jobs: which URIs are open, and that what is fetched is what was there."""

import hashlib
import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from service.settings import ServiceSettings
from service.sources import InputNotFound, InputTooLarge, InputUnavailable, Sources, UriNotAllowed
from service.storage import open_store

LIMIT = 3_000_000
CONTENT = os.urandom(LIMIT - 1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "inputs"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "data set.zip").write_bytes(CONTENT)
    (tmp_path / "outside").write_bytes(b"secret")
    (tmp_path / "inputs-of-others").mkdir()
    (tmp_path / "inputs-of-others" / "data.zip").write_bytes(b"secret")
    return root


@pytest.fixture
def sources(root: Path, tmp_path: Path) -> Sources:
    settings = ServiceSettings(
        database_url=SecretStr("unused"),
        broker_url=SecretStr("unused"),
        storage_url=(tmp_path / "inputs" / "store").as_uri(),
        input_roots=(root,),
        max_input_bytes=LIMIT,
    )
    return Sources(settings, open_store(settings))


def test_file_below_a_root_is_checked_and_fetched(sources, root, tmp_path) -> None:
    uri = (root / "sub" / "data set.zip").as_uri()
    assert "%20" in uri
    assert sources.check(uri) == len(CONTENT)
    assert sources.check(uri.replace("file:///", "file://localhost/")) == len(CONTENT)
    fetched = sources.fetch(uri, tmp_path / "work" / "data.zip")
    assert (tmp_path / "work" / "data.zip").read_bytes() == CONTENT
    assert (fetched.sha256, fetched.size_bytes) == (hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["data.zip"]


def test_inception_is_what_the_operator_named_wherever_it_lies(sources, tmp_path) -> None:
    (tmp_path / "weights of inception.pth").write_bytes(CONTENT)
    weights = tmp_path / "weights of inception.pth"
    for name in (str(weights), weights.as_uri()):
        settings = sources.settings.model_copy(update={"inception_weights": name})
        opened = Sources(settings, sources.store)
        assert opened.check("inception") == len(CONTENT)
        assert opened.fetch("inception", tmp_path / "work" / "inception").size_bytes == len(CONTENT)
        with pytest.raises(UriNotAllowed):
            opened.check(weights.as_uri())


def test_inception_that_no_operator_named_says_how_to_get_it(sources, tmp_path) -> None:
    for attempt in (sources.check, lambda name: sources.fetch(name, tmp_path / "work" / "inception")):
        with pytest.raises(InputNotFound, match=r"curl .*pt_inception-2015-12-05.*DDO_INCEPTION_WEIGHTS"):
            attempt("inception")


def test_link_that_stays_below_the_roots_is_followed(sources, root) -> None:
    (root / "link").symlink_to("sub/data set.zip")
    assert sources.check((root / "link").as_uri()) == len(CONTENT)


def test_root_that_is_itself_a_link_is_followed(root, tmp_path, sources) -> None:
    (tmp_path / "alias").symlink_to(root)
    settings = sources.settings.model_copy(update={"input_roots": (tmp_path / "alias",)})
    aliased = Sources(settings, sources.store)
    assert aliased.check((tmp_path / "alias" / "sub" / "data%20set.zip").as_uri().replace("%2520", "%20")) == len(
        CONTENT
    )


@pytest.mark.parametrize(
    "uri",
    [
        "file:///etc/passwd",
        "file:///etc/no-such-file",
        "file://{root}/../outside",
        "file://{root}/sub/../../outside",
        "file://{root}/%2e%2e/outside",
        "file://{root}/%2E%2E%2Foutside",
        "file://{root}/..%2foutside",
        "file://{root}/sub/./data%20set.zip",
        "file://{root}-of-others/data.zip",
        "file://{root}/out",
        "file://{root}/out-folder/outside",
        "file://{root}/loop",
        "file://{root}/dangling",
        "file://{root}/a%00b",
        "file://{root}/%ff",
        "file://{root}/sub/data%20set.zip?x=1",
        "file://{root}/sub/data%20set.zip#x",
        "file://127.0.0.1{root}/sub/data%20set.zip",
        "file://evil.example{root}/sub/data%20set.zip",
        "file://[::1/x",
        "file:sub/data.zip",
        "file:",
        "file://",
        "file:///proc/self/environ",
        "file:///dev/stdin",
        "object:t/ten/inputs/a",
        "http://169.254.169.254/latest/meta-data",
        "https://example.com/data.zip",
        "ftp://example.com/data.zip",
        "gopher://x/",
        "s3:/bucket/key",
        "s3://closed/key",
        "s3:///key",
        "data:,x",
    ],
)
def test_uri_that_is_not_open_is_refused_for_checking(sources, root, tmp_path, uri) -> None:
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "out-folder").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    (root / "dangling").symlink_to(tmp_path / "nothing")
    named = uri.replace("{root}", str(root))
    with pytest.raises(UriNotAllowed) as refused:
        sources.check(named)
    assert str(tmp_path) not in str(refused.value)
    if not uri.startswith("object:"):
        with pytest.raises(UriNotAllowed):
            sources.fetch(named, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_folder_that_is_a_link_only_while_it_is_opened_does_not_lead_out(sources, root, tmp_path, monkeypatch) -> None:
    (tmp_path / "outside-folder").mkdir()
    (tmp_path / "outside-folder" / "data set.zip").write_bytes(b"secret")
    really_open = os.open

    def open_between_two_swaps(*arguments, **named):
        (root / "sub").rename(root / "aside")
        (root / "sub").symlink_to(tmp_path / "outside-folder")
        try:
            return really_open(*arguments, **named)
        finally:
            (root / "sub").unlink()
            (root / "aside").rename(root / "sub")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", open_between_two_swaps)
        with pytest.raises(InputNotFound):
            sources.check((root / "sub" / "data set.zip").as_uri())
    assert sources.check((root / "sub" / "data set.zip").as_uri()) == len(CONTENT)


def test_own_store_below_a_root_is_not_open(sources, root, tmp_path) -> None:
    sources.store.put_file("t/other/a", root / "sub" / "data set.zip", sha256=hashlib.sha256(CONTENT).hexdigest())
    with pytest.raises(UriNotAllowed):
        sources.check((root / "store" / "t" / "other" / "a").as_uri())


def test_what_is_no_readable_file_is_not_found(sources, root) -> None:
    os.mkfifo(root / "pipe")  # opening it for reading would wait for a writer
    for name in ("none", "sub", "pipe", "sub/data set.zip/below", "n" * 300):
        with pytest.raises(InputNotFound):
            sources.check((root / name).as_uri())


def test_refused_files_leave_no_descriptor_open(sources, root) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in ("none", "sub"):
        with pytest.raises(InputNotFound):
            sources.check((root / name).as_uri())
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_file_above_the_limit_is_refused_and_leaves_nothing(sources, root, tmp_path) -> None:
    (root / "large").write_bytes(b"x" * (LIMIT + 1))
    with pytest.raises(InputTooLarge):
        sources.check((root / "large").as_uri())
    with pytest.raises(InputTooLarge):
        sources.fetch((root / "large").as_uri(), tmp_path / "work" / "large")
    assert list((tmp_path / "work").iterdir()) == []


def test_object_of_our_store_is_fetched(sources, root, tmp_path) -> None:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    sources.store.put_file("t/ten/a", root / "sub" / "data set.zip", sha256=sha256)
    fetched = sources.fetch("object:t/ten/a", tmp_path / "copy")
    assert (fetched.sha256, (tmp_path / "copy").read_bytes()) == (sha256, CONTENT)
    with pytest.raises(InputNotFound):
        sources.fetch("object:t/ten/none", tmp_path / "none")
    with pytest.raises(InputNotFound):
        sources.fetch("object:../../outside", tmp_path / "none")


@pytest.fixture
def s3_sources(swift, root) -> Sources:
    settings = ServiceSettings(
        database_url=SecretStr("unused"),
        broker_url=SecretStr("unused"),
        storage_url=f"s3://{swift.name}/store",
        s3_endpoint_url=swift.endpoint_url,
        s3_region=swift.region,
        s3_access_key_id=SecretStr(swift.access_key_id),
        s3_secret_access_key=SecretStr(swift.secret_access_key),
        input_buckets=(swift.name,),
        max_input_bytes=LIMIT,
    )
    client = swift.client()
    client.put_object(Bucket=swift.name, Key="sets/d#a ta?.zip", Body=CONTENT)
    client.put_object(Bucket=swift.name, Key="sets/large", Body=b"x" * (LIMIT + 1))
    client.put_object(Bucket=swift.name, Key="store/t/other/a", Body=b"secret")
    client.close()
    return Sources(settings, open_store(settings))


def test_object_of_an_open_bucket_is_checked_and_fetched(s3_sources, swift, tmp_path) -> None:
    uri = f"s3://{swift.name}/sets/d#a ta?.zip"
    assert s3_sources.check(uri) == len(CONTENT)
    fetched = s3_sources.fetch(uri, tmp_path / "copy")
    assert (fetched.sha256, (tmp_path / "copy").read_bytes()) == (hashlib.sha256(CONTENT).hexdigest(), CONTENT)


def test_inception_may_lie_in_a_bucket_that_is_not_open(s3_sources, swift, tmp_path) -> None:
    uri = f"s3://{swift.name}/sets/d#a ta?.zip"
    settings = s3_sources.settings.model_copy(update={"input_buckets": (), "inception_weights": uri})
    opened = Sources(settings, s3_sources.store)
    assert opened.check("inception") == len(CONTENT)
    assert opened.fetch("inception", tmp_path / "copy").size_bytes == len(CONTENT)
    with pytest.raises(UriNotAllowed):
        opened.check(uri)


def test_object_of_an_open_bucket_missing_too_large_or_private_is_refused(s3_sources, swift, tmp_path) -> None:
    for ask in (s3_sources.check, lambda uri: s3_sources.fetch(uri, tmp_path / "copy")):
        with pytest.raises(InputNotFound):
            ask(f"s3://{swift.name}/sets/none")
        with pytest.raises(InputTooLarge):
            ask(f"s3://{swift.name}/sets/large")
        with pytest.raises(UriNotAllowed):
            ask(f"s3://{swift.name}/store/t/other/a")
        with pytest.raises(UriNotAllowed):
            ask(f"s3://{swift.name}/")
    assert not (tmp_path / "copy").exists()


def test_unreachable_bucket_is_unavailable(s3_sources, swift) -> None:
    settings = s3_sources.settings.model_copy(update={"s3_endpoint_url": "http://127.0.0.1:1"})
    with pytest.raises(InputUnavailable):
        Sources(settings, s3_sources.store).check(f"s3://{swift.name}/sets/large")
