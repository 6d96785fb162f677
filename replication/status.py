"""What the kernel knows of the replicated volumes of this node, as frozen values.

The words are those of drbdsetup(8); a word that this version does not know becomes ``UNKNOWN``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    UNKNOWN = "Unknown"
    PRIMARY = "Primary"
    SECONDARY = "Secondary"


class DiskState(StrEnum):
    """Only ``UP_TO_DATE`` is good for anything; ``DUNKNOWN`` is that of a peer out of reach."""

    DISKLESS = "Diskless"
    ATTACHING = "Attaching"
    DETACHING = "Detaching"
    FAILED = "Failed"
    NEGOTIATING = "Negotiating"
    INCONSISTENT = "Inconsistent"
    OUTDATED = "Outdated"
    DUNKNOWN = "DUnknown"
    CONSISTENT = "Consistent"
    UP_TO_DATE = "UpToDate"
    UNKNOWN = "unknown"


class ConnectionState(StrEnum):
    STANDALONE = "StandAlone"
    DISCONNECTING = "Disconnecting"
    UNCONNECTED = "Unconnected"
    TIMEOUT = "Timeout"
    BROKEN_PIPE = "BrokenPipe"
    NETWORK_FAILURE = "NetworkFailure"
    PROTOCOL_ERROR = "ProtocolError"
    TEAR_DOWN = "TearDown"
    CONNECTING = "Connecting"
    CONNECTED = "Connected"
    UNKNOWN = "unknown"


class ReplicationState(StrEnum):
    OFF = "Off"
    ESTABLISHED = "Established"
    STARTING_SYNC_S = "StartingSyncS"
    STARTING_SYNC_T = "StartingSyncT"
    WF_BITMAP_S = "WFBitMapS"
    WF_BITMAP_T = "WFBitMapT"
    WF_SYNC_UUID = "WFSyncUUID"
    SYNC_SOURCE = "SyncSource"
    SYNC_TARGET = "SyncTarget"
    VERIFY_S = "VerifyS"
    VERIFY_T = "VerifyT"
    PAUSED_SYNC_S = "PausedSyncS"
    PAUSED_SYNC_T = "PausedSyncT"
    AHEAD = "Ahead"
    BEHIND = "Behind"
    UNKNOWN = "unknown"


class Suspension(StrEnum):
    """Why the kernel holds back writes. ``FENCING``: a peer was lost and nobody has settled it."""

    USER = "user"
    NO_DATA = "no-data"
    FENCING = "fencing"
    QUORUM = "quorum"
    UNKNOWN = "unknown"


RESYNC = frozenset(
    {
        ReplicationState.SYNC_SOURCE,
        ReplicationState.SYNC_TARGET,
        ReplicationState.PAUSED_SYNC_S,
        ReplicationState.PAUSED_SYNC_T,
    }
)
VERIFY = frozenset({ReplicationState.VERIFY_S, ReplicationState.VERIFY_T})


@dataclass(frozen=True)
class VolumeStatus:
    """The local side of a volume. None where there is no disk that could say it.

    ``current_uuid`` is the data generation without its lowest bit, in which DRBD notes that the
    node is primary: the same generation differs in it from node to node.
    """

    number: int
    minor: int
    disk: DiskState
    size_bytes: int | None = None
    current_uuid: int | None = None
    has_quorum: bool = True


@dataclass(frozen=True)
class PeerVolumeStatus:
    """What is known of the peer's copy. ``out_of_sync_bytes`` is what differs, or may differ.

    ``resync_total_bytes`` is what the resync or verify under way began with; None where there is
    none, or where it cannot be told.
    """

    number: int
    replication: ReplicationState
    disk: DiskState
    out_of_sync_bytes: int | None = None
    resync_total_bytes: int | None = None
    bitmap_uuid: int | None = None

    @property
    def resync_done_bytes(self) -> int | None:
        if self.resync_total_bytes is None or self.out_of_sync_bytes is None:
            return None
        return max(0, self.resync_total_bytes - self.out_of_sync_bytes)


@dataclass(frozen=True)
class ConnectionStatus:
    """``peer_id`` is the peer's node id; DRBD 8.4 has one peer, and calls it 0.

    ``peer_address`` (``10.0.0.2:7000``) is that of the last configuration; None where it cannot be
    told, or there was none yet.
    """

    peer_id: int
    state: ConnectionState
    role: Role
    peer_address: str | None = None
    volumes: tuple[PeerVolumeStatus, ...] = ()


@dataclass(frozen=True)
class ResourceStatus:
    """One resource. ``frozen`` I/O waits in the kernel and is not acknowledged."""

    name: str
    role: Role
    suspended: frozenset[Suspension]
    volumes: tuple[VolumeStatus, ...] = ()
    connections: tuple[ConnectionStatus, ...] = ()

    @property
    def frozen(self) -> bool:
        return bool(self.suspended)

    @property
    def disk(self) -> DiskState:
        """Of the one volume that our resources have; ``DISKLESS`` where there is none yet."""
        return self.volumes[0].disk if self.volumes else DiskState.DISKLESS

    def connection(self, peer_id: int = 0) -> ConnectionStatus:
        """That to the peer. One that the kernel does not have, or no longer, is StandAlone.

        DRBD 8.4 lists a StandAlone connection in a snapshot, and tells its end in events.
        """
        for one in self.connections:
            if one.peer_id == peer_id:
                return one
        return ConnectionStatus(peer_id, ConnectionState.STANDALONE, Role.UNKNOWN)

    def peer_volumes(self) -> Iterator[PeerVolumeStatus]:
        for connection in self.connections:
            yield from connection.volumes
