"""Folders of attempts, and of those whose worker is gone."""

import os

from worker.folders import attempt_folder, sweep


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
