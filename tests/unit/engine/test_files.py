"""Files are whole or absent."""

import hashlib

import pytest

from ddo_engine.files import sha256_of, write_atomically


def test_sha256_of_file_is_that_of_its_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3_000_000)
    assert sha256_of(path) == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert sha256_of(str(path)) == sha256_of(path)


def test_write_atomically_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    seen = []

    def write(temporary):
        temporary.write_text("new")
        seen.append((temporary.parent, path.read_text()))

    write_atomically(path, write)
    assert seen == [(tmp_path, "old")]
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_write_atomically_interrupted_halfway_keeps_the_old_file(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("ne")
        raise error

    with pytest.raises(error):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomically_syncs_file_and_folder_around_the_rename(tmp_path, monkeypatch):
    import os

    path, order = tmp_path / "file", []
    real_fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append(path.exists()), real_fsync(fd))[1])
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert order == [False, True]
