"""Snapshots of volumes with two replicas: one instant on all members of the in-sync set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import Busy, NotFound, Refused, Unavailable
from cluster.identifiers import key_of_id
from cluster.memberships import Memberships
from cluster.model import Phase, Source, SourceKind, Volume
from cluster.records import group_table, snapshot_table
from cluster.sqlite_store import SqliteStore
from tests.unit.cluster_world import (
    THIN,
    THIN_PAIR,
    World,
    fails,
    leave_set,
    no_faults,
    on,
    three_nodes,
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    store = SqliteStore(tmp_path / "store.db")
    world = World(store, three_nodes())
    yield world
    world.check()
    store.close()


def at(world: World, moment: str, act: object) -> None:
    """Do something once, when a node has just answered that call."""
    done: list[str] = []

    def fault(node: str, call: str, when: str) -> None:
        if (call, when) == (moment, "after") and not done:
            done.append(node)
            assert callable(act)
            act(node)

    world.nodes.set_fault(fault)


def test_volumes_that_are_written_where_nothing_is_held_are_not_cut_together(world: World) -> None:
    """Their primary's disk failed: it goes on through its peer, whose face is not in use."""
    volumes = [world.create(name, THIN_PAIR, preferred=on("n1", "n2")) for name in ("a", "b")]
    for volume in volumes:
        world.volumes.publish(volume.id, "n1", False, "SINGLE_NODE_WRITER")
        leave_set(world, volume, "n1")
    with pytest.raises(Refused, match="is served on n1 without a disk of its own"):
        world.groups.create("both", [volume.id for volume in volumes])
    assert world.nodes.snapshot_ids() == []
    assert group_table(world.store).list()[0] == []
    assert world.snapshots.create("one", volumes[0].id).nodes == ("n2",)


def test_both_replicas_are_held_before_the_first_is_cut(world: World) -> None:
    volume = world.create(spec=THIN_PAIR)
    order: list[str] = []
    world.nodes.set_fault(lambda node, call, when: order.append(call) if when == "after" else None)
    cut = world.snapshots.create("cut", volume.id)
    assert order == ["suspend_volumes"] * 2 + ["create_snapshots"] * 2 + ["resume_volumes"] * 2
    assert sorted(cut.nodes) == sorted(volume.nodes)
    assert world.nodes.snapshot_ids() == [cut.id] * 2
    assert world.snapshots.create("cut", volume.id) == cut
    world.check_settled()


def test_only_members_of_the_set_are_cut(world: World) -> None:
    volume = world.create(spec=THIN_PAIR)
    stale, kept = volume.nodes
    leave_set(world, volume, stale)
    assert world.snapshots.create("cut", volume.id).nodes == (kept,)
    world.check_settled()


def test_cuts_do_not_count_when_a_member_leaves_meanwhile(world: World) -> None:
    volume = world.create(spec=THIN_PAIR)
    stale, kept = volume.nodes
    at(world, "create_snapshots", lambda _: leave_set(world, volume, stale))
    with pytest.raises(Unavailable, match="left the in-sync set"):
        world.snapshots.create("cut", volume.id)
    assert world.nodes.snapshot_ids() == []
    assert world.snapshots.create("cut", volume.id).nodes == (kept,)
    world.check_settled()


def test_cuts_do_not_count_when_a_member_was_away_meanwhile(world: World) -> None:
    """Back in the set after a resync, it was cut before that."""
    volume = world.create(spec=THIN_PAIR)

    def away(_: str) -> None:
        memberships = Memberships(world.store)
        first = memberships.find(volume.id)
        leave_set(world, volume, volume.nodes[0])
        now = memberships.find(volume.id)
        assert first is not None
        assert now is not None
        back = replace(first.record, epoch=now.record.epoch + 1)
        memberships.write(volume.id, back, now.revision)

    at(world, "create_snapshots", away)
    with pytest.raises(Unavailable, match="changed while"):
        world.snapshots.create("cut", volume.id)
    assert world.nodes.snapshot_ids() == []
    world.check_settled()


def test_cuts_do_not_count_when_the_hold_was_lost(world: World) -> None:
    volume = world.create(spec=THIN_PAIR)
    at(world, "create_snapshots", lambda node: world.nodes.nodes[node].suspensions.clear())
    with pytest.raises(Unavailable):
        world.snapshots.create("cut", volume.id)
    assert world.nodes.snapshot_ids() == []
    world.check_settled()


def on_its_way_to_one(world: World, volume: Volume) -> Volume:
    """A change to one replica was cut off: both are members still."""
    changed = replace(volume, spec=THIN)
    world.put(changed)
    return changed


@pytest.mark.parametrize("grouped", [False, True])
def test_a_volume_on_its_way_to_one_replica_is_cut_as_one_of_two(
    world: World, grouped: bool
) -> None:
    volume = on_its_way_to_one(world, world.create(spec=THIN_PAIR))
    stale, kept = volume.nodes

    def cut() -> tuple[str, ...]:
        if grouped:
            return world.groups.create("all", [volume.id])[1][0].nodes
        return world.snapshots.create("cut", volume.id).nodes

    at(world, "create_snapshots", lambda _: leave_set(world, volume, stale))
    with pytest.raises(Unavailable, match="left the in-sync set"):
        cut()
    assert world.nodes.snapshot_ids() == []
    assert cut() == (kept,)


