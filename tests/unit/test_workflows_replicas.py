"""Volumes of two replicas: placed together or not at all, numbered, and published by the rules."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.differences import DifferenceKind
from cluster.errors import NoSpace, NotFound, Refused, Unavailable, Unsupported
from cluster.membership import Membership
from cluster.memberships import Memberships
from cluster.model import Phase, Volume, VolumeSpec
from cluster.recover import recover
from cluster.replicas import FIRST_MINOR, FIRST_PORT, SLOTS, Slots
from cluster.sqlite_store import SqliteStore
from cluster.store import RecordKind
from cluster.volumes import Volumes
from replication import arbiter_rules
from tests.unit.cluster_world import (
    THICK,
    THICK_PAIR,
    THIN,
    THIN_PAIR,
    World,
    fails,
    no_faults,
    on,
)
from tests.unit.fake_agent import GIB, MIB, FakeAgents, FakeNode, FakePool

EXTENT = 4 * MIB


def pair_world(tmp_path: Path, size: int = 10 * GIB, thick: int = 0) -> World:
    """Two nodes that take replicas, and n3 that takes none."""
    pool = FakePool((thick or size,), thin_limit=size)
    addresses = {"n1": "10.0.0.1", "n2": "10.0.0.2", "n3": ""}
    nodes = FakeAgents(
        *(
            FakeNode(name, {"default": replace(pool)}, replication_address=address)
            for name, address in addresses.items()
        )
    )
    return World(SqliteStore(tmp_path / "store.db"), nodes)


def membership(world: World, volume: Volume) -> Membership:
    held = Memberships(world.store).find(volume.id)
    assert held is not None
    return held.record


def change(world: World, volume: Volume, **changes: Any) -> None:
    memberships = Memberships(world.store)
    held = memberships.find(volume.id)
    assert held is not None
    memberships.write(volume.id, replace(held.record, **changes), held.revision)


def publish(world: World, volume: Volume, node: str) -> Volume:
    return world.volumes.publish(volume.id, node, False, "SINGLE_NODE_WRITER")


def test_nothing_is_published_while_a_node_has_seen_a_newer_record(tmp_path: Path) -> None:
    """Else the epochs of both would be the same before long, and nobody would notice."""
    world = pair_world(tmp_path)
    volume = world.create(spec=THIN_PAIR)
    volumes = Volumes(
        world.store,
        world.agents,
        world.pools,
        world.locks,
        arbiter_rules,
        lambda volume_id, held: "n2 has seen a newer record",
    )
    before = membership(world, volume)
    with pytest.raises(Unavailable, match="n2 has seen a newer record"):
        volumes.publish(volume.id, "n1", False, "SINGLE_NODE_WRITER")
    assert membership(world, volume) == before
    assert world.volumes.get(volume.id).published == ()


@pytest.mark.parametrize("spec", [THICK_PAIR, THIN_PAIR])
def test_a_pair_is_on_both_nodes_with_its_records(tmp_path: Path, spec: VolumeSpec) -> None:
    world = pair_world(tmp_path)
    volume = world.create(spec=spec)
    assert sorted(volume.nodes) == ["n1", "n2"]
    assert volume.replication is not None
    places = volume.replication.places
    assert [place.node for place in places] == list(volume.nodes)
    assert [place.node_id for place in places] == [0, 1]
    assert {place.node: place.address for place in places} == {
        "n1": "10.0.0.1",
        "n2": "10.0.0.2",
    }
    assert volume.replication.minor - FIRST_MINOR == volume.replication.port - FIRST_PORT
    generation = int(volume.replication.generation, 16)
    assert len(volume.replication.generation) == 16
    assert generation > 4
    assert generation % 2 == 0
    complete = ("n1", "n2") if spec is THIN_PAIR else (places[0].node,)
    assert membership(world, volume) == Membership(
        complete, ("n1", "n2"), generation=volume.replication.generation
    )
    assert len(world.volumes.topology(volume)) == 2
    assert world.create(spec=spec) == volume
    assert world.reconciler.run_once() == ()
    world.volumes.delete(volume.id)
    world.check_settled()
    assert Slots(world.store).list() == {}


def test_a_node_without_an_address_is_refused_by_that_reason(tmp_path: Path) -> None:
    world = pair_world(tmp_path)
    with pytest.raises(NoSpace, match="n3: it takes no replicas: no replication_address"):
        world.create(spec=THIN_PAIR, requisite=on("n1", "n3"))
    world.create("single", THIN, requisite=on("n3"))


@pytest.mark.parametrize("spec", [THICK_PAIR, THIN_PAIR])
def test_fifty_racing_pairs_on_room_for_ten(tmp_path: Path, spec: VolumeSpec) -> None:
    thin = spec is THIN_PAIR
    room = 10 * (GIB if thin else GIB + EXTENT)
    world = pair_world(tmp_path, room, thick=10 * EXTENT if thin else 0)
    for node in world.nodes.nodes.values():
        node.delay = 0.002
    started = threading.Barrier(50)

    def create(number: int) -> bool:
        started.wait()
        try:
            world.create(f"v{number}", spec)
        except NoSpace:
            return False
        return True

    with ThreadPoolExecutor(50) as threads:
        assert sum(threads.map(create, range(50))) == 10
    world.check_settled()


def test_thin_pairs_end_where_no_room_for_metadata_is_left(tmp_path: Path) -> None:
    world = pair_world(tmp_path, thick=2 * EXTENT)
    for number in range(2):
        world.create(f"v{number}", THIN_PAIR)
    with pytest.raises(NoSpace, match="no room for the metadata"):
        world.create("v2", THIN_PAIR)
    world.create("single", THIN)


def test_capacity_of_pairs_is_the_largest_that_creation_takes(tmp_path: Path) -> None:
    world = pair_world(tmp_path, 10 * GIB)
    world.create("single", THICK, size=2 * GIB, requisite=on("n1"))
    total, largest, _ = world.volumes.capacity(THICK_PAIR, None)
    assert total == largest == 8 * GIB - EXTENT
    with pytest.raises(NoSpace):
        world.create("more", THICK_PAIR, size=largest + 1)
    world.create("most", THICK_PAIR, size=largest)
    assert world.volumes.capacity(THICK_PAIR, None)[1] == 0
    assert world.volumes.capacity(THICK_PAIR, on("n3")[0])[1] == 0


def test_a_slot_that_is_taken_is_passed_over(tmp_path: Path) -> None:
    world = pair_world(tmp_path)
    slots = Slots(world.store, count=3)
    assert slots.claim(1, "a")
    assert slots.claim(1, "a")
    assert not slots.claim(1, "b")
    assert list(slots.candidates("b", 1)) == [2, 0]
    assert list(slots.candidates("a", 1)) == [1, 2, 0]
    slots.free(1, "b")
    assert slots.owner(1) == "a"
    slots.free(1, "a")
    assert slots.owner(1) == ""


def test_volumes_that_begin_their_search_at_one_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Slots, "first", lambda slots, volume_id: SLOTS - 1)
    world = pair_world(tmp_path)
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda n: world.create(f"v{n}", THIN_PAIR, size=MIB), range(8)))
    minors = sorted(volume.replication.minor for volume in made if volume.replication)
    assert minors == [FIRST_MINOR + number for number in (*range(7), SLOTS - 1)]
    world.check_settled()


def test_another_pair_begins_with_another_generation(tmp_path: Path) -> None:
    """n2 is lost after it has made its half: what it has must not count as the new replica's."""
    world = pair_world(tmp_path)
    world.nodes.nodes["n3"].replication_address = "10.0.0.3"
    world.nodes.set_fault(fails("create_volume", Unavailable("lost"), node="n2", when="after"))
    with pytest.raises(Unavailable):
        world.create(spec=THIN_PAIR, preferred=on("n1", "n2"))
    before = world.record()
    assert before is not None
    assert before.replication is not None
    world.nodes.nodes["n2"].down = True
    volume = world.create(spec=THIN_PAIR, preferred=on("n1", "n2"))
    assert sorted(volume.nodes) == ["n1", "n3"]
    assert volume.leftovers == ("n2",)
    assert volume.replication is not None
    assert volume.replication.generation != before.replication.generation
    assert volume.replication.minor == before.replication.minor
    assert membership(world, volume).generation == volume.replication.generation
    there = world.nodes.nodes["n1"].volumes[volume.id].record.replication
    assert there == volume.replication


