"""The workflows of snapshots, alone and in groups cut at one instant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import (
    AlreadyExists,
    Busy,
    InvalidArgument,
    NoSpace,
    NotFound,
    Refused,
    Unavailable,
)
from cluster.identifiers import Kind, key_of_name, new_id
from cluster.model import Phase, Snapshot, Volume
from cluster.records import group_table, snapshot_table
from cluster.sqlite_store import SqliteStore
from tests.unit.cluster_world import THICK, THIN, World, on, three_nodes
from tests.unit.fake_agent import GIB, MIB


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    store = SqliteStore(tmp_path / "store.db")
    world = World(store, three_nodes())
    yield world
    world.check()
    store.close()


def calls_since(world: World) -> list[str]:
    """What the nodes were asked since the last time, as "node call"."""
    made = [f"{name} {call}" for name, node in world.nodes.nodes.items() for call in node.calls]
    for node in world.nodes.nodes.values():
        node.calls.clear()
    return made


def fail_on(world: World, call: str, error: Exception | None, *, when: str = "before") -> None:
    def fault(node: str, on_call: str, moment: str) -> None:
        if error is not None and (on_call, moment) == (call, when):
            raise error

    world.nodes.set_fault(fault)


# One volume


def test_a_snapshot_is_cut_once(world: World) -> None:
    origin = world.create(spec=THIN, size=GIB)
    first = world.snapshots.create("cut", origin.id)
    assert (first.phase, first.size_bytes, first.nodes) == (Phase.READY, GIB, origin.nodes)
    assert first.spec == origin.spec
    assert first.created_at >= origin.created_at
    assert world.snapshots.create("cut", origin.id) == first
    assert world.snapshots.get(first.id) == first
    world.check_settled()


def test_the_same_name_for_another_volume_is_an_error(world: World) -> None:
    origin, other = world.create(spec=THIN), world.create("other", THIN)
    world.snapshots.create("cut", origin.id)
    with pytest.raises(AlreadyExists, match=origin.id):
        world.snapshots.create("cut", other.id)


def test_a_snapshot_of_what_is_not_there(world: World) -> None:
    for missing in (new_id(Kind.VOLUME, "x"), "foreign"):
        with pytest.raises(NotFound):
            world.snapshots.create("cut", missing)
    with pytest.raises(InvalidArgument):
        world.snapshots.create("cut", "")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_answer_is_made_up_for_by_the_same_call(world: World, when: str) -> None:
    origin = world.create(spec=THIN)
    fail_on(world, "create_snapshots", Unavailable("lost"), when=when)
    with pytest.raises(Unavailable):
        world.snapshots.create("cut", origin.id)
    assert world.snapshots.list() == ([], "")
    fail_on(world, "", None)
    made = world.snapshots.create("cut", origin.id)
    assert world.nodes.snapshot_ids() == [made.id]
    node = world.nodes.nodes[made.nodes[0]]
    assert made.created_at == node.snapshots[made.id].record.created_at  # that of the cut
    world.check_settled()


def test_a_snapshot_without_room_leaves_nothing(world: World) -> None:
    origin = world.create(spec=THICK, size=6 * GIB)
    with pytest.raises(NoSpace):
        world.snapshots.create("cut", origin.id)
    assert snapshot_table(world.store).list()[0] == []
    world.check_settled()


def test_a_snapshot_is_deleted_once_and_again(world: World) -> None:
    origin = world.create(spec=THIN)
    made = world.snapshots.create("cut", origin.id)
    for _ in range(2):
        world.snapshots.delete(made.id)
    world.snapshots.delete("foreign")
    with pytest.raises(NotFound):
        world.snapshots.get(made.id)
    assert world.nodes.snapshot_ids() == []


def test_a_snapshot_in_use_is_not_changed(world: World) -> None:
    origin = world.create(spec=THIN)
    made = world.snapshots.create("cut", origin.id)
    fail_on(world, "delete_snapshots", Refused("it is being copied"))
    with pytest.raises(Refused):
        world.snapshots.delete(made.id)
    assert world.snapshots.get(made.id) == made


def test_a_deletion_that_does_not_reach_the_node_is_not_forgotten(world: World) -> None:
    origin = world.create(spec=THIN)
    made = world.snapshots.create("cut", origin.id)
    fail_on(world, "delete_snapshots", Unavailable("lost"))
    with pytest.raises(Unavailable):
        world.snapshots.delete(made.id)
    with pytest.raises(NotFound):
        world.snapshots.get(made.id)
    fail_on(world, "", None)
    assert [(found.kind, found.mended) for found in world.reconciler.run_once()] == [
        ("deleting", True)
    ]
    world.check_settled()


def test_lists_of_snapshots(world: World) -> None:
    volumes = [world.create(f"v{number}", THIN, size=MIB) for number in range(2)]
    cuts = [world.snapshots.create(f"s{number}", volumes[number % 2].id) for number in range(6)]
    assert ids(world.snapshots.list()[0]) == sorted(cut.id for cut in cuts)
    page, token = world.snapshots.list(limit=4)
    assert ids(page + world.snapshots.list(after=token)[0]) == sorted(cut.id for cut in cuts)
    of_one = sorted(cut.id for cut in cuts[::2])
    assert ids(world.snapshots.list(volume_id=volumes[0].id)[0]) == of_one
    page, token = world.snapshots.list(volume_id=volumes[0].id, limit=3)
    assert (ids(page), token) == (of_one, "")
    assert world.snapshots.list(snapshot_id=cuts[1].id) == ([cuts[1]], "")
    assert world.snapshots.list(snapshot_id=cuts[1].id, volume_id=volumes[0].id) == ([], "")
    assert world.snapshots.list(snapshot_id="foreign") == ([], "")
    assert world.snapshots.list(volume_id="foreign") == ([], "")


def ids(snapshots: list[Snapshot]) -> list[str]:
    return [snapshot.id for snapshot in snapshots]


# Groups


def spread(world: World, *nodes: str) -> list[Volume]:
    """A thin volume on each of the nodes."""
    return [
        world.create(f"v{number}", THIN, size=64 * MIB, requisite=on(node))
        for number, node in enumerate(nodes)
    ]


def test_volumes_of_one_node_are_cut_in_one_call(world: World) -> None:
    volumes = spread(world, "n1", "n1", "n1")
    calls_since(world)
    group, members = world.groups.create("all", [volume.id for volume in volumes])
    assert calls_since(world) == ["n1 create_snapshots"]
    assert {member.volume_id for member in members} == {volume.id for volume in volumes}
    assert {member.group_id for member in members} == {group.id}
    assert all(member.phase is Phase.READY for member in members)
    again = world.groups.create("all", [volume.id for volume in reversed(volumes)])
    assert again == (group, members)
    assert world.groups.get(group.id, [member.id for member in members]) == (group, members)
    world.check_settled()


def test_volumes_of_several_nodes_are_all_held_still_before_the_first_is_cut(
    world: World,
) -> None:
    volumes = spread(world, "n1", "n2", "n2", "n3")
    order: list[str] = []
    world.nodes.set_fault(lambda node, call, when: order.append(call) if when == "after" else None)
    world.groups.create("all", [volume.id for volume in volumes])
    assert order == ["suspend_volumes"] * 3 + ["create_snapshots"] * 3 + ["resume_volumes"] * 3
    assert not any(node.suspensions for node in world.nodes.nodes.values())
    world.check_settled()


def test_cuts_do_not_count_when_one_node_let_go_too_early(world: World) -> None:
    volumes = spread(world, "n1", "n2")

    def deadline_passes(node: str, call: str, when: str) -> None:
        if (node, call, when) == ("n2", "create_snapshots", "after"):
            world.nodes.nodes["n2"].suspensions.clear()

    world.nodes.set_fault(deadline_passes)
    with pytest.raises(Unavailable, match="not held still to the end on n2"):
        world.groups.create("all", [volume.id for volume in volumes])
    assert world.nodes.snapshot_ids() == []
    assert world.snapshots.list() == ([], "")
    world.check_settled()


@pytest.mark.parametrize("call", ["suspend_volumes", "create_snapshots", "resume_volumes"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_node_that_fails_in_between_leaves_no_half_group(
    world: World, call: str, when: str
) -> None:
    volumes = spread(world, "n1", "n2")

    def fault(node: str, on_call: str, moment: str) -> None:
        if (node, on_call, moment) == ("n2", call, when):
            raise Unavailable("lost")

    world.nodes.set_fault(fault)
    with pytest.raises(Unavailable):
        world.groups.create("all", [volume.id for volume in volumes])
    assert world.nodes.snapshot_ids() == []
    assert not world.nodes.nodes["n1"].suspensions
    world.nodes.set_fault(lambda node, call, when: None)
    world.groups.create("all", [volume.id for volume in volumes])
    assert len(world.nodes.snapshot_ids()) == 2
    world.check_settled()


def test_a_group_that_was_cut_off_is_cut_anew(world: World) -> None:
    """The first cuts are of another instant than the ones that are still missing."""
    volumes = spread(world, "n1", "n2")
    wanted = [volume.id for volume in volumes]

    def node_dies(node: str, call: str, when: str) -> None:
        if node == "n2" and call in ("create_snapshots", "delete_snapshots"):
            raise Unavailable("lost")

    world.nodes.set_fault(node_dies)
    with pytest.raises(Unavailable):
        world.groups.create("all", wanted)
    (half_made,) = group_table(world.store).list()[0]
    assert half_made.item.phase is Phase.CREATING
    with pytest.raises(NotFound):
        world.groups.get(half_made.item.id, [])
    with pytest.raises(AlreadyExists):
        world.groups.create("all", wanted[:1])
    world.nodes.set_fault(lambda node, call, when: None)
    group, members = world.groups.create("all", wanted)
    assert group.id != half_made.item.id
    assert sorted(world.nodes.snapshot_ids()) == sorted(member.id for member in members)
    world.check_settled()


def test_the_same_group_name_for_other_volumes_is_an_error(world: World) -> None:
    volumes = spread(world, "n1", "n2")
    world.groups.create("all", [volumes[0].id])
    with pytest.raises(AlreadyExists):
        world.groups.create("all", [volume.id for volume in volumes])


def test_groups_of_what_cannot_be(world: World) -> None:
    (volume,) = spread(world, "n1")
    with pytest.raises(InvalidArgument, match="missing"):
        world.groups.create("all", [])
    with pytest.raises(InvalidArgument, match="twice"):
        world.groups.create("all", [volume.id, volume.id])
    with pytest.raises(NotFound):
        world.groups.create("all", [volume.id, new_id(Kind.VOLUME, "x")])
    assert group_table(world.store).list()[0] == []


def test_members_go_with_their_group_only(world: World) -> None:
    volumes = spread(world, "n1", "n2")
    group, members = world.groups.create("all", [volume.id for volume in volumes])
    with pytest.raises(InvalidArgument, match=f"part of group {group.id}"):
        world.snapshots.delete(members[0].id)
    with pytest.raises(InvalidArgument, match="not those of group"):
        world.groups.delete(group.id, [members[0].id])
    with pytest.raises(InvalidArgument):
        world.groups.get(group.id, [members[0].id])
    for _ in range(2):
        world.groups.delete(group.id, [member.id for member in members])
    assert world.nodes.snapshot_ids() == []
    with pytest.raises(NotFound):
        world.groups.get(group.id, [])
    world.groups.delete("foreign", [])
    world.check_settled()


def test_a_group_that_is_half_deleted_is_finished(world: World) -> None:
    volumes = spread(world, "n1", "n2")
    group, members = world.groups.create("all", [volume.id for volume in volumes])
    world.nodes.nodes["n2"].down = True
    with pytest.raises(Unavailable):
        world.groups.delete(group.id, [])
    world.nodes.nodes["n2"].down = False
    world.restart()
    world.reconciler.run_once()
    world.check_settled()
    assert members
    assert world.nodes.snapshot_ids() == []


def test_without_room_for_all_none_is_cut(world: World) -> None:
    volumes = [
        world.create(f"v{number}", replace(THIN), size=6 * GIB, requisite=on(node))
        for number, node in enumerate(("n1", "n2"))
    ]
    with pytest.raises(NoSpace):
        world.groups.create("all", [volume.id for volume in volumes])
    assert world.nodes.snapshot_ids() == []
    world.check_settled()


def test_who_comes_second_is_told_to_come_back(world: World) -> None:
    (volume,) = spread(world, "n1")
    with world.locks.hold(key_of_name(Kind.GROUP, "all"), purpose="creation"), pytest.raises(Busy):
        world.groups.create("all", [volume.id])
