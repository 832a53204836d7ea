"""The shared cache of fetched files."""

import hashlib
import os
import threading
import time

import pytest

from worker.cache import DamagedFileError, FileCache


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Origin:
    """Serves one file and counts how often."""

    def __init__(self, data: bytes, seconds: float = 0.0) -> None:
        self.data, self.seconds, self.served = data, seconds, 0

    def __call__(self, path) -> None:
        self.served += 1
        time.sleep(self.seconds)
        path.write_bytes(self.data)


def test_cache_second_use_downloads_nothing(tmp_path):
    cache, origin = FileCache(tmp_path / "cache", 100), Origin(b"data")

    for number in range(2):
        cache.get(_sha256(b"data"), tmp_path / str(number), origin)

    assert origin.served == 1
    assert (tmp_path / "1").read_bytes() == b"data"


def test_cache_wrong_bytes_are_refused_and_not_kept(tmp_path):
    cache = FileCache(tmp_path / "cache", 100)

    with pytest.raises(DamagedFileError):
        cache.get(_sha256(b"data"), tmp_path / "0", Origin(b"dat"))

    assert not (tmp_path / "0").exists()
    assert list((tmp_path / "cache" / "sha256").iterdir()) == []


def test_cache_entry_damaged_on_disk_is_fetched_again(tmp_path):
    cache, origin = FileCache(tmp_path / "cache", 100), Origin(b"data")
    cache.get(_sha256(b"data"), tmp_path / "0", origin)
    entry = tmp_path / "cache" / "sha256" / _sha256(b"data")
    entry.chmod(0o600)
    entry.write_bytes(b"rust")

    cache.get(_sha256(b"data"), tmp_path / "1", origin)

    assert origin.served == 2
    assert (tmp_path / "1").read_bytes() == b"data"


def test_cache_trims_what_was_used_longest_ago_but_not_from_under_a_user(tmp_path):
    cache = FileCache(tmp_path / "cache", 10)
    files = {name: name.encode() * 4 for name in "abc"}
    for age, name in enumerate("abc"):
        cache.get(_sha256(files[name]), tmp_path / name, Origin(files[name]))
        entry = tmp_path / "cache" / "sha256" / _sha256(files[name])
        if entry.exists() and name != "c":
            os.utime(entry, (1000 + age, 1000 + age))

    kept = {path.name for path in (tmp_path / "cache" / "sha256").iterdir()}
    assert kept == {_sha256(files["b"]), _sha256(files["c"])}
    assert (tmp_path / "a").read_bytes() == files["a"]


def test_cache_concurrent_users_download_once(tmp_path):
    origin = Origin(b"data", seconds=0.2)
    caches = [FileCache(tmp_path / "cache", 100) for _ in range(6)]
    threads = [
        threading.Thread(target=cache.get, args=(_sha256(b"data"), tmp_path / str(number), origin))
        for number, cache in enumerate(caches)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert origin.served == 1
    assert all((tmp_path / str(number)).read_bytes() == b"data" for number in range(6))


def test_cache_adds_a_file_and_leaves_it_where_it_is(tmp_path):
    cache, origin = FileCache(tmp_path / "cache", 100), Origin(b"other")
    (tmp_path / "mine").write_bytes(b"data")

    cache.add(_sha256(b"data"), tmp_path / "mine")
    cache.get(_sha256(b"data"), tmp_path / "0", origin)

    assert origin.served == 0
    assert (tmp_path / "mine").read_bytes() == (tmp_path / "0").read_bytes() == b"data"
