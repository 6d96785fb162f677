"""Typed updates of what the kernel knows, and the table that they add up to.

Events lag behind the kernel's state: they say that it is time to look; who decides something takes
a fresh snapshot.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from replication.netlink import EventsLost
from replication.status import (
    ConnectionState,
    ConnectionStatus,
    DiskState,
    PeerVolumeStatus,
    ReplicationState,
    ResourceStatus,
    Role,
    Suspension,
    VolumeStatus,
)


class Change(StrEnum):
    EXISTS = "exists"
    CREATE = "create"
    CHANGE = "change"
    DESTROY = "destroy"
    CALL = "call"
    RESPONSE = "response"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class ResourceUpdate:
    """In all updates, None means: as before."""

    change: Change
    resource: str
    role: Role | None = None
    suspended: frozenset[Suspension] | None = None


@dataclass(frozen=True)
class VolumeUpdate:
    change: Change
    resource: str
    number: int
    minor: int | None = None
    disk: DiskState | None = None
    size_bytes: int | None = None
    current_uuid: int | None = None
    has_quorum: bool | None = None


@dataclass(frozen=True)
class ConnectionUpdate:
    change: Change
    resource: str
    peer_id: int
    state: ConnectionState | None = None
    role: Role | None = None
    peer_address: str | None = None


@dataclass(frozen=True)
class PeerVolumeUpdate:
    change: Change
    resource: str
    peer_id: int
    number: int
    replication: ReplicationState | None = None
    disk: DiskState | None = None
    out_of_sync_bytes: int | None = None
    resync_total_bytes: int | None = None
    bitmap_uuid: int | None = None


@dataclass(frozen=True)
class HelperUpdate:
    """The kernel has called the helper, or has had its answer: ``exit_code`` (None at the call).

    A helper that could not be started at all has a negative one.
    """

    change: Change
    resource: str
    helper: str
    exit_code: int | None = None


@dataclass(frozen=True)
class SnapshotEnd:
    """Everything that there was has been told."""


Update = (
    ResourceUpdate | VolumeUpdate | ConnectionUpdate | PeerVolumeUpdate | HelperUpdate | SnapshotEnd
)


class Table:
    """What a snapshot and the updates after it add up to."""

    def __init__(self) -> None:
        self._resources: dict[str, ResourceUpdate] = {}
        self._volumes: dict[tuple[str, int], VolumeUpdate] = {}
        self._connections: dict[tuple[str, int], ConnectionUpdate] = {}
        self._peer_volumes: dict[tuple[str, int, int], PeerVolumeUpdate] = {}

    def apply(self, update: Update) -> str | None:
        """Returns the name of the resource that it is about; None where only a count has moved on.

        Raises ``EventsLost`` for a change of something that nobody has told of before.
        """
        if isinstance(update, SnapshotEnd):
            return None
        if isinstance(update, ResourceUpdate):
            _merge(self._resources, update.resource, update)
        elif isinstance(update, VolumeUpdate):
            _merge(self._volumes, (update.resource, update.number), update)
        elif isinstance(update, ConnectionUpdate):
            _merge(self._connections, (update.resource, update.peer_id), update)
        elif isinstance(update, PeerVolumeUpdate):
            key = (update.resource, update.peer_id, update.number)
            before = self._peer_volumes.get(key)
            _merge(self._peer_volumes, key, update)
            if before is not None and _same_state(before, self._peer_volumes.get(key)):
                return None
        return update.resource

    def resources(self) -> dict[str, ResourceStatus]:
        """The resources by name."""
        volumes: dict[str, list[VolumeStatus]] = {}
        for _, volume in sorted(self._volumes.items()):
            volumes.setdefault(volume.resource, []).append(_volume_status(volume))
        peers: dict[tuple[str, int], list[PeerVolumeStatus]] = {}
        for _, peer in sorted(self._peer_volumes.items()):
            status = _peer_volume_status(peer)
            peers.setdefault((peer.resource, peer.peer_id), []).append(status)
        connections: dict[str, list[ConnectionStatus]] = {}
        for key, connection in sorted(self._connections.items()):
            status_of = _connection_status(connection, peers.get(key, []))
            connections.setdefault(connection.resource, []).append(status_of)
        return {
            name: ResourceStatus(
                name=name,
                role=resource.role or Role.UNKNOWN,
                suspended=resource.suspended or frozenset(),
                volumes=tuple(volumes.get(name, ())),
                connections=tuple(connections.get(name, ())),
            )
            for name, resource in sorted(self._resources.items())
        }


def added_up(updates: Iterable[Update]) -> dict[str, ResourceStatus]:
    """The resources that a snapshot tells of, by name."""
    table = Table()
    for update in updates:
        table.apply(update)
    return table.resources()


def _same_state(before: PeerVolumeUpdate, after: PeerVolumeUpdate | None) -> bool:
    """Whether all that differs is how far a resync is: that there is nothing left is a state."""
    if after is None or bool(before.out_of_sync_bytes) != bool(after.out_of_sync_bytes):
        return False
    return after == replace(
        before,
        change=after.change,
        out_of_sync_bytes=after.out_of_sync_bytes,
        resync_total_bytes=after.resync_total_bytes,
    )


def _merge(known: dict[Any, Any], key: object, update: Any) -> None:
    if update.change is Change.DESTROY:
        known.pop(key, None)
    elif key in known:
        told = {
            field.name: getattr(update, field.name)
            for field in dataclasses.fields(update)
            if getattr(update, field.name) is not None
        }
        known[key] = dataclasses.replace(known[key], **told)
    elif update.change is Change.CHANGE:
        raise EventsLost(f"a change of resource {update.resource} that nobody has told of before")
    else:
        known[key] = update


def _volume_status(update: VolumeUpdate) -> VolumeStatus:
    attached = update.disk not in (None, DiskState.DISKLESS, DiskState.UNKNOWN)
    return VolumeStatus(
        number=update.number,
        minor=-1 if update.minor is None else update.minor,
        disk=update.disk or DiskState.UNKNOWN,
        size_bytes=update.size_bytes if attached else None,
        current_uuid=update.current_uuid if attached else None,
        has_quorum=update.has_quorum is not False,
    )


def _peer_volume_status(update: PeerVolumeUpdate) -> PeerVolumeStatus:
    return PeerVolumeStatus(
        number=update.number,
        replication=update.replication or ReplicationState.UNKNOWN,
        disk=update.disk or DiskState.UNKNOWN,
        out_of_sync_bytes=update.out_of_sync_bytes,
        resync_total_bytes=update.resync_total_bytes,
        bitmap_uuid=update.bitmap_uuid,
    )


def _connection_status(
    update: ConnectionUpdate, volumes: Sequence[PeerVolumeStatus]
) -> ConnectionStatus:
    return ConnectionStatus(
        peer_id=update.peer_id,
        state=update.state or ConnectionState.UNKNOWN,
        role=update.role or Role.UNKNOWN,
        peer_address=update.peer_address,
        volumes=tuple(volumes),
    )
