"""The kernel's messages about DRBD as typed updates: two pure functions.

``from_message`` takes a netlink message, which is complete; ``from_line`` a line of ``drbdsetup
events2``, which has only what changed. A snapshot of everything comes in the same two forms.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TypeVar

from replication import addresses, netlink, numbering
from replication.netlink import EventsLost, Message
from replication.status import ConnectionState, DiskState, ReplicationState, Role, Suspension
from replication.updates import (
    Change,
    ConnectionUpdate,
    HelperUpdate,
    PeerVolumeUpdate,
    ResourceUpdate,
    SnapshotEnd,
    Update,
    VolumeUpdate,
)

log = logging.getLogger("xlss.replication")

SECTOR = 512

# Commands and top-level attributes of linux/drbd_genl.h that 8.4 and 9 share.
_RESOURCE, _DEVICE, _CONNECTION, _PEER_DEVICE = 34, 35, 36, 37
_HELPER, _INITIAL_STATE_DONE = 40, 41
_CONTEXT, _NOTIFICATION, _HELPER_INFO = 2, 23, 24
_INFO = {_RESOURCE: 15, _DEVICE: 16, _CONNECTION: 17, _PEER_DEVICE: 18}
_STATISTICS = {_DEVICE: 20, _PEER_DEVICE: 22}
_CONTINUES = 0x8000
# What the module puts into statistics that it does not have.
_NO_VALUE = (1 << 64) - 1

_CHANGES = tuple(Change)[:6]
_SUSPENSIONS = {2: Suspension.USER, 3: Suspension.NO_DATA, 4: Suspension.FENCING}
_SUSPENSIONS |= {5: Suspension.QUORUM}

_Word = TypeVar("_Word", bound=StrEnum)


def from_message(message: Message, version: int) -> Update | None:
    """The update that a message tells; None for what this module has no use for.

    ``version`` is that of the netlink family: 1 (DRBD 8.4) or 2 (DRBD 9). Raises ``EventsLost``
    for a kind of change that is not known, since then nobody can say what it changed.
    """
    found = {number: netlink.unpack(nest) for number, nest in message.attributes.items()}
    if message.command == _INITIAL_STATE_DONE:
        return SnapshotEnd()
    if message.command != _HELPER and message.command not in _INFO:
        return None
    kind = netlink.u32(found[_NOTIFICATION][1]) & ~_CONTINUES
    change = numbering.word(_CHANGES, kind, Change.UNKNOWN)
    context = found[_CONTEXT]
    resource = netlink.text(context[2])
    if change is Change.UNKNOWN:
        raise EventsLost(f"an unknown kind of change ({kind}) of resource {resource}")
    if message.command == _HELPER:
        return _helper(change, resource, found[_HELPER_INFO])
    number = netlink.u32(context.get(1, bytes(4)))
    peer_id = netlink.u32(context.get(6, bytes(4)))
    info = found.get(_INFO[message.command], {})
    statistics = found.get(_STATISTICS.get(message.command, -1), {})
    if message.command == _RESOURCE:
        return _resource(change, resource, info)
    if message.command == _CONNECTION:
        return _connection(change, resource, peer_id, info, context)
    if message.command == _DEVICE:
        return _volume(change, resource, number, message.minor, info, statistics, version)
    return _peer_volume(change, resource, peer_id, number, info, statistics, version)


def from_line(line: str) -> Update | None:
    """The update that a line of ``drbdsetup events2 --statistics`` tells, of either version.

    Raises ``EventsLost`` for a kind of change that is not known.
    """
    change_word, _, rest = line.strip().partition(" ")
    subject, _, rest = rest.partition(" ")
    if not subject:
        return None
    if subject == "-":
        return SnapshotEnd() if change_word == "exists" else None
    fields = dict(word.partition(":")[::2] for word in rest.split(" "))
    make = _LINES.get(subject)
    if make is None:
        return None
    change = _word(Change, change_word, Change.UNKNOWN)
    if change is Change.UNKNOWN:
        raise EventsLost(f"an unknown kind of change: {line.strip()}")
    return make(change, fields)


# Netlink


def _helper(change: Change, resource: str, info: netlink.Attributes) -> HelperUpdate:
    status = netlink.u32(info.get(2, bytes(4)))
    code = None if change is Change.CALL else _exit_code(status)
    return HelperUpdate(change, resource, netlink.text(info.get(1, b"")), code)


def _exit_code(status: int) -> int:
    """wait(2)'s status, or a negative error number of the kernel."""
    return status - (1 << 32) if status >= 1 << 31 else status >> 8 & 0xFF


def _resource(change: Change, resource: str, info: netlink.Attributes) -> ResourceUpdate:
    if not info:
        return ResourceUpdate(change, resource)
    reasons = {word for number, word in _SUSPENSIONS.items() if any(info.get(number, b""))}
    role = numbering.role(netlink.u32(info[1]))
    return ResourceUpdate(change, resource, role, frozenset(reasons))


