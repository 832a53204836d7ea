"""Folders of attempts, and of those whose worker is gone."""

import os
import threading

import pytest

from worker.folders import attempt_folder, hold, sweep


def test_attempt_folder_is_private_and_gone_afterwards(tmp_path):
    with attempt_folder(tmp_path, "unit-1") as folder:
        (folder / "file").write_text("x")
        assert folder.stat().st_mode & 0o077 == 0

    assert not folder.exists()


def test_sweep_removes_old_folders_that_nobody_holds(tmp_path):
    left = tmp_path / "attempts" / "left"
    with attempt_folder(tmp_path, "held") as held:
        new = tmp_path / "attempts" / "new"
        for folder in (left, new):
            (folder / "work").mkdir(parents=True)
        for folder in (left, held):
            os.utime(folder, (1000, 1000))

        sweep(tmp_path)

        assert not left.exists()
        assert held.exists()
        assert new.exists()


def test_hold_while_the_file_is_replaced_all_the_time_links_one_version_of_it(tmp_path):
    path, stop = tmp_path / "state", threading.Event()

    def replace() -> None:
        version = 0
        while not stop.is_set():
            version += 1
            new = tmp_path / "new"
            new.write_text(f"{version}")
            new.replace(path)

    path.write_text("0")
    replacer = threading.Thread(target=replace)
    replacer.start()
    try:
        versions = []
        for index in range(3000):
            link = tmp_path / f"link-{index}"
            hold(path, link)
            versions.append(int(link.read_text()))
    finally:
        stop.set()
        replacer.join()
    assert versions == sorted(versions)
    assert versions[-1] > 0


def test_hold_of_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        hold(tmp_path / "missing", tmp_path / "link")
