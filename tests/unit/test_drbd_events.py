"""Messages and lines of a real DRBD 8.4.11: one story, recorded in both ways at once.

Created, declared equal, promoted, the peer cut off, disconnected by force, resumed, connected again
and resynced, the peer gone and back, demoted, detached, taken down.
"""

from __future__ import annotations

import logging
import struct
from itertools import groupby
from pathlib import Path

import pytest

from replication import events, netlink
from replication.netlink import EventsLost, Message
from replication.status import (
    ConnectionState,
    DiskState,
    ReplicationState,
    ResourceStatus,
    Role,
    Suspension,
)
from replication.updates import (
    Change,
    ConnectionUpdate,
    HelperUpdate,
    PeerVolumeUpdate,
    ResourceUpdate,
    SnapshotEnd,
    Table,
    Update,
    VolumeUpdate,
)

CAPTURED = Path(__file__).parent / "captured"


def recorded_messages() -> list[Message]:
    lines = (CAPTURED / "drbd-8.4.11-messages.hex").read_text().split()
    return [one for line in lines for one in netlink.unpack_datagram(bytes.fromhex(line))]


def from_messages() -> list[Update]:
    updates = (events.from_message(message, 1) for message in recorded_messages())
    return [update for update in updates if update is not None]


def from_lines() -> list[Update]:
    lines = (CAPTURED / "drbd-8.4.11-events2.txt").read_text().splitlines()
    updates = [events.from_line(line) for line in lines]
    return [update for update in updates if update is not None and update != SnapshotEnd()]


def states(status: ResourceStatus) -> tuple[object, ...]:
    connection = status.connection()
    disks = tuple((volume.disk, volume.size_bytes) for volume in status.volumes)
    peers = tuple((peer.replication, peer.disk) for peer in connection.volumes)
    return status.role, status.suspended, disks, connection.state, connection.role, peers


def story(updates: list[Update]) -> list[object]:
    table, told = Table(), []
    for update in updates:
        table.apply(update)
        told.append([states(status) for status in table.resources().values()])
    return [state for state, _ in groupby(told)]


def test_messages_and_lines_tell_the_same_story() -> None:
    told = story(from_messages())
    assert told == story(from_lines())
    assert len(told) > 30
    assert told[-1] == []


def test_a_peer_lost_and_found_again() -> None:
    updates = from_messages()
    changes = [update for update in updates if isinstance(update, ResourceUpdate)]
    frozen = [update.suspended == {Suspension.FENCING} for update in changes]
    assert [now for now, _ in groupby(frozen)] == [False, True, False]
    helpers = [update for update in updates if isinstance(update, HelperUpdate)]
    assert helpers[:2] == [
        HelperUpdate(Change.CALL, helpers[0].resource, "fence-peer"),
        HelperUpdate(Change.RESPONSE, helpers[0].resource, "fence-peer", 1),
    ]
    seen = [update.state for update in updates if isinstance(update, ConnectionUpdate)]
    assert ConnectionState.NETWORK_FAILURE in seen
    peers = [update for update in updates if isinstance(update, PeerVolumeUpdate)]
    source = [one for one in peers if one.replication is ReplicationState.SYNC_SOURCE]
    assert source[0].out_of_sync_bytes == 4096
    assert source[0].disk is DiskState.INCONSISTENT
    volumes = [update for update in updates if isinstance(update, VolumeUpdate)]
    assert {one.size_bytes for one in volumes[1:] if one.change is Change.CHANGE} == {64 << 20}
    addresses = {one.peer_address for one in updates if isinstance(one, ConnectionUpdate)}
    assert "10.77.0.2:7001" in addresses


def test_a_change_that_nobody_told_of_before_is_a_gap() -> None:
    update = ResourceUpdate(Change.CHANGE, "v1", Role.PRIMARY)
    with pytest.raises(EventsLost):
        Table().apply(update)
    table = Table()
    table.apply(ResourceUpdate(Change.DESTROY, "v1"))
    assert table.resources() == {}


