"""A file is the old one or the new one, and a failure leaves no draft beside it."""

from __future__ import annotations

import pytest

from urbanwm.whole_file import written_whole


def test_the_file_appears_with_its_folder_once_it_is_complete(tmp_path):
    target = tmp_path / "folder" / "state.json"
    with written_whole(target) as draft:
        draft.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_a_failure_leaves_what_was_there_and_no_draft(tmp_path):
    target = tmp_path / "state.json"
    target.write_text("old")

    def fill_the_disk():
        with written_whole(target) as draft:
            draft.write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fill_the_disk()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
