"""The node agents as the workflows see them.

``node_agent/client.py`` implements the protocol over gRPC. Every call is idempotent (see
``proto/node_agent.proto``) and raises the errors of ``cluster/errors.py``; Unavailable means that
the outcome is unknown. Sizes are bytes.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

from cluster.errors import ClusterError
from cluster.model import IoLimits, Snapshot, Volume

_T = TypeVar("_T")
_MAX_AT_ONCE = 32


class Health(StrEnum):
    OK = "ok"
    DEGRADED = "degraded"
    INACCESSIBLE = "inaccessible"
    DATA_LOSS = "data-loss"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class ThinPoolReport:
    name: str
    total_bytes: int
    used_bytes: int
    metadata_used: float  # 0 to 1
    virtual_bytes: int  # promised to thin volumes and snapshots
    virtual_limit_bytes: int  # over-commit limit
    chunk_bytes: int


@dataclass(frozen=True)
class PoolReport:
    name: str
    volume_group: str
    extent_bytes: int
    thick_total_bytes: int
    thick_free_bytes: int
    disk_free_bytes: tuple[int, ...] = ()
    thin: ThinPoolReport | None = None
    trouble: str = ""  # empty when healthy
    block_bytes: int = 0  # the smallest piece that its disks write; 0: not known


@dataclass(frozen=True)
class VerifyReport:
    """The last comparison of a volume's replicas. ``trouble``: why it told nothing, or nothing."""

    finished_at: float  # seconds since 1970 by the node's clock, for people
    out_of_sync_bytes: int = 0
    trouble: str = ""


@dataclass(frozen=True)
class ReplicaReport:
    """A replica as its node's kernel has it (in DRBD's words), and what its agent makes of that."""

    role: str = "Unknown"
    disk: str = "Absent"
    peer_disk: str = "DUnknown"
    connection: str = "StandAlone"
    activity: str = ""  # RESYNC, VERIFY, or nothing
    frozen: str = ""  # why writes are held back, in words
    out_of_sync_bytes: int = 0
    resync_total_bytes: int = 0  # of a resync under way, as the next two; 0: cannot be told
    resync_done_bytes: int = 0
    bytes_per_second: int = 0
    doing: str = ""  # what the agent does, or waits for, in words
    waits_for: str = ""  # ARBITER, PERSON, REBOOT, or nothing
    serving: bool = False
    verify: VerifyReport | None = None

    @property
    def in_sync(self) -> bool:
        """Whether both replicas are complete as far as this node sees."""
        return self.connection == "Connected" and self.disk == self.peer_disk == "UpToDate"

    @property
    def resync_share(self) -> float | None:
        """How much of the resync under way is done, 0 to 1; None where that cannot be told."""
        if self.activity != RESYNC or not self.resync_total_bytes:
            return None
        return self.resync_done_bytes / self.resync_total_bytes

    @property
    def seconds_left(self) -> float | None:
        """Of the resync under way, at the rate that it had until now."""
        if self.activity != RESYNC or not self.bytes_per_second:
            return None
        return (self.resync_total_bytes - self.resync_done_bytes) / self.bytes_per_second


RESYNC, VERIFY = "resync", "verify"
ARBITER, PERSON, REBOOT = "arbiter", "person", "reboot"


@dataclass(frozen=True)
class VolumeReport:
    id: str
    size_bytes: int
    pool: str
    record: str  # JSON, as the tags keep it; cluster.model.volume_from_json reads it
    complete: bool
    used: bool
    active: bool
    mounts: tuple[str, ...] = ()
    health: Health = Health.OK
    trouble: str = ""
    allocated_bytes: int = 0
    logical_volume_uuid: str = ""
    replica: ReplicaReport | None = None  # only of a replicated volume


@dataclass(frozen=True)
class SnapshotReport:
    id: str
    volume_id: str
    size_bytes: int
    pool: str
    record: str
    complete: bool