def test_progress_of_a_resync_is_no_change_of_state_but_its_end_is() -> None:
    table = Table()
    table.apply(ResourceUpdate(Change.EXISTS, "v1", Role.PRIMARY))
    table.apply(ConnectionUpdate(Change.EXISTS, "v1", 0, ConnectionState.CONNECTED))

    def told(state: ReplicationState, left: int, change: Change = Change.CHANGE) -> str | None:
        return table.apply(PeerVolumeUpdate(change, "v1", 0, 0, state, None, left, 8192))

    assert told(ReplicationState.SYNC_SOURCE, 8192, Change.EXISTS) == "v1"
    assert told(ReplicationState.SYNC_SOURCE, 4096) is None
    assert table.resources()["v1"].connection().volumes[0].out_of_sync_bytes == 4096
    assert told(ReplicationState.SYNC_SOURCE, 0) == "v1"
    assert told(ReplicationState.ESTABLISHED, 0) == "v1"
    assert table.apply(PeerVolumeUpdate(Change.DESTROY, "v1", 0, 0)) == "v1"


def test_unknown_words_and_numbers_become_unknown_and_warn(
    caplog: pytest.LogCaptureFixture,
) -> None:
    line = "exists device name:v1 volume:0 minor:1 disk:Levitating size:4"
    with caplog.at_level(logging.WARNING):
        update = events.from_line(line)
    assert isinstance(update, VolumeUpdate)
    assert update.disk is DiskState.UNKNOWN
    assert "Levitating" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        update = events.from_message(device_message(disk=14), 1)
    assert isinstance(update, VolumeUpdate)
    assert update.disk is DiskState.UNKNOWN
    assert "14" in caplog.text


@pytest.mark.parametrize(
    ("version", "number", "state"),
    [
        (1, 8, DiskState.UP_TO_DATE),
        (2, 9, DiskState.UP_TO_DATE),
        (2, 2, DiskState.DETACHING),
        (1, 2, DiskState.FAILED),
    ],
)
def test_disk_states_are_numbered_by_dialect(version: int, number: int, state: DiskState) -> None:
    update = events.from_message(device_message(disk=number), version)
    assert isinstance(update, VolumeUpdate)
    assert update.disk is state


def test_an_unknown_kind_of_change_is_a_gap() -> None:
    with pytest.raises(EventsLost):
        events.from_message(device_message(disk=8, kind=9), 1)
    with pytest.raises(EventsLost):
        events.from_line("rename resource name:v1 new_name:v2")


@pytest.mark.parametrize("line", ["", "exists path name:v1 local:ipv4:x", "something"])
def test_lines_of_no_use_are_passed_over(line: str) -> None:
    assert events.from_line(line) is None


def test_a_line_of_drbd_9() -> None:
    line = (
        "change resource name:v1 may_promote:no promotion_score:1 role:Secondary"
        " suspended:fencing,quorum"
    )
    reasons = frozenset({Suspension.FENCING, Suspension.QUORUM})
    assert events.from_line(line) == ResourceUpdate(Change.CHANGE, "v1", Role.SECONDARY, reasons)


def test_a_datagram_cut_off_anywhere_is_no_error() -> None:
    first = (CAPTURED / "drbd-8.4.11-messages.hex").read_text().split()[0]
    body = bytes.fromhex(first)[24:]
    for length in range(len(body)):
        netlink.unpack(body[:length])


def device_message(disk: int, kind: int = 2) -> Message:
    number = struct.Struct("=I").pack
    context = netlink.attribute(1, number(0)) + netlink.attribute(2, b"v1\0")
    return Message(
        command=35,
        sequence=1,
        minor=1,
        result=101,
        attributes={
            2: context,
            16: netlink.attribute(1, number(disk)),
            20: b"",
            23: netlink.attribute(1, number(kind)),
        },
    )
