"""One volume's status from what DRBD 8.4.11 answers, captured on a primary in several states.

Serving, frozen after the loss of its peer, alone after a disconnect by force and a thaw, in a
resync that stands still, and with its disk detached. tests/lab/test_one_volume.py compares with the
kernel.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from replication import netlink, old_status
from replication.netlink import Message
from replication.record import Generations
from replication.status import (
    ConnectionState,
    DiskState,
    ReplicationState,
    ResourceStatus,
    Role,
    Suspension,
)

CAPTURED = Path(__file__).parent / "captured" / "drbd-8.4.11-status.hex"
MIB = 1 << 20


def message(state: str) -> Message:
    lines = (line.split() for line in CAPTURED.read_text().splitlines())
    found = {name: (int(minor), bytes.fromhex(words)) for name, minor, words in lines}
    minor, data = found[state]
    return Message(old_status.GET_STATUS, 0, minor, 101, netlink.unpack(data))


def told(state: str) -> tuple[ResourceStatus, Generations | None]:
    return old_status.from_message(message(state))


def test_a_volume_that_serves() -> None:
    status, generations = told("serving")

    assert (status.role, status.disk, status.frozen) == (Role.PRIMARY, DiskState.UP_TO_DATE, False)
    assert (status.volumes[0].minor, status.volumes[0].size_bytes) == (1, 64 * MIB)
    connection = status.connection()
    assert connection.state is ConnectionState.CONNECTED
    assert connection.role is Role.SECONDARY
    assert connection.peer_address is not None
    assert connection.peer_address.endswith(":7001")
    (peer,) = connection.volumes
    assert (peer.replication, peer.disk) == (ReplicationState.ESTABLISHED, DiskState.UP_TO_DATE)
    assert (peer.out_of_sync_bytes, peer.resync_total_bytes) == (0, None)
    assert generations is not None
    assert generations.was_primary
    assert generations.bitmap == ""
    assert int(generations.current, 16) == status.volumes[0].current_uuid


def test_a_volume_that_lost_its_peer_is_frozen_and_then_alone() -> None:
    frozen, before = told("frozen")
    alone, after = told("alone")

    assert frozen.suspended == {Suspension.FENCING}
    assert frozen.connection().state is ConnectionState.CONNECTING
    assert next(frozen.peer_volumes()).disk is DiskState.DUNKNOWN
    assert not alone.frozen
    assert alone.connection().state is ConnectionState.STANDALONE
    assert before is not None
    assert after is not None
    # What was written alone has a generation of its own, and remembers which one the peer has.
    assert after.current != before.current
    assert after.bitmap == before.current
    assert next(alone.peer_volumes()).out_of_sync_bytes


def test_a_resync_says_how_far_it_is() -> None:
    status, _ = told("resync")

    (peer,) = status.peer_volumes()
    assert peer.replication is ReplicationState.PAUSED_SYNC_S
    assert peer.resync_total_bytes == 4096
    assert peer.out_of_sync_bytes == 4096
    assert old_status.resync_totals([message("serving"), message("resync")]) == {1: 4096}


def test_without_a_disk_the_kernel_knows_no_generations() -> None:
    status, generations = told("diskless")

    assert (status.role, status.disk) == (Role.PRIMARY, DiskState.DISKLESS)
    assert (status.volumes[0].size_bytes, status.volumes[0].current_uuid) == (None, None)
    assert status.connection().state is ConnectionState.CONNECTED
    assert generations is None


def test_states_of_a_newer_module_are_unknown_and_warn(caplog: pytest.LogCaptureFixture) -> None:
    known = message("serving")
    info = dict(netlink.unpack(known.attributes[8]))
    info[2] = netlink.pack_u32((1 << 17) - 1)
    nest = b"".join(netlink.attribute(number, data) for number, data in info.items())

    with caplog.at_level(logging.WARNING):
        status, _ = old_status.from_message(Message(2, 0, 1, 101, {**known.attributes, 8: nest}))

    assert status.role is Role.UNKNOWN
    assert status.disk is DiskState.UNKNOWN
    assert next(status.peer_volumes()).replication is ReplicationState.UNKNOWN
    assert "unknown" in caplog.text
