"""Files and folders are whole or not there."""

import os

import pytest

from pipeline_anime_ddpm.common import atomic


def read(folder):
    return (folder / "a").read_text() if (folder / "a").exists() else None


def test_folder_is_made_once(tmp_path):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "a").write_text("whole")

    assert [atomic.find_or_make(tmp_path / "deep" / "entry", read, make) for _ in range(2)] == ["whole"] * 2
    assert len(made) == 1


def test_failure_leaves_no_folder_and_the_next_attempt_removes_leftovers(tmp_path):
    def fail(folder):
        (folder / "a").write_text("half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        atomic.find_or_make(tmp_path / "entry", read, fail)
    assert [path.name for path in tmp_path.iterdir()] == [".entry.lock"]
    (tmp_path / ".entry.killed.partial").mkdir()
    atomic.find_or_make(tmp_path / "entry", read, lambda folder: (folder / "a").write_text("whole"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".entry.lock", "entry"]


def test_kill_between_two_renames_is_made_good(tmp_path, monkeypatch):
    """The old folder has lost its name, and the new one does not have it yet."""
    for name, text in (("entry", "old"), ("new", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(text)
    replace = os.replace

    def killed(source, target):
        if source == tmp_path / "new":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        atomic.publish_folder(tmp_path / "new", tmp_path / "entry")
    assert read(tmp_path / "entry") is None
    monkeypatch.undo()
    atomic.restore_replaced(tmp_path)
    assert read(tmp_path / "entry") == "old"
    atomic.publish_folder(tmp_path / "new", tmp_path / "entry")
    assert read(tmp_path / "entry") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_text_is_written_beside_and_renamed(tmp_path, monkeypatch):
    atomic.write_whole(tmp_path / "a", "old")
    monkeypatch.setattr(os, "replace", lambda *_: pytest.fail("renamed"))
    with pytest.raises(pytest.fail.Exception):
        atomic.write_whole(tmp_path / "a", "new")
    assert read(tmp_path) == "old"


def test_of_a_link_the_link_alone_is_removed(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    atomic.remove(tmp_path / "link")
    atomic.remove(tmp_path / "link")  # which is not there any more
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    atomic.remove_folder(tmp_path / "folder")
    assert not any(tmp_path.iterdir())
