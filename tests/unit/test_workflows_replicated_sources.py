"""Restoring and cloning where the source, the new volume or both have two replicas."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import Busy, NoSpace, OutOfRange, Refused, Unavailable
from cluster.identifiers import key_of_id
from cluster.memberships import Memberships
from cluster.model import Phase, Source, SourceKind, Volume
from cluster.records import snapshot_table
from cluster.recover import recover
from cluster.sqlite_store import SqliteStore
from tests.unit.cluster_world import (
    THICK_PAIR,
    THIN,
    THIN_PAIR,
    World,
    fails,
    leave_set,
    no_faults,
    on,
    three_nodes,
)
from tests.unit.fake_agent import GIB


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    store = SqliteStore(tmp_path / "store.db")
    world = World(store, three_nodes())
    yield world
    world.check()
    store.close()


def restored(world: World, volume: Volume, spec: object = THIN_PAIR, **fields: object) -> Volume:
    cut = world.snapshots.create("cut", volume.id)
    source = Source(SourceKind.SNAPSHOT, cut.id)
    return world.create("copy", spec, source=source, **fields)  # type: ignore[arg-type]


def cloned(world: World, volume: Volume, spec: object = THIN_PAIR, **fields: object) -> Volume:
    source = Source(SourceKind.VOLUME, volume.id)
    return world.create("copy", spec, source=source, **fields)  # type: ignore[arg-type]


def half_made(world: World, origin: Volume) -> Volume:
    """The record of a clone after a call that has made the first replica only."""
    world.nodes.set_fault(fails("create_volume", Unavailable("lost"), node=origin.nodes[1]))
    with pytest.raises(Unavailable):
        cloned(world, origin)
    world.nodes.set_fault(no_faults)
    record = world.record("copy")
    assert record is not None
    return record


def is_equal(volume: Volume) -> bool:
    assert volume.replication is not None
    return volume.replication.equal


@pytest.mark.parametrize("make", [restored, cloned])
def test_a_copy_in_the_same_pool_shares_its_blocks_on_both_nodes(
    world: World, make: object
) -> None:
    origin = world.create("origin", THIN_PAIR, requisite=on("n1", "n3"))
    assert callable(make)
    copy = make(world, origin)
    assert set(copy.nodes) == {"n1", "n3"}
    assert is_equal(copy)
    world.check_settled()


@pytest.mark.parametrize("make", [restored, cloned])
def test_where_one_node_has_the_source_its_replica_is_the_complete_one(
    world: World, make: object
) -> None:
    origin = world.create("origin", THIN, requisite=on("n2"))
    assert callable(make)
    copy = make(world, origin)
    assert copy.nodes[0] == "n2"
    assert len(copy.nodes) == 2
    assert not is_equal(copy)
    held = Memberships(world.store).find(copy.id)
    assert held is not None
    assert held.record.members == ("n2",)
    world.check_settled()


def test_the_requested_node_is_one_of_the_pair_also_without_the_source(world: World) -> None:
    origin = world.create("origin", THIN_PAIR, requisite=on("n1", "n2"))
    copy = restored(world, origin, requisite=on("n3"))
    assert copy.nodes[0] in ("n1", "n2")
    assert copy.nodes[1] == "n3"
    assert not is_equal(copy)
    world.check_settled()


@pytest.mark.parametrize("make", [restored, cloned])
def test_a_thick_copy_begins_complete_on_one_node(world: World, make: object) -> None:
    origin = world.create("origin", THIN_PAIR)
    assert callable(make)
    copy = make(world, origin, THICK_PAIR)
    assert copy.nodes[0] in origin.nodes
    assert not is_equal(copy)
    world.check_settled()


@pytest.mark.parametrize("make", [restored, cloned])
def test_a_copy_with_one_replica_is_on_a_node_of_the_source(world: World, make: object) -> None:
    origin = world.create("origin", THIN_PAIR, requisite=on("n1", "n2"))
    assert callable(make)
    copy = make(world, origin, THIN, requisite=on("n2", "n3"))
    assert copy.nodes == ("n2",)
    world.check_settled()


def test_no_node_that_has_the_source_is_permitted(world: World) -> None:
    origin = world.create("origin", THIN, requisite=on("n1"))
    with pytest.raises(NoSpace, match="source"):
        restored(world, origin, requisite=on("n2", "n3"))
    assert world.record("copy") is None


@pytest.mark.parametrize("spec", [THIN, THIN_PAIR])
def test_what_left_the_set_is_no_source_of_a_clone(world: World, spec: object) -> None:
    origin = world.create("origin", THIN_PAIR)
    stale, kept = origin.nodes
    leave_set(world, origin, stale)
    copy = cloned(world, origin, spec)
    assert copy.nodes[0] == kept
    assert copy.replication is None or not is_equal(copy)
    world.check_settled()


def test_the_cut_for_a_clone_is_shown_to_nobody_and_goes(world: World) -> None:
    origin = world.create("origin", THIN_PAIR)
    shown: list[int] = []

    def look(node: str, call: str, when: str) -> None:
        if (call, when) == ("create_volume", "after"):
            shown.append(len(world.snapshots.list()[0]))

    world.nodes.set_fault(look)
    copy = cloned(world, origin)
    assert shown == [0, 0]
    assert snapshot_table(world.store).list()[0] == []
    assert world.nodes.snapshot_ids() == []
    assert cloned(world, origin) == copy
    world.check_settled()


def test_a_source_that_is_being_published_is_cloned_later(world: World) -> None:
    origin = world.create("origin", THIN_PAIR)
    with world.locks.hold(key_of_id(origin.id), purpose="publication"), pytest.raises(Busy):
        cloned(world, origin)
    assert is_equal(cloned(world, origin))
    world.check_settled()


def test_both_replicas_are_of_one_cut_when_the_first_attempt_made_one_only(world: World) -> None:
    """The origin is written meanwhile: a replica of a later cut would have other blocks."""
    origin = world.create("origin", THIN_PAIR)
    first = half_made(world, origin)
    world.restart()
    copy = cloned(world, origin)
    assert copy.cut == first.cut
    assert is_equal(copy)
    world.check_settled()


def test_a_cut_that_was_given_up_takes_what_was_made_of_it_along(world: World) -> None:
    origin = world.create("origin", THIN_PAIR)
    first = half_made(world, origin)
    (cut,) = snapshot_table(world.store).list()[0]
    snapshot_table(world.store).update(cut, phase=Phase.DELETING)
    copy = cloned(world, origin)
    assert copy.cut != first.cut
    world.reconciler.run_once()
    world.check_settled()


def test_a_clone_is_as_large_as_its_source_has_become(world: World) -> None:
    origin = world.create("origin", THIN_PAIR)
    world.nodes.set_fault(fails("suspend_volumes", Unavailable("lost")))
    with pytest.raises(Unavailable):
        cloned(world, origin)
    world.nodes.set_fault(no_faults)
    world.volumes.expand(origin.id, 2 * GIB, 0)
    assert cloned(world, origin).size_bytes == 2 * GIB
    world.check_settled()


def test_a_clone_does_not_outgrow_what_was_asked_for(world: World) -> None:
    origin = world.create("origin", THIN_PAIR)
    world.nodes.set_fault(fails("suspend_volumes", Unavailable("lost")))
    with pytest.raises(Unavailable):
        cloned(world, origin, limit=GIB)
    world.nodes.set_fault(no_faults)
    world.volumes.expand(origin.id, 2 * GIB, 0)
    with pytest.raises(OutOfRange, match="may have 1"):
        cloned(world, origin, limit=GIB)
    assert world.record("copy") is None
    world.check_settled()


def test_no_clone_where_nobody_knows_who_is_complete(world: World) -> None:
    origin = world.create("origin", THIN_PAIR)
    held = Memberships(world.store).find(origin.id)
    assert held is not None
    Memberships(world.store).write(
        origin.id, replace(held.record, quarantine="restored"), held.revision
    )
    with pytest.raises(Refused, match="reported"):
        cloned(world, origin)
    assert world.record("copy") is None


def test_a_snapshot_on_two_nodes_comes_back_as_one(world: World, tmp_path: Path) -> None:
    origin = world.create("origin", THIN_PAIR)
    cut = world.snapshots.create("cut", origin.id)
    store = SqliteStore(tmp_path / "new.db")
    recovery = recover(store, world.nodes)
    assert recovery.snapshots == 1
    again = World(store, world.nodes).snapshots.get(cut.id)
    assert sorted(again.nodes) == sorted(cut.nodes)
    assert again.size_bytes == cut.size_bytes


def test_the_cut_for_a_clone_is_not_kept_when_the_store_is_rebuilt(
    world: World, tmp_path: Path
) -> None:
    origin = world.create("origin", THIN_PAIR)
    world.nodes.set_fault(fails("create_volume", Unavailable("lost")))
    with pytest.raises(Unavailable):
        cloned(world, origin)
    world.nodes.set_fault(no_faults)
    assert len(world.nodes.snapshot_ids()) == 2
    store = SqliteStore(tmp_path / "new.db")
    recover(store, world.nodes)
    rebuilt = World(store, world.nodes)
    assert rebuilt.snapshots.list()[0] == []
    rebuilt.reconciler.run_once()
    assert world.nodes.snapshot_ids() == []