def test_publish_and_unpublish_change_the_membership_record(tmp_path: Path) -> None:
    world = pair_world(tmp_path)
    volume = world.create(spec=THIN_PAIR)
    publish(world, volume, "n2")
    assert membership(world, volume).primary == "n2"
    with pytest.raises(Refused, match="published on n2"):
        publish(world, volume, "n1")
    world.volumes.unpublish(volume.id, "n1")
    assert membership(world, volume).primary == "n2"
    world.volumes.unpublish(volume.id, "n2")
    assert membership(world, volume).primary == ""
    assert publish(world, volume, "n1").published[0].node == "n1"
    assert membership(world, volume).primary == "n1"


def test_a_replica_outside_the_set_is_not_published(tmp_path: Path) -> None:
    world = pair_world(tmp_path)
    volume = world.create(spec=THICK_PAIR)
    with pytest.raises(Refused, match="is not in the set of complete replicas"):
        publish(world, volume, volume.nodes[1])
    assert world.volumes.get(volume.id).published == ()
    publish(world, volume, volume.nodes[0])


def test_a_publication_that_was_cut_off_is_taken_back(tmp_path: Path) -> None:
    """The membership record alone names the node: unpublish looks at it as well."""
    world = pair_world(tmp_path)
    volume = world.create(spec=THIN_PAIR)
    change(world, volume, primary="n1")
    with pytest.raises(Refused, match="published on n1"):
        publish(world, volume, "n2")
    world.volumes.unpublish(volume.id, "n1")
    publish(world, volume, "n2")