def test_replicas_of_a_clone_are_of_one_cut_also_on_the_way_to_one_replica(world: World) -> None:
    volume = on_its_way_to_one(world, world.create(spec=THIN_PAIR))
    leave_set(world, volume, volume.nodes[0])
    cuts: list[str] = []
    world.nodes.set_fault(
        lambda node, call, when: (
            cuts.append(node) if (call, when) == ("create_snapshots", "after") else None
        )
    )
    source = Source(SourceKind.VOLUME, volume.id)
    copy = world.create("copy", THIN_PAIR, source=source, requisite=on(*volume.nodes))
    assert cuts == [volume.nodes[1]]
    assert copy.replication is not None
    assert not copy.replication.equal


def test_a_snapshot_is_not_gone_on_with_where_its_volume_has_moved_on(world: World) -> None:
    """The node that it was to be cut on may lack by now what was acknowledged since."""
    volume = world.create(spec=THIN, requisite=on("n1"))
    world.nodes.set_fault(fails("create_snapshots", Unavailable("lost"), node="n1"))
    with pytest.raises(Unavailable):
        world.snapshots.create("cut", volume.id)
    world.nodes.set_fault(no_faults)
    pair = world.create("pair", THIN_PAIR, requisite=on("n1", "n2"))
    leave_set(world, pair, "n1")
    (half_made,) = snapshot_table(world.store).list()[0]
    table = snapshot_table(world.store)
    table.delete(half_made)
    table.create(replace(half_made.item, volume_id=pair.id))  # the pair was that volume once
    cut = world.snapshots.create("cut", pair.id)
    assert cut.nodes == ("n2",)
    assert world.nodes.snapshot_ids() == [cut.id]


def test_what_a_killed_controller_has_cut_is_cut_anew(world: World) -> None:
    """Its suspension ended long ago: one replica's cut would be older than the other's."""
    volume = world.create(spec=THIN_PAIR)

    def killed(node: str, call: str, when: str) -> None:
        if call == "create_snapshots" and (node, when) == (volume.nodes[1], "before"):
            raise KeyboardInterrupt

    world.nodes.set_fault(killed)
    with pytest.raises(KeyboardInterrupt):
        world.snapshots.create("cut", volume.id)
    (half_made,) = snapshot_table(world.store).list()[0]
    world.nodes.set_fault(no_faults)
    world.restart()
    cut = world.snapshots.create("cut", volume.id)
    assert cut.id != half_made.item.id
    assert world.nodes.snapshot_ids() == [cut.id] * 2
    world.check_settled()


def test_a_volume_that_is_being_published_is_not_cut(world: World) -> None:
    volume = world.create(spec=THIN_PAIR)
    with world.locks.hold(key_of_id(volume.id), purpose="publication"), pytest.raises(Busy):
        world.snapshots.create("cut", volume.id)
    assert world.nodes.snapshot_ids() == []


def test_no_cut_where_nobody_knows_who_is_complete(world: World) -> None:
    volume = world.create(spec=THIN_PAIR)
    held = Memberships(world.store).find(volume.id)
    assert held is not None
    record = replace(held.record, quarantine="restored")
    held = Memberships(world.store).write(volume.id, record, held.revision)
    with pytest.raises(Refused, match="reported"):
        world.snapshots.create("cut", volume.id)
    assert world.nodes.snapshot_ids() == []


def test_a_group_holds_all_replicas_of_all_volumes(world: World) -> None:
    pair = world.create("pair", THIN_PAIR)
    single = world.create("single", THIN, requisite=on("n3"))
    order: list[str] = []
    world.nodes.set_fault(lambda node, call, when: order.append(call) if when == "after" else None)
    _, members = world.groups.create("all", [pair.id, single.id])
    first_cut = order.index("create_snapshots")
    assert set(order[:first_cut]) == {"suspend_volumes"}
    assert {cut.volume_id: len(cut.nodes) for cut in members} == {pair.id: 2, single.id: 1}
    assert len(world.nodes.snapshot_ids()) == 3
    world.check_settled()


@pytest.mark.parametrize("grouped", [False, True])
def test_a_node_that_is_down_does_not_hold_up_a_deletion(world: World, grouped: bool) -> None:
    volume = world.create(spec=THIN_PAIR)
    down = world.nodes.nodes[volume.nodes[0]]
    if grouped:
        group, (cut,) = world.groups.create("all", [volume.id])
        down.down = True
        world.groups.delete(group.id, [])
    else:
        cut = world.snapshots.create("cut", volume.id)
        down.down = True
        for _ in range(2):  # an answer may be lost
            world.snapshots.delete(cut.id)
        with pytest.raises(Unavailable, match=down.name):  # its name is not free yet
            world.snapshots.create("cut", volume.id)
    with pytest.raises(NotFound):
        world.snapshots.get(cut.id)
    (left,) = snapshot_table(world.store).list()[0]
    assert (left.item.phase, left.item.nodes) == (Phase.DELETING, (down.name,))
    world.reconciler.run_once()
    assert down.snapshots
    down.down = False
    world.restart()
    world.reconciler.run_once()
    assert world.nodes.snapshot_ids() == []
    world.check_settled()
