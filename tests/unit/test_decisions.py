"""What a person decides about a replicated volume: over a real store, with a real arbiter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import NotFound, Refused
from cluster.identifiers import Kind, new_id
from cluster.locks import ObjectLocks
from cluster.model import Publication, Volume
from cluster.records import volume_table
from cluster.sqlite_store import SqliteStore
from node_agent.arbiter import Assignment
from recovery.arbiter import Arbiter
from recovery.decisions import Decisions
from recovery.failover_loop import FailoverLoop
from replication.actions import Do
from tests.unit.arbiter_world import BOTH, VOLUME, add_volume, alone, held, sees

OTHER = new_id(Kind.VOLUME, "other")
ON_A = Publication("a", False, "SINGLE_NODE_WRITER")


class Desk:
    """A person with a controller, and one volume that is published on a."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.arbiter = Arbiter(store, lambda volume_id: "secret", gather_seconds=0.0)
        self.decisions = Decisions(store, ObjectLocks(), self.arbiter)

    @property
    def volume(self) -> Volume:
        return volume_table(self.store).ready(VOLUME).item

    def publish(self, *published: Publication) -> None:
        table = volume_table(self.store)
        table.update(table.ready(VOLUME), published=published)

    def assignment(self, node: str) -> Assignment:
        with self.arbiter.followed.subscribe(node) as subscription:
            assignments, _ = next(iter(subscription.changes(0.0)))
            return assignments[0]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    store = SqliteStore(tmp_path / "store.sqlite")
    add_volume(store, VOLUME, BOTH)
    found = Desk(store)
    found.publish(ON_A)
    found.arbiter.start()
    yield found
    found.arbiter.stop()
    store.close()


def test_a_failover_moves_the_publication_and_need_not_wait(desk: Desk) -> None:
    outcome = desk.decisions.fail_over(VOLUME, "b")
    assert "failed over to b" in outcome
    assert held(desk.store).record.primary == "b"
    assert desk.volume.published == (replace(ON_A, node="b"),)
    assert desk.assignment("b").go_alone
    # What the survivor asks next is granted, and the old primary is out.
    assert desk.arbiter.ask(Do.ASK_ALONE, VOLUME, alone(desk.store, "b")).granted
    assert held(desk.store).record.members == ("b",)


def test_a_failover_that_was_cut_off_is_repeated(desk: Desk) -> None:
    desk.decisions.fail_over(VOLUME, "b")
    desk.publish(ON_A)  # as if the call had ended between both writes
    epoch = held(desk.store).record.epoch
    assert "published on b already" in desk.decisions.fail_over(VOLUME, "b")
    assert desk.volume.published == (replace(ON_A, node="b"),)
    assert held(desk.store).record.epoch == epoch


def test_a_failover_is_refused_where_data_would_be_lost(desk: Desk) -> None:
    assert desk.arbiter.ask(Do.ASK_ALONE, VOLUME, alone(desk.store, "a")).granted
    with pytest.raises(Refused, match="b is not in the set"):
        desk.decisions.fail_over(VOLUME, "b")
    assert desk.volume.published == (ON_A,)


def test_a_failover_of_what_is_not_published_is_refused(desk: Desk) -> None:
    desk.publish()
    with pytest.raises(Refused, match="published nowhere"):
        desk.decisions.fail_over(VOLUME, "b")
    with pytest.raises(NotFound):
        desk.decisions.fail_over(OTHER, "b")


def test_a_store_that_is_older_than_its_nodes_fails_nothing_over(desk: Desk) -> None:
    newer = replace(sees(desk.store, "a"), epoch=99)
    desk.arbiter.tell("a", {VOLUME: newer})
    with pytest.raises(Refused, match="the store is older"):
        desk.decisions.fail_over(VOLUME, "b")
    assert held(desk.store).record == BOTH


def test_force_primary_says_first_what_is_at_stake(desk: Desk) -> None:
    desk.arbiter.tell("a", {VOLUME: sees(desk.store, "a")})
    with pytest.raises(Refused) as refused:
        desk.decisions.force_primary(VOLUME, "b", accept_data_loss=False)
    words = str(refused.value)
    assert "are lost" in words
    assert "a is in the set of complete replicas, was the last primary" in words
    assert "b is in the set of complete replicas, has told this controller nothing" in words
    assert held(desk.store).record == BOTH


def test_force_primary_makes_a_replica_the_volume(desk: Desk) -> None:
    assert desk.arbiter.ask(Do.ASK_ALONE, VOLUME, alone(desk.store, "a")).granted
    desk.decisions.force_primary(VOLUME, "b", accept_data_loss=True)
    record = held(desk.store).record
    assert (record.members, record.primary, record.forced) == (("b",), "b", "b")
    assert desk.volume.published == (replace(ON_A, node="b"),)


def test_what_was_forced_outranks_whatever_another_node_noted_before(desk: Desk) -> None:
    """The store had gone back, and nobody knew of the record that the dead node had seen."""
    noted = replace(BOTH, members=("a",), epoch=1000)
    desk.decisions.force_primary(VOLUME, "b", accept_data_loss=True)
    back = replace(alone(desk.store, "a"), epoch=noted.epoch)
    assert not desk.arbiter.ask(Do.REPORT, VOLUME, back, noted).granted
    assert held(desk.store).record.members == ("b",)
    assert held(desk.store).record.quarantine == ""


def test_the_nodes_are_told_what_is_made_of_silent_ones(desk: Desk) -> None:
    loop = FailoverLoop(desk.arbiter.followed, ("a", "b", "c"))
    for node in ("a", "b", "c"):
        desk.arbiter.tell(node, {})
    heard = desk.arbiter.followed._heard
    heard.update({"b": heard["b"] - 60, "c": heard["c"] - 60})
    loop.look()
    word = desk.assignment("a").word
    assert "b is silent, and a has not told what it sees" in word
    assert f"xlss volume fail-over {VOLUME} --to a" in word
    desk.arbiter.tell("b", {})
    desk.arbiter.tell("c", {})
    loop.look()
    assert desk.assignment("a").word == ""


def test_answers_and_failovers_are_counted(desk: Desk) -> None:
    desk.decisions.fail_over(VOLUME, "b")
    desk.arbiter.ask(Do.ASK_ALONE, VOLUME, alone(desk.store, "a"))
    desk.arbiter.ask(Do.ASK_ALONE, VOLUME, alone(desk.store, "b"))
    with pytest.raises(NotFound):
        desk.arbiter.ask(Do.ASK_ALONE, OTHER, alone(desk.store, "b"))
    assert desk.arbiter.followed.failovers == 1
    assert desk.arbiter.answers() == {
        ("ask-alone", "refused"): 1,
        ("ask-alone", "granted"): 1,
        ("ask-alone", "NotFound"): 1,
    }
