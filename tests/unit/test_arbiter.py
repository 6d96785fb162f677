"""The arbiter over a real store: what agents ask, what they are told, who comes back by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import NotFound, Refused
from cluster.identifiers import Kind, new_id
from cluster.membership import Membership
from cluster.memberships import Memberships
from cluster.sqlite_store import SqliteStore
from node_agent.arbiter import Assignment
from recovery.arbiter import Arbiter
from recovery.failover import DOUBTFUL_SECONDS, SILENT_SECONDS
from recovery.failover_loop import FailoverLoop
from recovery.followed import Followed, Subscription
from replication.actions import Do
from replication.record import Connection, Role
from tests.unit.arbiter_world import BOTH, REPLICATION, VOLUME, add_volume, alone, held, sees

SECONDS = 10.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "store.sqlite")
    add_volume(store, VOLUME)
    yield store
    store.close()


@pytest.fixture
def make(store: SqliteStore) -> Iterator[Callable[..., Arbiter]]:
    made: list[Arbiter] = []

    def make(record: Membership | None = BOTH, gather_seconds: float = 0.0) -> Arbiter:
        if record is not None:
            Memberships(store).create(VOLUME, record)
        arbiter = Arbiter(
            store, lambda volume: f"secret of {volume}", gather_seconds=gather_seconds
        )
        arbiter.start()
        made.append(arbiter)
        return arbiter

    yield make
    for arbiter in made:
        arbiter.stop()


def next_of(subscription: Subscription) -> tuple[dict[str, Assignment], list[str]]:
    for assignments, gone in subscription.changes(SECONDS):
        return {one.volume_id: one for one in assignments}, gone
    raise AssertionError("the subscription has ended")


def test_what_is_granted_is_in_the_store_before_it_is_answered(
    store: SqliteStore, make: Callable[..., Arbiter]
) -> None:
    answer = make().ask(Do.ASK_ALONE, VOLUME, alone(store, "a"))
    assert answer.granted
    assert answer.held == held(store)
    assert answer.held.record.members == ("a",)


def test_a_refusal_says_why_and_changes_nothing(
    store: SqliteStore, make: Callable[..., Arbiter]
) -> None:
    arbiter, before = make(), held(store)
    answer = arbiter.ask(Do.ASK_ALONE, VOLUME, alone(store, "b"))
    assert not answer.granted and "published on a" in answer.reason
    assert answer.held == held(store) == before
    with pytest.raises(Refused):
        arbiter.ask(Do.PROMOTE, VOLUME, alone(store, "a"))
    with pytest.raises(NotFound):
        arbiter.ask(Do.ASK_ALONE, new_id(Kind.VOLUME, "other"), alone(store, "a"))


def test_a_node_without_a_replica_is_not_asked_for_its_opinion(
    store: SqliteStore, make: Callable[..., Arbiter]
) -> None:
    """Else its report of a record that nobody has seen would stop the volume."""
    arbiter = make()
    with pytest.raises(Refused, match="c has no replica"):
        arbiter.ask(Do.REPORT, VOLUME, alone(store, "c"), replace(BOTH, epoch=99, primary="c"))
    assert held(store).record == BOTH


def test_of_two_that_ask_to_go_on_alone_one_is_refused(
    store: SqliteStore, make: Callable[..., Arbiter]
) -> None:
    arbiter = make()
    first, second = alone(store, "a"), alone(store, "a")
    granted = [arbiter.ask(Do.ASK_ALONE, VOLUME, one).granted for one in (first, second)]
    assert granted == [True, False]


def test_a_node_is_told_everything_and_then_every_change(
    store: SqliteStore, make: Callable[..., Arbiter]
) -> None:
    arbiter = make()
    with arbiter.followed.subscribe("b") as subscription:
        assignments, gone = next_of(subscription)
        assert assignments[VOLUME] == Assignment(
            VOLUME, held(store), REPLICATION, f"secret of {VOLUME}"
        )
        assert not gone and "secret of" not in repr(assignments)
        stated = alone(store, "a")
        arbiter.tell("a", {VOLUME: stated})
        assert next_of(subscription)[0][VOLUME].peer == stated
        # Another controller, or a workflow, writes to the store.
        now = held(store)
        Memberships(store).write(VOLUME, replace(now.record, primary=""), now.revision)
        assert next_of(subscription)[0][VOLUME].held == held(store)
        Memberships(store).delete(VOLUME)
        assert next_of(subscription) == ({}, [VOLUME])


def test_what_cannot_be_read_for_once_ends_no_following(
    store: SqliteStore, make: Callable[..., Arbiter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a row of changes that is damaged: without the thread no node hears of anything more."""
    arbiter = make()
    watch, failed = Memberships.watch, threading.Event()

    def damaged(self: Memberships, revision: int, *, timeout: float | None = None) -> object:
        if not failed.is_set():
            failed.set()
            raise ValueError("not JSON")
        return watch(self, revision, timeout=timeout)

    with arbiter.followed.subscribe("b") as subscription:
        next_of(subscription)
        monkeypatch.setattr(Memberships, "watch", damaged)
        assert failed.wait(10)
        now = held(store)
        Memberships(store).write(VOLUME, replace(now.record, primary=""), now.revision)
        assert next_of(subscription)[0][VOLUME].held == held(store)


