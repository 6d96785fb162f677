"""The kernel's words about a volume, in those that membership decides by.

Where the kernel has a state that membership does not know, it is taken for the one that permits
least: what is not surely complete is not complete, and what is not surely cut is not StandAlone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from replication import record
from replication.record import Connection, Disk, Generations, Users, View
from replication.status import (
    ConnectionState,
    ConnectionStatus,
    DiskState,
    PeerVolumeStatus,
    ReplicationState,
    ResourceStatus,
    Role,
)

# What passes by itself is UNKNOWN until it has: neither a failure nor complete. Failed is what a
# disk is for the moment between its error and its detaching.
DISKS: Mapping[DiskState, Disk] = {
    DiskState.DISKLESS: Disk.DISKLESS,
    DiskState.FAILED: Disk.DISKLESS,
    DiskState.DETACHING: Disk.UNKNOWN,
    DiskState.ATTACHING: Disk.UNKNOWN,
    DiskState.NEGOTIATING: Disk.UNKNOWN,
    DiskState.INCONSISTENT: Disk.INCONSISTENT,
    DiskState.OUTDATED: Disk.OUTDATED,
    DiskState.CONSISTENT: Disk.CONSISTENT,
    DiskState.UP_TO_DATE: Disk.UP_TO_DATE,
    DiskState.DUNKNOWN: Disk.UNKNOWN,
    DiskState.UNKNOWN: Disk.UNKNOWN,
}

# A connection that is being lost tries again by itself. One that is being ended by our own command
# is not StandAlone before it is: frozen I/O might still be acknowledged in it.
CONNECTIONS: Mapping[ConnectionState, Connection] = {
    ConnectionState.STANDALONE: Connection.STANDALONE,
    ConnectionState.DISCONNECTING: Connection.UNKNOWN,
    ConnectionState.UNCONNECTED: Connection.CONNECTING,
    ConnectionState.TIMEOUT: Connection.CONNECTING,
    ConnectionState.BROKEN_PIPE: Connection.CONNECTING,
    ConnectionState.NETWORK_FAILURE: Connection.CONNECTING,
    ConnectionState.PROTOCOL_ERROR: Connection.CONNECTING,
    ConnectionState.TEAR_DOWN: Connection.CONNECTING,
    ConnectionState.CONNECTING: Connection.CONNECTING,
    ConnectionState.CONNECTED: Connection.CONNECTED,
    ConnectionState.UNKNOWN: Connection.UNKNOWN,
}

# Within a connection. Connected in membership's sense is only what replicates every write. A
# verify replicates as before; what exchanges bitmaps, or waits, is a resync that has not ended.
REPLICATIONS: Mapping[ReplicationState, Connection] = {
    ReplicationState.OFF: Connection.UNKNOWN,
    ReplicationState.ESTABLISHED: Connection.CONNECTED,
    ReplicationState.STARTING_SYNC_S: Connection.SYNC_SOURCE,
    ReplicationState.STARTING_SYNC_T: Connection.SYNC_TARGET,
    ReplicationState.WF_BITMAP_S: Connection.SYNC_SOURCE,
    ReplicationState.WF_BITMAP_T: Connection.SYNC_TARGET,
    ReplicationState.WF_SYNC_UUID: Connection.SYNC_TARGET,
    ReplicationState.SYNC_SOURCE: Connection.SYNC_SOURCE,
    ReplicationState.SYNC_TARGET: Connection.SYNC_TARGET,
    ReplicationState.VERIFY_S: Connection.CONNECTED,
    ReplicationState.VERIFY_T: Connection.CONNECTED,
    ReplicationState.PAUSED_SYNC_S: Connection.SYNC_SOURCE,
    ReplicationState.PAUSED_SYNC_T: Connection.SYNC_TARGET,
    # Asynchronous: our resources never ask for it.
    ReplicationState.AHEAD: Connection.UNKNOWN,
    ReplicationState.BEHIND: Connection.UNKNOWN,
    ReplicationState.UNKNOWN: Connection.UNKNOWN,
}

ROLES: Mapping[Role, record.Role] = {
    Role.PRIMARY: record.Role.PRIMARY,
    Role.SECONDARY: record.Role.SECONDARY,
    Role.UNKNOWN: record.Role.UNKNOWN,
}


@dataclass(frozen=True)
class Surroundings:
    """What of a view is not DRBD's: told by the agent."""

    node: str
    boot_id: str
    users: Users = Users.UNKNOWN  # whose processes have it open, nobody has looked
    face_suspended: bool = False
    grant: bool = False


def view_of(
    status: ResourceStatus | None,
    generations: Generations,
    around: Surroundings,
    peer_id: int = 0,
) -> View:
    """What membership decides by. ``status``: None where the kernel has no such resource."""
    view = View(
        around.node,
        around.boot_id,
        users=around.users,
        face_suspended=around.face_suspended,
        grant=around.grant,
        generations=generations,
    )
    # A resource without a device is one whose setting up was interrupted: there is nothing of it.
    # One with a device and no disk is not told from a failed disk: it costs a resync, not data.
    if status is None or not status.volumes:
        return view
    found = status.connection(peer_id)
    peer = found.volumes[0] if found.volumes else None
    return View(
        view.node,
        view.boot_id,
        role=ROLES[status.role],
        peer_role=ROLES[found.role],
        disk=DISKS[status.disk],
        peer_disk=DISKS[peer.disk] if peer is not None else Disk.UNKNOWN,
        connection=connection_of(found, peer),
        suspended=bool(status.suspended),
        face_suspended=view.face_suspended,
        users=view.users,
        grant=view.grant,
        generations=view.generations,
    )


def connection_of(found: ConnectionStatus, peer: PeerVolumeStatus | None) -> Connection:
    """The connection with what goes on in it."""
    state = CONNECTIONS[found.state]
    if state is not Connection.CONNECTED:
        return state
    return REPLICATIONS[peer.replication] if peer is not None else Connection.UNKNOWN
