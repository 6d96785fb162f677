"""Replicas change while the volume is there: what the records, the nodes and the set become."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import (
    Busy,
    InvalidArgument,
    NoSpace,
    NotFound,
    Refused,
    Unavailable,
    Unsupported,
)
from cluster.identifiers import key_of_id
from cluster.membership import Boot, Held
from cluster.memberships import Memberships
from cluster.model import IoLimits, Layout, LayoutKind, Volume
from cluster.replicas import Slots
from replication.arbiter_rules import Answer
from replication.record import Disk
from tests.unit.changes_world import ChangingWorld, changing_world
from tests.unit.cluster_world import THICK, THIN, THIN_PAIR, fails, no_faults, on
from tests.unit.fake_agent import GIB, FakeNode


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ChangingWorld]:
    with changing_world(tmp_path) as world:
        yield world


def published(world: ChangingWorld, node: str) -> None:
    world.volumes.publish(world.now().id, node, False, "SINGLE_NODE_WRITER")


def served_by(world: ChangingWorld, node: str) -> None:
    """It was the last that was permitted to be primary, or has confirmed since."""

    def rule(held: Held, _: object) -> Answer:
        boots = tuple(Boot(member, "1") for member in held.record.members)
        record = replace(held.record, active=node, boots=boots, epoch=held.record.epoch + 1)
        return Answer(True, record, f"{node} has all")

    world.eyes.change(world.now().id, rule)


def pair(world: ChangingWorld) -> Volume:
    return world.create(spec=THIN_PAIR, preferred=on("n1", "n2"))


def test_one_becomes_two_and_the_one_in_use_stays_the_complete_one(world: ChangingWorld) -> None:
    single = world.create(spec=THIN, requisite=on("n1"))
    published(world, "n1")
    volume = world.changes.set_replicas(single.id, 2)
    assert volume.nodes[0] == "n1" and len(volume.nodes) == 2
    assert volume.spec.replicas == 2 and volume.replication is not None
    assert volume.replication.complete == ("n1",)
    record = world.membership()
    assert (record.members, record.primary, record.active) == (("n1",), "n1", "n1")
    assert set(record.replicas) == set(volume.nodes)
    world.check_settled()
    assert world.changes.set_replicas(single.id, 2) == volume
    world.eyes.fill(volume.id)
    assert len(world.membership().members) == 2
    assert world.reconciler.run_once() == ()
    assert len(world.volumes.topology(volume)) == 2


def test_limits_change_while_a_replica_is_still_to_be_made(world: ChangingWorld) -> None:
    """Whoever repeats the call that adds it has to get as far as that."""
    single = world.create(spec=THIN, requisite=on("n1"))
    world.nodes.set_fault(fails("create_volume", Unavailable("lost")))
    with pytest.raises(Unavailable):
        world.changes.set_replicas(single.id, 2)
    world.nodes.set_fault(no_faults)
    limits = IoLimits(read_iops=9)
    world.volumes.modify(single.id, lambda _: limits)
    volume = world.changes.set_replicas(single.id, 2)
    assert len(volume.nodes) == 2 and volume.limits == limits
    world.check_settled()
    gone = world.nodes.nodes[volume.nodes[0]].volumes
    gone.clear()
    with pytest.raises(NotFound):
        world.volumes.modify(single.id, lambda _: limits)


def test_two_become_one_where_it_is_used(world: ChangingWorld) -> None:
    volume = pair(world)
    published(world, "n2")
    after = world.changes.set_replicas(volume.id, 1)
    assert after.nodes == ("n2",) and after.replication is None and after.spec.replicas == 1
    assert Memberships(world.store).find(volume.id) is None
    assert Slots(world.store).list() == {}
    world.check_settled()
    assert world.changes.set_replicas(volume.id, 1) == after
    world.volumes.unpublish(volume.id, "n2")
    published(world, "n2")


def test_the_last_primarys_replica_is_kept_until_the_other_has_all_on_its_disk(
    world: ChangingWorld,
) -> None:
    """Of what that one flushed, the other may have lost what was in its disk's cache."""
    volume = pair(world)
    served_by(world, "n2")
    for _ in range(2):
        with pytest.raises(Unavailable, match="n1 has not written out"):
            world.changes.set_replicas(volume.id, 1)
        world.reconciler.run_once()
        assert world.membership().replicas == ("n1",)
        assert volume.id in world.nodes.nodes["n2"].volumes
    served_by(world, "n1")
    assert world.changes.set_replicas(volume.id, 1).nodes == ("n1",)
    assert volume.id not in world.nodes.nodes["n2"].volumes
    world.check_settled()


