"""What the store holds of a replicated volume for membership, and what agents tell of it.

All are plain values and travel as JSON (``cluster.model.to_object``, ``from_object``). A record
changes only by compare-and-swap on its revision, and its epoch rises with every change and every
permission.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
class Boot:
    """The boot of a node in which it was last known to have all that was acknowledged."""

    node: str
    boot_id: str


@dataclass(frozen=True)
class Record:
    members: tuple[str, ...]  # the in-sync set, sorted
    replicas: tuple[str, ...]  # all nodes with a replica, sorted; those outside the set rejoin
    primary: str = ""  # the publish record: the one node that may be primary, or none
    active: str = ""  # who was last permitted to be primary; stays after the unpublishing
    epoch: int = 1
    generation: str = ""  # data generation that members carry, or have grown from
    boots: tuple[Boot, ...] = ()
    caches_safe: bool = False  # a loss of power takes nothing from the caches of the disks
    quarantine: str = ""  # why nothing is permitted before all replicas have reported
    reports: tuple[Report, ...] = ()  # those that did, during a quarantine
    forced: str = ""  # a person accepted data loss: this node may be promoted as it is

    def boot_of(self, node: str) -> str:
        return next((boot.boot_id for boot in self.boots if boot.node == node), "")

    def others(self, node: str) -> tuple[str, ...]:
        """The members besides that node."""
        return tuple(member for member in self.members if member != node)

    def trusts(self, node: str, boot_id: str) -> bool:
        """Whether a loss of power cannot have taken from that member what the other still has.

        The last primary flushed its own disk whenever its users asked for that; the other side may
        have lost what it had acknowledged, in its disk's cache (rule 16).
        """
        return self.caches_safe or self.active in ("", node) or self.boot_of(node) == boot_id

    def trusts_member(self, node: str, boot_id: str) -> bool:
        """As ``trusts``; of a node outside the set nothing is believed that could be wrong."""
        return node not in self.members or self.trusts(node, boot_id)


@dataclass(frozen=True)
class Report:
    """The newest record that a replica's node has seen, reported during a quarantine."""

    node: str
    record: Record | None


@dataclass(frozen=True)
class Held:
    """A record as it was read; ``revision`` is what compare-and-swap goes by."""

    record: Record
    revision: int


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


@dataclass(frozen=True)
class Statement:
    """A view, with the record that the agent knew when it looked."""

    view: View
    revision: int
    epoch: int  # the highest epoch that the node has noted durably


@dataclass(frozen=True)
class Notes:
    """What an agent keeps durably of a volume, elsewhere than on the volume's own disk."""

    record: Record | None = None  # that of the highest epoch seen
    disk_failed: bool = False

    @property
    def epoch(self) -> int:
        return self.record.epoch if self.record is not None else 0


def bare(record: Record) -> Record:
    """The record as it is noted: without what a quarantine collects."""
    return replace(record, quarantine="", reports=())