def test_a_volume_that_is_made_later_is_told_as_well(
    store: SqliteStore, make: Callable[..., Arbiter]
) -> None:
    arbiter = make(None)
    with arbiter.followed.subscribe("a") as subscription:
        Memberships(store).create(VOLUME, BOTH)
        assert next_of(subscription)[0].keys() == {VOLUME}


def test_a_newer_subscription_ends_the_older_one_and_the_arbiter_all(
    make: Callable[..., Arbiter],
) -> None:
    arbiter = make()
    older, newer = arbiter.followed.subscribe("a"), arbiter.followed.subscribe("a")
    assert list(older.changes(SECONDS)) == []
    told = newer.changes(SECONDS)
    assert next(told)[0]
    stopping = threading.Timer(0.1, arbiter.stop)
    stopping.start()
    assert list(told) == []
    stopping.join()


def test_a_replica_that_is_complete_again_comes_back_by_itself(
    store: SqliteStore, make: Callable[..., Arbiter]
) -> None:
    arbiter = make(replace(BOTH, members=("a",), boots=BOTH.boots[:1]))
    arbiter.tell("a", {VOLUME: sees(store, "a", role=Role.PRIMARY)})
    arbiter.tell("b", {VOLUME: sees(store, "b", connection=Connection.SYNC_TARGET)})
    assert held(store).record.members == ("a",)
    arbiter.tell("b", {VOLUME: sees(store, "b")})
    assert held(store).record.members == ("a", "b")


def test_a_statement_about_an_older_record_brings_nobody_back(
    store: SqliteStore, make: Callable[..., Arbiter]
) -> None:
    arbiter = make(replace(BOTH, members=("a",), boots=BOTH.boots[:1]))
    old = sees(store, "b")
    arbiter.ask(Do.ASK_ALONE, VOLUME, alone(store, "a"))
    arbiter.tell("a", {VOLUME: sees(store, "a")})
    arbiter.tell("b", {VOLUME: old})
    assert held(store).record.members == ("a",)


def test_a_survivor_is_let_go_for_one_revision_only(
    store: SqliteStore, make: Callable[..., Arbiter]
) -> None:
    arbiter = make(replace(BOTH, primary="b"))
    with arbiter.followed.subscribe("b") as subscription:
        assert not next_of(subscription)[0][VOLUME].go_alone
        arbiter.followed.let_go_alone(VOLUME, "a")  # it is not published there
        arbiter.followed.let_go_alone(VOLUME, "b")
        assert next_of(subscription)[0][VOLUME].go_alone
        now = held(store)
        Memberships(store).write(VOLUME, replace(now.record, epoch=9), now.revision)
        assert not next_of(subscription)[0][VOLUME].go_alone