def test_a_record_that_changes_meanwhile_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = pair_world(tmp_path)
    volume = world.create(spec=THIN_PAIR)
    rule = arbiter_rules.publish
    asked: list[Membership] = []

    def meanwhile(record: Membership, node: str) -> arbiter_rules.Answer:
        asked.append(record)
        if len(asked) == 1:
            change(world, volume, members=("n2",), epoch=record.epoch + 1)
        return rule(record, node)

    monkeypatch.setattr(arbiter_rules, "publish", meanwhile)
    with pytest.raises(Refused, match="n1 is not in the set"):
        publish(world, volume, "n1")
    assert len(asked) == 2
    assert membership(world, volume).primary == ""


def test_a_pair_without_membership_record_is_reported_and_not_published(tmp_path: Path) -> None:
    world = pair_world(tmp_path)
    volume = world.create(spec=THIN_PAIR)
    Memberships(world.store).delete(volume.id)
    (found,) = world.reconciler.run_once()
    assert (found.kind, found.object_id) == (DifferenceKind.NO_MEMBERSHIP, volume.id)
    with pytest.raises(Refused, match="has no membership record"):
        publish(world, volume, "n1")


def test_a_replica_that_is_gone_is_reported(tmp_path: Path) -> None:
    world = pair_world(tmp_path)
    volume = world.create(spec=THIN_PAIR)
    del world.nodes.nodes["n2"].volumes[volume.id]
    (found,) = world.reconciler.run_once()
    assert (found.kind, found.node) == (DifferenceKind.MISSING, "n2")
    _, text = world.volumes.health(volume.id)
    assert "n2" in text


def test_what_a_volume_that_is_gone_has_left_in_the_store_is_removed(tmp_path: Path) -> None:
    world = pair_world(tmp_path)
    volume = world.create(spec=THIN_PAIR)
    for node in world.nodes.nodes.values():
        node.volumes.clear()
    record = next(iter(world.store.list(RecordKind.VOLUME)[0]))
    world.store.delete(RecordKind.VOLUME, record.key, record.revision)
    found = world.reconciler.run_once()
    assert [difference.kind for difference in found] == [DifferenceKind.OWNERLESS] * 2
    assert all(difference.object_id == volume.id and difference.mended for difference in found)
    world.check_settled()
    assert world.reconciler.run_once() == ()


def test_a_pair_grows_only_while_both_nodes_are_there(tmp_path: Path) -> None:
    world = pair_world(tmp_path)
    volume = world.create(spec=THIN_PAIR)
    world.nodes.nodes["n2"].down = True
    with pytest.raises(Unavailable, match="while all its replicas are there; that on n2 is not"):
        world.volumes.expand(volume.id, 2 * GIB, 0)
    assert world.nodes.nodes["n1"].volumes[volume.id].size_bytes == GIB
    world.nodes.nodes["n2"].down = False
    assert world.volumes.expand(volume.id, 2 * GIB, 0) == 2 * GIB


def test_the_nodes_are_told_of_a_size_once_all_replicas_have_it(tmp_path: Path) -> None:
    world = pair_world(tmp_path)
    volume = world.create(spec=THIN_PAIR)

    def told() -> set[int]:
        nodes = [world.nodes.nodes[name] for name in volume.nodes]
        return {node.volumes[volume.id].record.size_bytes for node in nodes}

    world.nodes.set_fault(fails("expand_volume", NoSpace("full"), node="n2"))
    with pytest.raises(NoSpace):
        world.volumes.expand(volume.id, 2 * GIB, 0)
    assert told() == {GIB}
    world.nodes.set_fault(fails("update_volume", Unavailable("lost"), node="n2"))
    with pytest.raises(Unavailable):
        world.volumes.expand(volume.id, 2 * GIB, 0)
    world.nodes.set_fault(no_faults)
    assert world.volumes.expand(volume.id, 2 * GIB, 0) == 2 * GIB
    assert told() == {2 * GIB}


