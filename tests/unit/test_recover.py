"""The store is lost, and rebuilt from the tags of what the nodes hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import Refused, Unavailable
from cluster.identifiers import Kind, new_id
from cluster.model import IoLimits, Phase, Publication, Source, SourceKind, Volume
from cluster.records import group_table, snapshot_table, volume_table
from cluster.recover import Recovery, recover
from cluster.sqlite_store import SqliteStore
from cluster.store import Store
from tests.unit.cluster_world import THICK, THIN, World, on, three_nodes
from tests.unit.fake_agent import GIB, FakeVolume


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    """The one that gets lost, and an empty one."""
    both = SqliteStore(tmp_path / "lost.db"), SqliteStore(tmp_path / "new.db")
    yield both
    for store in both:
        store.close()


@pytest.fixture
def world(stores: tuple[Store, Store]) -> World:
    return World(stores[0], three_nodes())


def rebuilt(world: World, stores: tuple[Store, Store], **options: object) -> Recovery:
    recovery = recover(stores[1], world.nodes, **options)  # type: ignore[arg-type]
    world.store = stores[1]
    world.restart()
    return recovery


def records(store: Store) -> list[object]:
    return [
        entry.item
        for table in (volume_table(store), snapshot_table(store), group_table(store))
        for entry in table.list()[0]
    ]


def test_everything_is_as_it_was(world: World, stores: tuple[Store, Store]) -> None:
    origin = world.create("origin", THIN, limits=IoLimits(read_iops=3), preferred=on("n3"))
    world.volumes.expand(origin.id, 2 * GIB, 0)
    world.volumes.modify(origin.id, lambda _: IoLimits(read_iops=9))
    cut = world.snapshots.create("cut", origin.id)
    world.create("copy", THIN, size=2 * GIB, source=Source(SourceKind.SNAPSHOT, cut.id))
    other = world.create("other", THICK, preferred=on("n1"))
    group, _ = world.groups.create("all", [origin.id, other.id])
    before = records(stores[0])
    recovery = rebuilt(world, stores)
    assert recovery == Recovery(3, 3, 1, recovery.differences)
    (note,) = recovery.differences  # for only the lost store knew that the cut was at one instant
    assert (note.kind, note.node, note.object_id) == ("unconfirmed", "n1, n3", group.id)
    after = [replace(group, name="all") if item.id == group.id else item for item in before]  # type: ignore[attr-defined]
    assert after == [
        replace(item, name="all") if getattr(item, "id", "") == group.id else item  # type: ignore[type-var]
        for item in records(stores[1])
    ]
    assert world.reconciler.run_once() == ()
    world.check_settled()
    assert world.create("origin", THIN, size=2 * GIB).id == origin.id
    assert world.groups.create("all", [other.id, origin.id])[0].id == group.id


def test_a_mounted_volume_is_not_given_to_another_node(
    world: World, stores: tuple[Store, Store]
) -> None:
    made = world.create(preferred=on("n1"))
    world.nodes.nodes["n1"].volumes[made.id].mounts = ("/var/lib/kubelet/x", "/staging")
    rebuilt(world, stores)
    assert world.volumes.get(made.id).published == (Publication("n1", False, ""),)
    with pytest.raises(Refused, match="published on n1"):
        world.volumes.delete(made.id)
    world.volumes.publish(made.id, "n1", True, "SINGLE_NODE_WRITER")


def test_all_nodes_must_answer_or_be_excused(world: World, stores: tuple[Store, Store]) -> None:
    made = world.create(requisite=on("n1"))
    world.create("other", requisite=on("n2"))
    world.nodes.nodes["n2"].down = True
    with pytest.raises(Unavailable, match="n2: n2 is down"):
        rebuilt(world, stores)
    assert records(stores[1]) == []
    assert rebuilt(world, stores, allow_missing=["n2"]).volumes == 1
    assert world.volumes.list()[0] == [made]


def test_a_store_with_records_is_left_alone(world: World, stores: tuple[Store, Store]) -> None:
    world.create()
    with pytest.raises(Refused, match="only an empty one"):
        recover(stores[0], world.nodes)


def test_an_agent_that_is_another_node(world: World, stores: tuple[Store, Store]) -> None:
    world.nodes.nodes["n1"].name = "n2"
    with pytest.raises(Refused, match="configured as n1 is that of n2"):
        rebuilt(world, stores)


def test_what_was_half_made_is_taken_up_or_removed(
    world: World, stores: tuple[Store, Store]
) -> None:
    origin = world.create("origin", THIN, preferred=on("n1"))
    source = Source(SourceKind.VOLUME, origin.id)
    world.nodes.nodes["n1"].copies = 5
    for name in ("one", "two"):
        with pytest.raises(Unavailable):
            world.create(name, THIN, source=source)
    rebuilt(world, stores)
    world.nodes.nodes["n1"].copies = 0
    one = world.create("one", THIN, source=source)
    assert one.phase is Phase.READY
    (removed,) = world.reconciler.run_once()
    assert (removed.kind, removed.mended) == ("half-made", True)
    assert sorted(world.nodes.volume_ids()) == sorted([origin.id, one.id])
    world.check_settled()


def copy_to(world: World, volume: Volume, node: str) -> FakeVolume:
    present = world.nodes.nodes[volume.nodes[0]].volumes[volume.id]
    copied = FakeVolume(present.record, present.size_bytes, present.taken)
    world.nodes.nodes[node].volumes[volume.id] = copied
    return copied


def test_of_two_copies_the_used_one_is_taken_and_the_other_reported(
    world: World, stores: tuple[Store, Store]
) -> None:
    made = world.create(preferred=on("n1"))
    copy_to(world, made, "n2").used = True
    (conflict,) = rebuilt(world, stores).differences
    assert (conflict.kind, conflict.node, conflict.object_id) == ("conflict", "n1", made.id)
    assert world.volumes.get(made.id).nodes == ("n2",)
    assert [found.kind for found in world.reconciler.run_once()] == ["orphan"]


def test_a_half_made_copy_is_a_leftover(world: World, stores: tuple[Store, Store]) -> None:
    made = world.create(preferred=on("n1"))
    copy_to(world, made, "n2").complete = False
    assert rebuilt(world, stores).differences == ()
    assert world.volumes.get(made.id).leftovers == ("n2",)
    world.reconciler.run_once()
    world.check_settled()


@pytest.mark.parametrize("used", [True, False])
def test_two_copies_that_nothing_tells_apart_are_left_to_a_person(
    world: World, stores: tuple[Store, Store], used: bool
) -> None:
    made = world.create(preferred=on("n1"))
    world.nodes.nodes["n1"].volumes[made.id].used = used
    copy_to(world, made, "n2").used = used
    recovery = rebuilt(world, stores)
    assert recovery.volumes == 0
    assert {(found.kind, found.node) for found in recovery.differences} == {
        ("conflict", "n1"),
        ("conflict", "n2"),
    }
    assert len(world.nodes.volume_ids()) == 2


def test_unreadable_tags_are_reported(world: World, stores: tuple[Store, Store]) -> None:
    made = world.create(preferred=on("n1"))
    cut = world.snapshots.create("cut", made.id)
    node = world.nodes.nodes["n1"]
    node.volumes[made.id].record = replace(made, id=new_id(Kind.VOLUME, "swapped"))
    node.snapshots[cut.id].record = replace(cut, id=new_id(Kind.SNAPSHOT, "swapped"))
    recovery = rebuilt(world, stores)
    assert {(found.kind, found.object_id) for found in recovery.differences} == {
        ("unreadable", made.id),
        ("unreadable", cut.id),
    }
    assert records(stores[1]) == []


def test_two_snapshots_of_one_name(world: World, stores: tuple[Store, Store]) -> None:
    made = world.create(preferred=on("n1"))
    cut = world.snapshots.create("cut", made.id)
    world.nodes.nodes["n2"].snapshots[cut.id] = world.nodes.nodes["n1"].snapshots[cut.id]
    (conflict,) = rebuilt(world, stores).differences
    assert (conflict.kind, conflict.node) == ("conflict", "n2")
    assert world.snapshots.get(cut.id).nodes == ("n1",)


def test_members_of_a_half_made_group_do_not_become_a_group(
    world: World, stores: tuple[Store, Store]
) -> None:
    volumes = [world.create(name, THIN, requisite=on(name)) for name in ("n1", "n2")]
    _, members = world.groups.create("all", [volume.id for volume in volumes])
    node = world.nodes.nodes[members[0].nodes[0]]
    node.snapshots[members[0].id].complete = False
    assert rebuilt(world, stores).groups == 0
    assert [found.kind for found in world.reconciler.run_once()] == ["half-made"]
    world.snapshots.delete(members[1].id)
