"""Files are written atomically."""

import os
from unittest.mock import Mock

import pytest

from common.errors import UserError
from common.files import atomic


def test_a_file_appears_when_it_is_complete_and_renames_are_synced_with_their_folder(tmp_path, monkeypatch):
    disk = Mock(fsync=Mock(wraps=os.fsync), replace=Mock(wraps=os.replace))
    monkeypatch.setattr(os, "fsync", disk.fsync)
    monkeypatch.setattr(os, "replace", disk.replace)
    path = tmp_path / "below" / "a.txt"
    with atomic(path) as part:
        assert part.parent == path.parent and part.suffix == path.suffix
        part.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]
    assert [name for name, *_ in disk.mock_calls] == ["fsync", "replace", "fsync"]


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
