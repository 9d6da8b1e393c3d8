"""Files are written atomically."""

import os

import pytest

from common.errors import UserError
from common.files import atomic, require_writable


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "below" / "a.txt"
    with atomic(path) as part:
        assert part.parent == path.parent and part.suffix == path.suffix
        part.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError()])
def test_a_failed_write_keeps_what_was_there(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("before")
    expected = UserError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as raised, atomic(path) as part:  # noqa: PT012
        part.write_text("half")
        raise error
    if expected is UserError:
        assert str(raised.value) == f"cannot write {path}: No space left on device"
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_renames_are_synced_with_their_folder(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(os, "replace", lambda *_: events.append("rename"))
    monkeypatch.setattr(os, "fsync", lambda number: events.append("sync"))
    with atomic(tmp_path / "a") as path:
        path.write_text("x")
    assert events == ["sync", "rename", "sync"]


def test_folders_are_made_and_tried(tmp_path):
    require_writable(tmp_path / "a/b", "--x")
    assert list((tmp_path / "a/b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^--x: cannot write to .*file.*name another folder"):
        require_writable(tmp_path / "file", "--x")
