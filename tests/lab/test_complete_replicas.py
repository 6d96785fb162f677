"""Replicas that begin complete: each serves alone, and two of them meet without a resync."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from lab.node import MIB
from replication.fencing import Verdict
from replication.model import Resource
from replication.status import DiskState
from tests.lab.drbd_sides import DATA, DISKS, SIZE, Side, take_down

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.node import Node
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
