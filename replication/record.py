"""What agents tell of a replicated volume. ``cluster/membership.py`` has what the store holds.

All are plain values and travel as JSON (``cluster.model.to_object``, ``from_object``).
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.membership import Membership
from cluster.model import Lenient


class Role(Lenient):
    SECONDARY = "Secondary"
    PRIMARY = "Primary"
    UNKNOWN = "Unknown"


class Disk(Lenient):
    """State of a replica's disk. ABSENT: the kernel has no such resource (since a boot, a down)."""

    ABSENT = "Absent"
    DISKLESS = "Diskless"
    INCONSISTENT = "Inconsistent"
    OUTDATED = "Outdated"
    CONSISTENT = "Consistent"
    UP_TO_DATE = "UpToDate"
    UNKNOWN = "DUnknown"


class Connection(Lenient):
    """What matters of the kernel's states. CONNECTING: it tries, by itself and without an end."""

    STANDALONE = "StandAlone"
    CONNECTING = "WFConnection"
    CONNECTED = "Connected"
    SYNC_SOURCE = "SyncSource"
    SYNC_TARGET = "SyncTarget"
    UNKNOWN = "Unknown"


CONNECTED = (Connection.CONNECTED, Connection.SYNC_SOURCE, Connection.SYNC_TARGET)


@dataclass(frozen=True)
class Generations:
    """The data generations of a replica (DRBD's UUIDs, without their lowest bit).

    ``was_primary``: the metadata says that the node stopped while primary; between equal
    generations DRBD 8.4 makes such a node the source.
    """

    current: str = ""
    bitmap: str = ""
    history: tuple[str, ...] = ()
    was_primary: bool = False

    def grown_from(self, generation: str) -> bool:
        """Whether the data is of that generation or of a later one that began from it."""
        return generation in (self.current, self.bitmap, *self.history)


class Users(Lenient):
    """Processes that hold the volume open on a node. STUCK: SIGKILL has not ended them."""

    NONE = "none"
    ALIVE = "alive"
    STUCK = "stuck"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class View:
    """What an agent sees of a volume in its kernel at one moment."""

    node: str
    boot_id: str
    role: Role = Role.SECONDARY
    peer_role: Role = Role.UNKNOWN
    disk: Disk = Disk.ABSENT
    peer_disk: Disk = Disk.UNKNOWN
    connection: Connection = Connection.STANDALONE
    suspended: bool = False  # frozen by the kernel, because the peer or the data was lost
    face_suspended: bool = False  # by the agent (rule 11)
    users: Users = Users.NONE
    grant: bool = False  # a grant of this boot for the fence helper lies there
    generations: Generations = Generations()

    @property
    def connected(self) -> bool:
        return self.connection in CONNECTED

    @property
    def has_disk(self) -> bool:
        """Whether the kernel has the replica's disk, in whatever state."""
        return self.disk not in (Disk.ABSENT, Disk.DISKLESS)


@dataclass(frozen=True)
class Statement:
    """A view, with the record that the agent knew when it looked."""

    view: View
    revision: int
    epoch: int  # the highest epoch that the node has noted durably


@dataclass(frozen=True)
class Notes:
    """What an agent keeps durably of a volume, elsewhere than on the volume's own disk."""

    record: Membership | None = None  # that of the highest epoch seen
    disk_failed: bool = False

    @property
    def epoch(self) -> int:
        return self.record.epoch if self.record is not None else 0