def test_what_was_noted_of_a_former_life_is_never_newer(world: ChangingWorld) -> None:
    """An agent that holds a newer record reports it, and then that one would count again."""
    volume = pair(world)
    published(world, "n1")
    for _ in range(3):
        noted = world.membership()
        world.changes.set_replicas(volume.id, 1)
        world.changes.set_replicas(volume.id, 2)
        assert world.membership().epoch > noted.epoch


def test_two_stay_two_while_the_one_that_would_remain_is_not_complete(
    world: ChangingWorld,
) -> None:
    volume = pair(world)
    published(world, "n1")
    world.eyes.sees["n1"] = {"disk": Disk.INCONSISTENT}
    with pytest.raises(Unavailable, match="the disk of n1 is Inconsistent"):
        world.changes.set_replicas(volume.id, 1)
    assert set(world.membership().replicas) == {"n1", "n2"}
    assert world.now().leftovers == ()
    world.reconciler.run_once()
    assert sorted(world.nodes.volume_ids()) == [volume.id] * 2
    back = world.changes.set_replicas(volume.id, 2)
    assert back.spec.replicas == 2
    world.check_settled()


@pytest.mark.parametrize("told", [True, False])
def test_what_a_dead_node_said_last_keeps_nothing(
    world: ChangingWorld, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """The other replica may be all that is left; ``told``: the silence has been noticed."""
    volume = pair(world)
    published(world, "n1")
    world.eyes.look()
    world.nodes.nodes["n1"].down = True
    if told:
        followed = type(world.eyes.arbiter.followed)
        monkeypatch.setattr(followed, "silent", lambda _: frozenset({"n1"}))
    with pytest.raises(Unavailable, match="n1, which would keep"):
        world.changes.set_replicas(volume.id, 1)
    with pytest.raises(Unavailable, match="n1, which would keep"):
        world.changes.mend(volume.id)
    assert set(world.membership().members) == {"n1", "n2"}
    assert volume.id in world.nodes.nodes["n2"].volumes
    world.volumes.unpublish(volume.id, "n1")
    if told:
        assert world.changes.set_replicas(volume.id, 1).nodes == ("n2",)
        assert world.now().leftovers == ("n1",)
    world.nodes.nodes["n1"].down = False
    world.reconciler.run_once()
    world.reconciler.run_once()


def test_a_replica_moves(world: ChangingWorld) -> None:
    volume = pair(world)
    published(world, "n1")
    with pytest.raises(Refused, match="in use on n1: move the workload"):
        world.changes.move_replica(volume.id, "n1")
    moved = world.changes.move_replica(volume.id, "n2")
    assert set(moved.nodes) == {"n1", "n3"}
    assert moved.replication is not None and volume.replication is not None
    assert moved.replication.complete == ("n1",)
    assert moved.replication.minor == volume.replication.minor
    ids = {place.node: place.node_id for place in moved.replication.places}
    was = {place.node: place.node_id for place in volume.replication.places}
    assert ids == {"n1": was["n1"], "n3": was["n2"]}
    assert world.membership().members == ("n1",)
    world.check_settled()
    assert world.changes.move_replica(volume.id, "n2") == moved
    world.eyes.fill(volume.id)
    with pytest.raises(InvalidArgument, match="has a replica on n1 already"):
        world.changes.move_replica(volume.id, "n3", "n1")
    assert set(world.changes.move_replica(volume.id, "n3", "n2").nodes) == {"n1", "n2"}


def test_nothing_is_given_up_where_there_is_no_room_for_another(world: ChangingWorld) -> None:
    volume = pair(world)
    world.nodes.nodes["n3"].replication_address = ""
    world.pools.refresh()
    world.restart()
    with pytest.raises(NoSpace, match="n3: it takes no replicas"):
        world.changes.move_replica(volume.id, "n2")
    assert set(world.membership().members) == {"n1", "n2"}
    world.check_settled()


def test_the_replica_of_a_node_that_is_gone_is_replaced_and_its_rest_removed_later(
    world: ChangingWorld,
) -> None:
    volume = pair(world)
    published(world, "n1")
    world.nodes.nodes["n2"].down = True
    moved = world.changes.move_replica(volume.id, "n2")
    assert set(moved.nodes) == {"n1", "n3"} and moved.leftovers == ("n2",)
    world.check()
    world.nodes.nodes["n2"].down = False
    world.reconciler.run_once()
    world.reconciler.run_once()
    world.check_settled()


def test_a_node_that_is_full_after_all_leaves_the_volume_as_it_was(world: ChangingWorld) -> None:
    single = world.create(spec=THICK, requisite=on("n1"))
    world.nodes.set_fault(fails("create_volume", NoSpace("full after all")))
    with pytest.raises(NoSpace, match="full after all"):
        world.changes.set_replicas(single.id, 2)
    world.nodes.set_fault(no_faults)
    assert world.now() == single
    world.check_settled()


def fill(node: FakeNode) -> None:
    node.pools_of["default"].thin_limit = 0


def take_address(node: FakeNode) -> None:
    node.replication_address = ""


@pytest.mark.parametrize(
    ("error", "change"), [(NoSpace("full"), fill), (Refused("no replicas"), take_address)]
)
def test_a_replica_that_cannot_be_made_there_after_all_is_made_elsewhere(
    world: ChangingWorld, error: Exception, change: Callable[[FakeNode], None]
) -> None:
    """Whatever is asked for next."""
    volume = pair(world)
    world.nodes.set_fault(fails("create_volume", error, node="n3"))
    with pytest.raises(type(error)):
        world.changes.move_replica(volume.id, "n2", "n3")
    assert world.now().nodes == ("n1", "n3")
    change(world.nodes.nodes["n3"])
    assert set(world.changes.mend(volume.id).nodes) == {"n1", "n2"}
    world.check_settled()


def test_one_that_cannot_be_made_does_not_keep_the_volume_from_having_one(
    world: ChangingWorld,
) -> None:
    volume = pair(world)
    world.nodes.set_fault(fails("create_volume", NoSpace("full"), node="n3"))
    with pytest.raises(NoSpace):
        world.changes.move_replica(volume.id, "n2", "n3")
    assert world.changes.set_replicas(volume.id, 1).nodes == ("n1",)
    world.check_settled()


def test_a_node_that_dies_over_the_making_is_left_for_another(world: ChangingWorld) -> None:
    single = world.create(spec=THIN, requisite=on("n1"))
    world.nodes.set_fault(fails("create_volume", Unavailable("lost"), when="after"))
    with pytest.raises(Unavailable):
        world.changes.set_replicas(single.id, 2)
    world.nodes.set_fault(no_faults)
    dead = world.now().nodes[1]
    world.nodes.nodes[dead].down = True
    volume = world.changes.set_replicas(single.id, 2)
    assert dead not in volume.nodes and volume.leftovers == (dead,)
    world.nodes.nodes[dead].down = False
    world.reconciler.run_once()
    world.reconciler.run_once()
    world.check_settled()


def test_what_cannot_be_done_is_refused_with_words(world: ChangingWorld) -> None:
    raid = replace(THICK, layout=Layout(LayoutKind.RAID1, 2))
    world.nodes.nodes["n1"].pools_of["default"].disks = (10 * GIB,) * 2
    striped = world.create("raid", raid, requisite=on("n1"))
    with pytest.raises(Unsupported, match="layout raid1"):
        world.changes.set_replicas(striped.id, 2)
    with pytest.raises(InvalidArgument, match="3 replicas"):
        world.changes.set_replicas(striped.id, 3)
    with pytest.raises(Refused, match="has one replica, which cannot be moved"):
        world.changes.move_replica(striped.id, "n1")
    with world.locks.hold(key_of_id(striped.id), purpose="a test"), pytest.raises(Busy):
        world.changes.set_replicas(striped.id, 1)
    world.check_settled()


def test_the_replica_of_a_silent_node_is_replaced_by_itself(
    world: ChangingWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = pair(world)
    published(world, "n1")
    world.eyes.look()
    world.repair.look()
    assert set(world.now().nodes) == {"n1", "n2"}
    world.nodes.nodes["n2"].down = True
    monkeypatch.setattr(
        type(world.eyes.arbiter.followed), "silent", lambda _: frozenset({"n2", "n3"})
    )
    for _ in range(2):
        world.eyes.look()
        world.repair.look()
    assert "standing down" in world.repair.reason(volume.id)
    monkeypatch.setattr(type(world.eyes.arbiter.followed), "silent", lambda _: frozenset({"n2"}))
    for _ in range(2):
        world.eyes.look()
        world.repair.look()
    assert set(world.now().nodes) == {"n1", "n3"}
    assert world.repair.reason(volume.id) == ""
