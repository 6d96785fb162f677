"""A look at one volume alone tells what a look at all tells, and the generations, in any state.

`Side.status` compares them at every step, also with what drbdsetup prints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lab.node import MIB
from replication.status import ConnectionState, DiskState, ReplicationState, Role, Suspension
from tests.lab.drbd_sides import DISKS, Side, replicated, up_to_date

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.node import Node
    from replication.status import ResourceStatus

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def sides(make_module_node: Callable[..., Node]) -> tuple[Side, Side]:
    nodes = [make_module_node(disks=DISKS, memory=320 * MIB) for _ in range(2)]
    return Side(nodes[0], 0), Side(nodes[1], 1)


def connected(status: ResourceStatus) -> bool:
    peers = list(status.peer_volumes())
    return bool(peers) and peers[0].replication is ReplicationState.ESTABLISHED


def lost(status: ResourceStatus) -> bool:
    return status.connection().state is ConnectionState.CONNECTING


def test_a_volume_that_is_lost_found_and_resynced(sides: tuple[Side, Side]) -> None:
    one, two = sides
    with replicated(sides, equal=False) as resource:
        fresh = one.until(resource.name, connected)
        assert fresh.disk is DiskState.INCONSISTENT
        one.do("declare_equal", resource)
        one.until(resource.name, up_to_date)
        one.do("promote", resource)
        one.write(resource, "both")
        assert one.do("look", resource.name)[1].was_primary
        peer = two.until(resource.name, lambda s: s.connection().role is Role.PRIMARY)
        assert peer.role is Role.SECONDARY
        two.node.cut()
        frozen = one.until(resource.name, lambda s: lost(s) and s.frozen)
        assert frozen.suspended == {Suspension.FENCING}
        one.do("disconnect", resource, two.replica, force=True)
        assert one.status(resource.name).suspended == {Suspension.FENCING}
        one.do("resume_io", resource)
        one.write(resource, "alone")
        alone = one.status(resource.name)
        assert next(alone.peer_volumes()).bitmap_uuid
        assert alone.connection().state is ConnectionState.STANDALONE
        two.node.join()
        two.until(resource.name, lost)
        two.do("disconnect", resource, one.replica, force=True)
        two.do("outdate", resource)
        assert two.status(resource.name).disk is DiskState.OUTDATED
        # A resync that stands still can be looked at in more than one way.
        for side in sides:
            side.node.sh(f"drbdsetup pause-sync {resource.minor}")
        one.do("connect", resource, two.replica)
        two.do("connect", resource, one.replica)
        source = one.until(resource.name, lambda s: _syncs(s, ReplicationState.PAUSED_SYNC_S))
        target = two.until(resource.name, lambda s: _syncs(s, ReplicationState.PAUSED_SYNC_T))
        for status in (source, target):
            assert next(status.peer_volumes()).out_of_sync_bytes
            assert next(status.peer_volumes()).resync_total_bytes
        for side in sides:
            side.node.sh(f"drbdsetup resume-sync {resource.minor}")
        for side in sides:
            side.until(resource.name, up_to_date)


def test_a_volume_whose_disk_and_data_are_lost(sides: tuple[Side, Side]) -> None:
    one, two = sides
    with replicated(sides) as resource:
        one.until(resource.name, up_to_date)
        one.do("promote", resource)
        one.node.sh(
            f"drbdsetup resource-options {resource.name} --on-no-data-accessible=suspend-io"
        )
        before = one.do("look", resource.name)[1]
        one.do("detach", resource)
        diskless = one.until(resource.name, lambda s: s.disk is DiskState.DISKLESS)
        assert diskless.role is Role.PRIMARY
        # Its generations are in its metadata still.
        assert one.do("look", resource.name)[1] is None
        assert one.do("generations", resource).current == before.current
        two.until(resource.name, lambda s: next(s.peer_volumes()).disk is DiskState.DISKLESS)
        two.node.cut()
        without = one.until(resource.name, lambda s: lost(s) and s.frozen)
        assert Suspension.NO_DATA in without.suspended
        two.node.join()
        one.until(resource.name, connected)
        one.do("attach", resource)
        one.until(resource.name, up_to_date)


def test_a_volume_alone_and_held_back(sides: tuple[Side, Side]) -> None:
    one, _ = sides
    with replicated(sides) as resource:
        one.until(resource.name, up_to_date)
        one.node.sh(f"drbdsetup suspend-io {resource.minor}")
        assert one.status(resource.name).suspended == {Suspension.USER}
        one.do("resume_io", resource)
        assert not one.status(resource.name).frozen
        one.do("disconnect", resource, resource.replicas[1], force=True)
        one.do("detach", resource)
        detached = one.until(resource.name, lambda s: s.disk is DiskState.DISKLESS)
        assert detached.connection().state is ConnectionState.STANDALONE
        one.do("attach", resource)
        assert one.status(resource.name).disk in (DiskState.UP_TO_DATE, DiskState.CONSISTENT)


def test_each_name_is_answered_for_itself(sides: tuple[Side, Side]) -> None:
    one, _ = sides
    with replicated(sides) as resource:
        one.until(resource.name, up_to_date)
        # The name of one begins as that of the other; one has no device; one has two.
        begins, bare, double = resource.name[:-1], f"{resource.name}0", "double"
        one.node.sh(
            f"drbdsetup new-resource {begins}; drbdsetup new-minor {begins} 11 0;"
            f"drbdsetup new-resource {bare};"
            f"drbdsetup new-resource {double}; drbdsetup new-minor {double} 12 0;"
            f"drbdsetup new-minor {double} 13 1"
        )
        try:
            everything = one.do("observe", "netlink")
            assert len(everything[double].volumes) == 2
            assert everything[bare].volumes == ()
            assert everything[begins].volumes[0].minor == 11
            for name, status in everything.items():
                assert one.do("observe_one", "netlink", name)[0] == status
            for how in ("netlink", "drbdsetup"):
                assert one.do("observe_one", how, "nobody") == (None, None)
        finally:
            for name in (begins, bare, double):
                one.node.sh(f"drbdsetup down {name}")


def _syncs(status: ResourceStatus, state: ReplicationState) -> bool:
    return [peer.replication for peer in status.peer_volumes()] == [state]