def test_a_controller_that_has_just_started_waits_for_what_was_seen(
    store: SqliteStore, make: Callable[..., Arbiter]
) -> None:
    arbiter = make(gather_seconds=3600.0)
    asked = alone(store, "a")
    answer = arbiter.ask(Do.ASK_ALONE, VOLUME, asked)
    assert not answer.granted and "just started" in answer.reason
    arbiter.tell("b", {VOLUME: alone(store, "b")})
    assert arbiter.ask(Do.ASK_ALONE, VOLUME, asked).granted


def test_a_store_that_went_back_answers_nothing_but_the_report(
    store: SqliteStore, make: Callable[..., Arbiter]
) -> None:
    arbiter = make()
    asked = alone(store, "a")
    newer = replace(BOTH, epoch=8, members=("b",), primary="b", active="b")
    arbiter.tell("b", {VOLUME: replace(alone(store, "b"), epoch=newer.epoch)})
    answer = arbiter.ask(Do.ASK_ALONE, VOLUME, asked)
    assert not answer.granted and "older than what b has seen" in answer.reason
    told = arbiter.ask(Do.REPORT, VOLUME, replace(alone(store, "b"), epoch=8), newer)
    assert told.granted and held(store).record.quarantine
    arbiter.ask(Do.REPORT, VOLUME, asked, BOTH)
    assert held(store).record == replace(newer, epoch=9)


def test_who_was_heard_and_is_silent_is_known(
    store: SqliteStore, make: Callable[..., Arbiter]
) -> None:
    arbiter = make()
    arbiter.tell("a", {})
    arbiter.tell("b", {VOLUME: alone(store, "b")})
    assert set(arbiter.followed._heard) == {"a", "b"} and not arbiter.followed.silent()
    assert arbiter.followed.silent(-1.0) == {"a", "b"}
    (found,) = arbiter.followed.unsettled({"a"})
    assert (found.volume_id, found.record) == (VOLUME, BOTH)
    assert found.statements.keys() == {"b"}
    assert arbiter.followed.unsettled({"c"}) == []


def test_a_node_that_died_before_the_controller_started_is_silent(
    store: SqliteStore, make: Callable[..., Arbiter], monkeypatch: pytest.MonkeyPatch
) -> None:
    arbiter = make(replace(BOTH, primary="b"))
    loop = FailoverLoop(arbiter.followed, ("a", "b", "c"))
    with arbiter.followed.subscribe("b") as subscription:
        arbiter.tell("b", {VOLUME: alone(store, "b")})
        next_of(subscription)
        loop.look()
        assert not arbiter.followed.silent() and not loop.reason(VOLUME), (
            "it may still be on its way"
        )
        monkeypatch.setattr("recovery.followed._FIRST_WORD_SECONDS", -1.0)
        assert arbiter.followed.silent() == {"a"}
        loop.look()
        assert next_of(subscription)[0][VOLUME].go_alone


def test_the_survivor_of_a_silent_node_is_let_go(
    store: SqliteStore, make: Callable[..., Arbiter], monkeypatch: pytest.MonkeyPatch
) -> None:
    arbiter = make(replace(BOTH, primary="b"))
    loop = FailoverLoop(arbiter.followed, ("a", "b", "c"))
    with arbiter.followed.subscribe("b") as subscription:
        arbiter.tell("a", {VOLUME: sees(store, "a")})
        arbiter.tell("b", {VOLUME: sees(store, "b")})
        next_of(subscription)
        silent = {SILENT_SECONDS: frozenset("a"), DOUBTFUL_SECONDS: frozenset("ac")}
        monkeypatch.setattr(Followed, "silent", lambda _, seconds=SILENT_SECONDS: silent[seconds])
        loop.look()
        assert "link is alive" in loop.reason(VOLUME)
        arbiter.tell("b", {VOLUME: alone(store, "b")})
        loop.look()
        assert "2 of 3 nodes are silent" in loop.reason(VOLUME), "c may be the next"
        silent[DOUBTFUL_SECONDS] = frozenset("a")
        loop.look()
        while not next_of(subscription)[0][VOLUME].go_alone:
            pass
        assert "a is silent" in loop.reason(VOLUME)
        silent.update(dict.fromkeys(silent, frozenset()))
        loop.look()
        assert not loop.reason(VOLUME)
