"""Downloads against a store that cuts off, forgets, expires and lies."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from ddo_client.download import download_file
from ddo_client.errors import DownloadFailed
from ddo_client.models import SignedDownload
from tests.unit.client.test_decoding import JOB

_CONTENT = bytes(range(256)) * 20


class _Body(httpx.SyncByteStream):
    """Bytes after which the connection breaks."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self._content
        raise httpx.ReadError("connection reset")


class _Store:
    """Serves one object; ``trouble`` may answer instead, given the request's number and the first byte asked for."""

    def __init__(
        self, trouble: Callable[[int, int], httpx.Response | Exception | None] = lambda n, first: None
    ) -> None:
        self.ranges: list[int] = []
        self.signed = 0
        self._trouble = trouble

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert "Authorization" not in request.headers
        first = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.ranges.append(first)
        trouble = self._trouble(len(self.ranges), first)
        if isinstance(trouble, Exception):
            raise trouble
        return trouble or httpx.Response(206, content=_CONTENT[first:])

    def sign(self, size: int = len(_CONTENT), content: bytes = _CONTENT) -> SignedDownload:
        self.signed += 1
        digest = hashlib.sha256(content).hexdigest()
        created = JOB["created_at"]
        return SignedDownload(f"http://store/{self.signed}", created, digest, size, "model.safetensors")

    def download(self, path: Path, sign: Callable[[], SignedDownload] | None = None) -> Path:
        with httpx.Client(transport=httpx.MockTransport(self)) as http:
            return download_file(http, sign or self.sign, path)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def _only_file(folder: Path) -> bytes:
    (file,) = folder.iterdir()
    return file.read_bytes()


def test_download_into_a_folder_takes_the_name_of_the_service(tmp_path: Path) -> None:
    assert _Store().download(tmp_path) == tmp_path / "model.safetensors"
    assert _only_file(tmp_path) == _CONTENT


def test_download_named_like_a_path_stays_in_the_folder(tmp_path: Path) -> None:
    store = _Store()
    signed = store.sign()
    evil = SignedDownload(signed.url, signed.expires_at, signed.sha256, signed.size_bytes, "../../evil")
    assert store.download(tmp_path, lambda: evil) == tmp_path / "evil"


def test_download_cut_off_goes_on_with_a_fresh_url(tmp_path: Path) -> None:
    def cut(number: int, first: int) -> httpx.Response | None:
        return httpx.Response(206, stream=_Body(_CONTENT[first : first + 1000])) if number < 4 else None

    store = _Store(cut)
    store.download(tmp_path / "out")
    assert store.ranges == [0, 1000, 2000, 3000]
    assert store.signed == 4
    assert _only_file(tmp_path) == _CONTENT


def test_download_from_a_store_without_ranges_starts_again(tmp_path: Path) -> None:
    def trouble(number: int, first: int) -> httpx.Response:
        return (
            httpx.Response(206, stream=_Body(_CONTENT[:1000])) if number == 1 else httpx.Response(200, content=_CONTENT)
        )

    store = _Store(trouble)
    store.download(tmp_path / "out")
    assert store.ranges == [0, 1000]
    assert _only_file(tmp_path) == _CONTENT


def test_download_given_up_is_continued_by_the_next_call(tmp_path: Path) -> None:
    def trouble(number: int, first: int) -> httpx.Response | Exception:
        return httpx.Response(206, stream=_Body(_CONTENT[:700])) if number == 1 else httpx.ConnectError("refused")

    with pytest.raises(DownloadFailed, match=r"refused; 700 of 5120 bytes are kept"):
        _Store(trouble).download(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    store = _Store()
    store.download(tmp_path / "out")
    assert store.ranges == [700]
    assert _only_file(tmp_path) == _CONTENT


def test_download_expired_url_is_signed_again(tmp_path: Path) -> None:
    store = _Store(lambda number, first: httpx.Response(403) if number == 1 else None)
    store.download(tmp_path / "out")
    assert store.signed == 2


def test_download_refused_for_good_says_so(tmp_path: Path) -> None:
    store = _Store(lambda number, first: httpx.Response(403))
    with pytest.raises(DownloadFailed, match="403 Forbidden"):
        store.download(tmp_path / "out")
    assert len(store.ranges) == 6


def test_download_of_other_bytes_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    damaged = _CONTENT[:-1] + b"!"
    store = _Store(lambda number, first: httpx.Response(206, content=damaged[first:]))
    with pytest.raises(DownloadFailed, match="damaged"):
        store.download(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_download_of_more_than_announced_stops(tmp_path: Path) -> None:
    store = _Store()
    with pytest.raises(DownloadFailed, match="more than the 100 bytes"):
        store.download(tmp_path / "out", lambda: store.sign(size=100))


def test_download_that_is_there_already_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(_CONTENT)
    store = _Store()
    store.download(tmp_path / "out")
    assert not store.ranges


@pytest.mark.parametrize("other", [b"mine", _CONTENT[::-1]])
def test_download_never_overwrites_another_file(tmp_path: Path, other: bytes) -> None:
    (tmp_path / "out").write_bytes(other)
    with pytest.raises(DownloadFailed, match="exists and is another file"):
        _Store().download(tmp_path / "out")
    assert _only_file(tmp_path) == other


def test_download_tells_its_progress(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    with httpx.Client(transport=httpx.MockTransport(_Store())) as http:
        download_file(http, _Store().sign, tmp_path / "out", lambda done, total: told.append((done, total)))
    assert told[-1] == (len(_CONTENT), len(_CONTENT))
