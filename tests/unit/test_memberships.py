"""The membership records in a real store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import Conflict, DataLoss, NotFound, Refused
from cluster.identifiers import Kind, key_of_id, new_id
from cluster.membership import Boot, Held, Membership, Report
from cluster.memberships import Change, Memberships
from cluster.recover import recover
from cluster.sqlite_store import SqliteStore
from cluster.store import RecordKind
from tests.unit.fake_agent import FakeAgents, FakeNode

VOLUME = new_id(Kind.VOLUME, "data")
BARE = Membership(members=("n1", "n2"), replicas=("n1", "n2"))
FULL = Membership(
    members=("n1",),
    replicas=("n1", "n2"),
    primary="n1",
    active="n1",
    epoch=7,
    generation="0123456789ABCDEE",
    boots=(Boot("n1", "b1"),),
    quarantine="why",
    reports=(Report("n1", BARE), Report("n2", None)),
    forced="n1",
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "store.sqlite")
    yield store
    store.close()


def test_a_record_comes_back_as_it_was_written(store: SqliteStore, tmp_path: Path) -> None:
    made = Memberships(store).create(VOLUME, BARE)
    written = Memberships(store).write(VOLUME, FULL, made.revision)
    store.close()
    again = SqliteStore(tmp_path / "store.sqlite")
    try:
        assert Memberships(again).find(VOLUME) == written == Held(FULL, made.revision + 1)
        assert Memberships(again).list() == ([(VOLUME, written)], written.revision)
    finally:
        again.close()


def test_only_the_revision_that_was_read_can_be_written_over(store: SqliteStore) -> None:
    memberships = Memberships(store)
    made = memberships.create(VOLUME, BARE)
    memberships.write(VOLUME, FULL, made.revision)
    with pytest.raises(Conflict):
        memberships.write(VOLUME, BARE, made.revision)
    memberships.delete(VOLUME)
    memberships.delete(VOLUME)
    with pytest.raises(NotFound):
        memberships.write(VOLUME, BARE, made.revision)


def test_another_incarnation_is_neither_found_nor_deleted(store: SqliteStore) -> None:
    memberships = Memberships(store)
    made = memberships.create(VOLUME, BARE)
    late = VOLUME[:-1] + ("0" if VOLUME[-1] != "0" else "1")
    assert key_of_id(late) == key_of_id(VOLUME)
    assert memberships.find(late) is None
    memberships.delete(late)
    other = memberships.create(late, FULL)
    assert (memberships.find(VOLUME), memberships.find(late)) == (made, other)


def test_a_watch_tells_every_change_and_the_deletion(store: SqliteStore) -> None:
    memberships = Memberships(store)
    _, before = memberships.list()
    made = memberships.create(VOLUME, BARE)
    written = memberships.write(VOLUME, FULL, made.revision)
    memberships.delete(VOLUME)
    assert list(memberships.watch(before, timeout=0)) == [
        Change(VOLUME, made, made.revision),
        Change(VOLUME, written, written.revision),
        Change(VOLUME, None, written.revision + 1),
    ]


def test_a_record_that_cannot_be_read_is_a_loss(store: SqliteStore) -> None:
    store.create(RecordKind.MEMBERSHIP, VOLUME, {"members": "n1"})
    with pytest.raises(DataLoss):
        Memberships(store).find(VOLUME)


def test_a_store_with_memberships_is_not_taken_for_an_empty_one(store: SqliteStore) -> None:
    Memberships(store).create(VOLUME, BARE)
    with pytest.raises(Refused):
        recover(store, FakeAgents(FakeNode("n1")))
