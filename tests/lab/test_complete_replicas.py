"""Replicas that begin complete: each serves alone, and two of them meet without a resync."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from cluster.membership import Held, Membership
from cluster.model import ReplicaPlace, Replication
from cluster.placement import metadata_bytes
from lab.node import MIB
from node_agent.arbiter import Assignment
from replication.actions import Do
from replication.fencing import Verdict
from replication.model import Resource
from replication.record import Connection, Disk, Role
from replication.status import ConnectionState, DiskState
from tests.lab.drbd_sides import DATA, DISKS, METADATA, SIZE, Side, take_down

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.node import Node
    from replication.record import View
    from replication.status import ResourceStatus

pytestmark = pytest.mark.lab

GENERATION = "11223344556677aa"


def up_to_date(status: ResourceStatus) -> bool:
    peers = [peer.disk for peer in status.peer_volumes()]
    return {status.disk, *peers} == {DiskState.UP_TO_DATE} and bool(peers)


def test_complete_replicas_meet_without_a_resync(make_module_node: Callable[..., Node]) -> None:
    nodes = [make_module_node(disks=DISKS, memory=320 * MIB) for _ in range(2)]
    one, two = sides = Side(nodes[0], 0), Side(nodes[1], 1)
    resource = Resource("complete", 1, 7001, "s" * 32, (one.replica, two.replica))
    for side in sides:
        side.do("prepare", DATA, SIZE)
        more = {"generation": GENERATION, "size_bytes": SIZE}
        assert side.do("create_metadata", resource, **more)
        assert not side.do("create_metadata", resource, **more)
        assert side.do("generations", resource).current == GENERATION
        side.do("attach", resource)
        assert side.do("generations", resource).current == GENERATION
        # Which of the two was last to have all, a disk alone cannot know.
        assert side.do("observe", "netlink")[resource.name].disk is DiskState.CONSISTENT
    for side, other in (sides, sides[::-1]):
        side.do("connect", resource, other.replica)
    for side in sides:
        status = side.until(resource.name, up_to_date)
        assert [peer.out_of_sync_bytes for peer in status.peer_volumes()] == [0]
        log = side.node.sh("dmesg | grep drbd1").text
        assert "Began resync" not in log
        assert "bits in bitmap" not in log
    take_down(two, resource)
    one.do("disconnect", resource, two.replica, force=True)
    one.do("grant", resource.name, 1, Verdict.PEER_FENCED)
    one.do("promote", resource)
    one.write(resource, "alone")
    assert one.read(resource) == "alone"
    seen = one.do("generations", resource)
    assert seen.current != GENERATION
    assert GENERATION in (seen.bitmap, *seen.history)
    assert dataclasses.replace(seen, was_primary=False) != seen
    take_down(one, resource)


@pytest.mark.parametrize("generation", [GENERATION, ""])
def test_a_replica_that_was_never_connected_takes_requests_as_large_as_its_disk(
    make_module_node: Callable[..., Node], generation: str
) -> None:
    side = Side(make_module_node(disks=DISKS, memory=320 * MIB), 0)
    resource = Resource("alone", 1, 7001, "s" * 32, (side.replica,))
    side.do("prepare", DATA, SIZE)
    side.do("create_metadata", resource, anew=True, generation=generation, size_bytes=SIZE)
    side.do("attach", resource)
    side.do("force_promote", resource)
    argv = ["dmsetup", "info", "-c", "--noheadings", "-o", "blkdevname", side.replica.disk]
    disk = side.node.run(argv).text.strip()
    limits = [f"/sys/block/{name}/queue/max_hw_sectors_kb" for name in ("drbd1", disk)]
    of_replica, of_disk = side.node.run(["cat", *limits]).text.split()
    assert of_replica == of_disk
    take_down(side, resource)


def test_each_action_of_membership_is_a_step_in_the_kernel(
    make_module_node: Callable[..., Node],
) -> None:
    nodes = [make_module_node(disks=DISKS, memory=320 * MIB) for _ in range(2)]
    one, two = sides = Side(nodes[0], 0), Side(nodes[1], 1)
    places = tuple(
        ReplicaPlace(side.node.name, number, side.node.address) for number, side in enumerate(sides)
    )
    record = Membership(tuple(n.name for n in nodes), tuple(n.name for n in nodes))
    assignment = Assignment(
        "acted", Held(record, 1), Replication(1, 7001, GENERATION, places), "s" * 32
    )
    resource = Resource("acted", 1, 7001, "s" * 32, (one.replica, two.replica))

    def act(side: Side, do: Do | None = None) -> View:
        seen: View = side.do("act", assignment, do)
        return seen

    for side in sides:
        side.do("prepare", DATA, SIZE)
        assert act(side).disk is Disk.ABSENT
        side.do("create_metadata", resource, generation=GENERATION, size_bytes=SIZE)
        attached = act(side, Do.ATTACH)
        assert (attached.disk, attached.connection) == (Disk.CONSISTENT, Connection.STANDALONE)
        assert attached.generations.current == GENERATION
    for side in sides:
        act(side, Do.CONNECT)
    for side in sides:
        side.until("acted", up_to_date)
        assert act(side).connection is Connection.CONNECTED
    assert act(one, Do.PROMOTE).role is Role.PRIMARY
    one.write(resource, "kept")
    two.node.kill()
    one.until("acted", lambda status: status.suspended)
    assert act(one).suspended
    act(one, Do.FORCE_DISCONNECT)
    one.until("acted", lambda status: status.connection().state is ConnectionState.STANDALONE)
    alone = act(one, Do.RESUME_IO)
    assert (alone.suspended, alone.connection) == (False, Connection.STANDALONE)
    assert one.read(resource) == "kept"
    assert act(one, Do.WRITE_GRANT).grant
    assert not act(one, Do.REMOVE_GRANT).grant
    assert act(one, Do.DEMOTE).role is Role.SECONDARY
    assert act(one, Do.INVALIDATE).disk is Disk.INCONSISTENT
    assert act(one, Do.TAKE_DOWN).disk is Disk.ABSENT
    one.do("remove_backing")


def test_metadata_of_the_least_size_serves_the_whole_disk(
    make_module_node: Callable[..., Node],
) -> None:
    side = Side(make_module_node(disks=DISKS, memory=320 * MIB), 0)
    side.do("prepare", DATA, SIZE)
    large = 40 << 30
    data = f"0 {large // 512} zero"
    sectors = metadata_bytes(large) // 512
    for spare, whole in ((0, True), (-1, False)):
        metadata = f"0 {sectors + spare} linear {METADATA} 0"
        for name, table in (("data", data), ("metadata", metadata)):
            side.node.sh(f"dmsetup create {name} --table '{table}' && dmsetup mknodes {name}")
        replica = dataclasses.replace(
            side.replica, disk="/dev/mapper/data", metadata_disk="/dev/mapper/metadata"
        )
        resource = Resource("least", 1, 7001, "s" * 32, (replica,))
        side.do("create_metadata", resource, anew=True)
        side.do("attach", resource)
        seen = side.do("observe", "netlink")["least"]
        assert (seen.volumes[0].size_bytes == large) is whole, seen
        side.do("down", "least")
        side.node.sh("dmsetup remove data && dmsetup remove metadata")
    side.do("remove_backing")
