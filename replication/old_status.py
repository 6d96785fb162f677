"""One volume's status and generations from a single message: what only DRBD 8.4 has.

Its answer to DRBD_ADM_GET_STATUS (linux/drbd_genl.h, ``state_info``) has in one number, read at one
moment, what newer messages tell of a resource, its device, connection and peer device.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from replication import addresses, netlink, numbering
from replication.generations import generations_in
from replication.netlink import Message
from replication.record import Generations
from replication.status import (
    ConnectionStatus,
    DiskState,
    PeerVolumeStatus,
    ReplicationState,
    ResourceStatus,
    Suspension,
    VolumeStatus,
)

GET_STATUS = 2
NO_MINOR = 0xFFFFFFFF
"""That of the message about a resource which has no device."""

_CONTEXT, _STATE_INFO = 2, 8
_VOLUME, _RESOURCE_NAME, _PEER_ADDRESS = 1, 2, 4
_STATE, _CAPACITY, _UUIDS, _DISK_FLAGS = 2, 3, 7, 8
_BITS_OUT_OF_SYNC, _BITS_RESYNC_TOTAL = 10, 11
_BYTES_PER_BIT = 4096
_SECTOR = 512
_FOUR_UUIDS = struct.Struct("=4Q")
_VERSION = 1  # of the netlink family
_KNOWS_NO_GENERATIONS = (DiskState.DISKLESS, DiskState.ATTACHING, DiskState.FAILED)


@dataclass(frozen=True)
class _State:
    """``union drbd_state`` of linux/drbd.h, as numbers."""

    role: int
    peer_role: int
    connection: int
    disk: int
    peer_disk: int
    suspended: frozenset[Suspension]


def request_for(name: str) -> bytes:
    """What selects the resource of that name."""
    text = netlink.attribute(_RESOURCE_NAME, name.encode() + b"\0")
    return netlink.nest(_CONTEXT, text)


def from_message(message: Message) -> tuple[ResourceStatus, Generations | None]:
    """The resource, as a full status has it, and its generations.

    Those are None where the kernel has no disk that could tell them. While it is still negotiating
    with the peer which data is good, there are none.
    """
    context = netlink.unpack(message.attributes[_CONTEXT])
    info = netlink.unpack(message.attributes[_STATE_INFO])
    state = _state(netlink.u32(info[_STATE]))
    disk = numbering.disk(state.disk, _VERSION)
    uuids = _FOUR_UUIDS.unpack(info[_UUIDS]) if _UUIDS in info else (0, 0, 0, 0)
    number = netlink.u32(context.get(_VOLUME, bytes(4)))
    attached = disk not in (DiskState.DISKLESS, DiskState.UNKNOWN)
    volume = VolumeStatus(
        number,
        message.minor,
        disk,
        size_bytes=netlink.u64(info[_CAPACITY]) * _SECTOR if attached else None,
        current_uuid=uuids[0] & ~1 if attached else None,
    )
    peer = PeerVolumeStatus(
        number,
        replication=_replication(state.connection),
        disk=numbering.disk(state.peer_disk, _VERSION),
        out_of_sync_bytes=_bytes(info, _BITS_OUT_OF_SYNC) or 0,
        resync_total_bytes=_bytes(info, _BITS_RESYNC_TOTAL),
        bitmap_uuid=uuids[1] & ~1,
    )
    connection = ConnectionStatus(
        peer_id=0,
        state=numbering.connection(min(state.connection, numbering.OFF)),
        role=numbering.role(state.peer_role),
        peer_address=addresses.unpack(context.get(_PEER_ADDRESS, b"")),
        volumes=(peer,),
    )
    status = ResourceStatus(
        netlink.text(context[_RESOURCE_NAME]),
        numbering.role(state.role),
        state.suspended,
        (volume,),
        (connection,),
    )
    if _UUIDS not in info and disk in _KNOWS_NO_GENERATIONS:
        return status, None
    return status, generations_in(uuids, netlink.u32(info.get(_DISK_FLAGS, bytes(4))))


def resync_totals(messages: list[Message]) -> dict[int, int]:
    """How many bytes the resyncs under way began with, by minor."""
    totals = {}
    for message in messages:
        info = netlink.unpack(message.attributes.get(_STATE_INFO, b""))
        total = _bytes(info, _BITS_RESYNC_TOTAL)
        if total is not None:
            totals[message.minor] = total
    return totals


def _state(bits: int) -> _State:
    reasons = {17: Suspension.USER, 21: Suspension.NO_DATA, 22: Suspension.FENCING}
    return _State(
        role=bits & 3,
        peer_role=bits >> 2 & 3,
        connection=bits >> 4 & 31,
        disk=bits >> 9 & 15,
        peer_disk=bits >> 13 & 15,
        suspended=frozenset(reason for bit, reason in reasons.items() if bits >> bit & 1),
    )


def _replication(connection: int) -> ReplicationState:
    return numbering.replication(max(connection, numbering.OFF))


def _bytes(info: netlink.Attributes, number: int) -> int | None:
    return netlink.u64(info[number]) * _BYTES_PER_BIT if number in info else None