def _connection(
    change: Change,
    resource: str,
    peer_id: int,
    info: netlink.Attributes,
    context: netlink.Attributes,
) -> ConnectionUpdate:
    if not info:
        return ConnectionUpdate(change, resource, peer_id)
    state = numbering.connection(netlink.u32(info[1]))
    role = numbering.role(netlink.u32(info[2]))
    address = addresses.unpack(context.get(4, b""))
    return ConnectionUpdate(change, resource, peer_id, state, role, address)


def _volume(
    change: Change,
    resource: str,
    number: int,
    minor: int,
    info: netlink.Attributes,
    statistics: netlink.Attributes,
    version: int,
) -> VolumeUpdate:
    if not info:
        return VolumeUpdate(change, resource, number)
    sectors = _maybe(statistics, 1)
    uuid = _maybe(statistics, 12)
    return VolumeUpdate(
        change,
        resource,
        number,
        minor=minor,
        disk=numbering.disk(netlink.u32(info[1]), version),
        size_bytes=None if sectors is None else sectors * SECTOR,
        current_uuid=None if uuid is None else uuid & ~1,
        has_quorum=any(info[3]) if 3 in info else True,
    )


def _peer_volume(
    change: Change,
    resource: str,
    peer_id: int,
    number: int,
    info: netlink.Attributes,
    statistics: netlink.Attributes,
    version: int,
) -> PeerVolumeUpdate:
    if not info:
        return PeerVolumeUpdate(change, resource, peer_id, number)
    sectors = _maybe(statistics, 5)
    total = _maybe(statistics, 10)
    uuid = _maybe(statistics, 7)
    return PeerVolumeUpdate(
        change,
        resource,
        peer_id,
        number,
        replication=numbering.replication(netlink.u32(info[1])),
        disk=numbering.disk(netlink.u32(info[2]), version),
        out_of_sync_bytes=None if sectors is None else sectors * SECTOR,
        resync_total_bytes=total * SECTOR if total else None,
        bitmap_uuid=None if uuid is None else uuid & ~1,
    )


def _maybe(statistics: netlink.Attributes, number: int) -> int | None:
    value = netlink.u64(statistics[number]) if number in statistics else _NO_VALUE
    return None if value == _NO_VALUE else value


# Lines


def _resource_line(change: Change, fields: Mapping[str, str]) -> ResourceUpdate:
    suspended = fields.get("suspended")
    reasons = None
    if suspended is not None:
        words = [] if suspended == "no" else suspended.split(",")
        reasons = frozenset(_word(Suspension, word, Suspension.UNKNOWN) for word in words)
    role = _field(Role, fields, "role", Role.UNKNOWN)
    return ResourceUpdate(change, fields["name"], role, reasons)


def _volume_line(change: Change, fields: Mapping[str, str]) -> VolumeUpdate:
    quorum = fields.get("quorum")
    return VolumeUpdate(
        change,
        fields["name"],
        int(fields["volume"]),
        minor=int(fields["minor"]) if "minor" in fields else None,
        disk=_field(DiskState, fields, "disk", DiskState.UNKNOWN),
        size_bytes=_kibibytes(fields, "size"),
        has_quorum=None if quorum is None else quorum == "yes",
    )


def _connection_line(change: Change, fields: Mapping[str, str]) -> ConnectionUpdate:
    state = _field(ConnectionState, fields, "connection", ConnectionState.UNKNOWN)
    role = _field(Role, fields, "role", Role.UNKNOWN)
    return ConnectionUpdate(change, fields["name"], int(fields["peer-node-id"]), state, role)


def _peer_volume_line(change: Change, fields: Mapping[str, str]) -> PeerVolumeUpdate:
    return PeerVolumeUpdate(
        change,
        fields["name"],
        int(fields["peer-node-id"]),
        int(fields["volume"]),
        replication=_field(ReplicationState, fields, "replication", ReplicationState.UNKNOWN),
        disk=_field(DiskState, fields, "peer-disk", DiskState.UNKNOWN),
        out_of_sync_bytes=_kibibytes(fields, "out-of-sync"),
    )


def _helper_line(change: Change, fields: Mapping[str, str]) -> HelperUpdate:
    status = fields.get("status")
    code = None if status is None else _exit_code(int(status) & 0xFFFFFFFF)
    return HelperUpdate(change, fields["name"], fields.get("helper", ""), code)


_LINES: dict[str, Callable[[Change, Mapping[str, str]], Update]] = {
    "resource": _resource_line,
    "device": _volume_line,
    "connection": _connection_line,
    "peer-device": _peer_volume_line,
    "helper": _helper_line,
}


def _field(
    words: type[_Word], fields: Mapping[str, str], name: str, unknown: _Word
) -> _Word | None:
    return _word(words, fields[name], unknown) if name in fields else None


def _word(words: type[_Word], word: str, unknown: _Word) -> _Word:
    try:
        return words(word)
    except ValueError:
        log.warning("unknown %s %r of drbdsetup", words.__name__, word)
        return unknown


def _kibibytes(fields: Mapping[str, str], name: str) -> int | None:
    return int(fields[name]) * 1024 if name in fields else None