def test_a_node_that_is_down_does_not_hold_up_a_deletion(tmp_path: Path) -> None:
    world = pair_world(tmp_path)
    volume = world.create(spec=THIN_PAIR)
    down, there = (world.nodes.nodes[node] for node in volume.nodes)
    down.down = True
    for _ in range(2):  # an answer may be lost
        world.volumes.delete(volume.id)
    with pytest.raises(NotFound):
        world.volumes.get(volume.id)
    assert not there.volumes
    left = world.record()
    assert left is not None
    assert (left.phase, left.nodes, left.leftovers) == (Phase.DELETING, (), (down.name,))
    with pytest.raises(Unavailable, match=down.name):  # neither its name nor its slot is free
        world.create(spec=THIN_PAIR)
    assert list(Slots(world.store).list().values()) == [volume.id]
    world.restart()
    world.reconciler.run_once()
    assert down.volumes
    down.down = False
    world.restart()
    world.reconciler.run_once()
    assert world.record() is None
    world.check_settled()


def test_a_deletion_waits_where_no_node_answers(tmp_path: Path) -> None:
    world = pair_world(tmp_path)
    volume = world.create(spec=THIN_PAIR)
    for node in volume.nodes:
        world.nodes.nodes[node].down = True
    with pytest.raises(Unavailable):
        world.volumes.delete(volume.id)
    for node in volume.nodes:
        world.nodes.nodes[node].down = False
    world.volumes.delete(volume.id)
    world.check_settled()


def test_a_node_that_left_the_configuration_has_nothing_left_to_delete(tmp_path: Path) -> None:
    world = pair_world(tmp_path)
    volume = world.create(spec=THIN_PAIR)
    down = world.nodes.nodes[volume.nodes[0]]
    down.down = True
    world.volumes.delete(volume.id)
    del world.nodes.nodes[down.name]
    world.restart()
    world.reconciler.run_once()
    assert world.record() is None
    world.check_settled()


def test_a_volume_in_use_on_one_node_is_not_ready_again_without_its_other_replica(
    tmp_path: Path,
) -> None:
    world = pair_world(tmp_path)
    volume = world.create(spec=THIN_PAIR)
    used = world.nodes.nodes[volume.nodes[0]].volumes[volume.id]
    used.mounts = ("/pod",)
    with pytest.raises(Refused, match="mounted"):
        world.volumes.delete(volume.id)
    left = world.record()
    assert left is not None
    assert (left.phase, left.leftovers) == (Phase.DELETING, volume.nodes[:1])
    used.mounts = ()
    world.volumes.delete(volume.id)
    world.check_settled()


def test_what_is_not_possible_yet_is_named(tmp_path: Path) -> None:
    world = pair_world(tmp_path)
    with pytest.raises(Unsupported, match="3 replicas: only 1 or 2"):
        world.create("three", replace(THIN, replicas=3))
    world.check_settled()


def test_a_pair_comes_back_from_the_tags_and_is_published_once_its_nodes_report(
    tmp_path: Path,
) -> None:
    world = pair_world(tmp_path)
    volume = world.create(spec=THIN_PAIR)
    noted = replace(membership(world, volume), members=("n2",), epoch=7)
    store = SqliteStore(tmp_path / "new.db")
    recovery = recover(store, world.nodes)
    assert [note.kind for note in recovery.differences] == [DifferenceKind.NO_MEMBERSHIP]
    again = World(store, world.nodes)
    assert again.record() == volume
    assert list(Slots(store).list().values()) == [volume.id]
    memberships = Memberships(store)
    for node, known in (("n1", replace(noted, members=("n1", "n2"), epoch=6)), ("n2", noted)):
        with pytest.raises(Refused, match="waiting for"):
            publish(again, volume, "n2")
        held = memberships.find(volume.id)
        assert held is not None
        answer = arbiter_rules.report(held, node, known)
        memberships.write(volume.id, answer.record, held.revision)
    with pytest.raises(Refused, match="n1 is not in the set"):
        publish(again, volume, "n1")
    publish(again, volume, "n2")


def test_a_rebuilt_pair_of_which_nothing_was_noted_has_no_member(tmp_path: Path) -> None:
    world = pair_world(tmp_path)
    volume = world.create(spec=THIN_PAIR)
    store = SqliteStore(tmp_path / "new.db")
    recover(store, world.nodes)
    memberships = Memberships(store)
    for node in volume.nodes:
        held = memberships.find(volume.id)
        assert held is not None
        memberships.write(volume.id, arbiter_rules.report(held, node, None).record, held.revision)
    with pytest.raises(Refused, match="not in the set of complete replicas"):
        publish(World(store, world.nodes), volume, "n1")