@dataclass(frozen=True)
class Inventory:
    node: str
    boot_id: str
    topology: Mapping[str, str]
    pools: tuple[PoolReport, ...]
    volumes: tuple[VolumeReport, ...] = ()
    snapshots: tuple[SnapshotReport, ...] = ()
    foreign: tuple[str, ...] = ()
    stuck_commands: int = 0
    version: str = ""
    replication_address: str = ""  # on the network that carries replication; "": no replicas here
    replication_trouble: str = ""  # why it takes none although it is configured to


class Agent(Protocol):
    """One storage node."""

    def inventory(self) -> Inventory: ...

    def pools(self, *, fresh: bool) -> tuple[PoolReport, ...]: ...

    def get_volume(self, volume_id: str) -> VolumeReport:
        """Raises NotFound."""
        ...

    def create_volume(self, volume: Volume) -> tuple[VolumeReport, PoolReport]:
        """Make it, or adopt what is there. Raises NoSpace, AlreadyExists, NotFound (source).

        Unavailable with a text while a long copy is going on.
        """
        ...

    def delete_volume(self, volume_id: str, pool: str = "") -> None:
        """``pool``: the only one that it may be in; "": any that the node is configured with.

        Raises Refused while it is mounted or a thick snapshot depends on it; Unavailable while the
        pool is not in the node's configuration.
        """
        ...

    def expand_volume(
        self, volume_id: str, size_bytes: int, limit_bytes: int
    ) -> tuple[int, PoolReport]:
        """Returns the new size. Never shrinks: a volume that is larger already is success.

        Raises NoSpace, OutOfRange, Refused; Unavailable with a text while a long wipe is going on.
        """
        ...

    def set_limits(self, volume_id: str, limits: IoLimits) -> None: ...

    def update_volume(self, volume: Volume) -> PoolReport:
        """Keep a changed record, and bring what is under the volume in line, also while it is used.

        With ``replication``: what a replica needs beside its data is there afterwards. Without:
        DRBD is taken out from under the only replica. Raises NotFound, NoSpace, Refused; and
        Unavailable while the node does not know yet that it has the only replica.
        """
        ...

    def suspend_volumes(self, volume_ids: Sequence[str], deadline: float) -> str:
        """Returns the name of the suspension; it ends by itself after ``deadline`` seconds."""
        ...

    def resume_volumes(self, suspension: str) -> bool:
        """Whether it held until now."""
        ...

    def create_snapshots(
        self, snapshots: Sequence[Snapshot], suspension: str = ""
    ) -> tuple[SnapshotReport, ...]:
        """All at one instant."""
        ...

    def delete_snapshots(self, snapshot_ids: Sequence[str], pool: str = "") -> None:
        """``pool`` is that of all of them, as in ``delete_volume``."""
        ...

    def verify_volume(self, volume_id: str) -> None:
        """Begin to compare both replicas; one under way is success.

        Raises NotFound, and Refused unless both are connected and UpToDate.
        """
        ...


class Agents(Protocol):
    """All storage nodes that the controller is configured with."""

    def names(self) -> tuple[str, ...]: ...

    def agent(self, node: str) -> Agent:
        """Raises NotFound for a node that is not configured."""
        ...


def configured(agents: Agents, nodes: Collection[str]) -> list[str]:
    """Those of the nodes that are: what was on others is given up."""
    names = agents.names()
    return [node for node in nodes if node in names]


def ask_all(
    agents: Agents, nodes: Collection[str], ask: Callable[[str, Agent], _T]
) -> dict[str, _T | ClusterError]:
    """Ask the agents of several nodes at the same time. An error takes the place of its answer."""

    def ask_one(node: str) -> _T | ClusterError:
        try:
            return ask(node, agents.agent(node))
        except ClusterError as error:
            return error

    if len(nodes) <= 1:
        return {node: ask_one(node) for node in nodes}
    with ThreadPoolExecutor(min(len(nodes), _MAX_AT_ONCE)) as threads:
        # Each thread gets the caller's context: it holds the request's id for the logs.
        answers = {
            node: threads.submit(contextvars.copy_context().run, ask_one, node) for node in nodes
        }
    return {node: answer.result() for node, answer in answers.items()}
