"""What an agent has noted of its replicated volumes outlives it, or is known to be damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import DataLoss
from cluster.membership import Boot, Membership
from node_agent.notes import NoteBook
from replication.record import Notes

NOTES = Notes(Membership(("a",), ("a", "b"), "a", "a", 7, "g1", (Boot("a", "1"),)), True)


def test_what_was_kept_is_read_at_the_next_start(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "replication"
    NoteBook(folder).keep("vol-1", NOTES)

    again = NoteBook(folder)
    assert again.of("vol-1") == NOTES
    assert again.of("vol-2") == Notes()
    again.remove("vol-1")
    again.remove("vol-1")
    assert NoteBook(folder).of("vol-1") == Notes()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"record": {"members": 3}}'])
def test_a_damaged_note_is_not_an_empty_one(tmp_path: Path, content: str) -> None:
    (tmp_path / "vol-1.json").write_text(content)
    book = NoteBook(tmp_path)
    with pytest.raises(DataLoss, match="vol-1"):
        book.of("vol-1")
    book.keep("vol-2", NOTES)
    assert book.volumes() == {"vol-1", "vol-2"}

    book.keep("vol-1", NOTES)
    assert book.of("vol-1") == NOTES


def test_a_note_that_could_not_be_written_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = NoteBook(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("node_agent.notes.replace_file", full)
    with pytest.raises(OSError, match="No space"):
        book.keep("vol-1", NOTES)
    assert book.of("vol-1") == Notes()
