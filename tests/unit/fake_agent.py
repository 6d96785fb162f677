"""Storage nodes in memory: what ``cluster.agents.Agent`` promises, and faults on demand.

``tests/agent_suite.py`` holds the fake to the same suite as the real agent.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.agents import (
    VERIFY,
    Health,
    Inventory,
    PoolReport,
    ReplicaReport,
    SnapshotReport,
    ThinPoolReport,
    VolumeReport,
)
from cluster.errors import (
    AlreadyExists,
    InvalidArgument,
    NoSpace,
    NotFound,
    OutOfRange,
    Refused,
    Unavailable,
)
from cluster.model import IoLimits, Provision, Snapshot, Source, SourceKind, Volume, to_json
from cluster.placement import Footprint, footprint, less, room

MIB = 1 << 20
GIB = 1 << 30
EXTENT = 4 * MIB
IN_SYNC = ReplicaReport("Secondary", "UpToDate", "UpToDate", "Connected")

# Called with (node, call, "before" or "after"); what it raises, the caller gets.
Fault = Callable[[str, str, str], None]


@dataclass
class FakeVolume:
    record: Volume  # as it was when the volume was made, in its tags
    size_bytes: int
    taken: Footprint
    complete: bool = True
    used: bool = False
    mounts: tuple[str, ...] = ()


@dataclass
class FakeSnapshot:
    record: Snapshot
    taken: Footprint
    complete: bool = True


@dataclass
class FakePool:
    """A healthy pool without anything in it."""

    disks: tuple[int, ...] = (100 * GIB,) * 3
    thin_limit: int = 300 * GIB  # 0: no thin pool
    trouble: str = ""


@dataclass
class FakeNode:
    """The node survives whatever happens to its agent, as logical volumes do."""

    name: str
    pools_of: dict[str, FakePool] = field(default_factory=lambda: {"default": FakePool()})
    topology: Mapping[str, str] = field(default_factory=dict)
    fault: Fault = lambda node, call, when: None
    replication_address: str = ""
    replication_trouble: str = ""
    down: bool = False
    delay: float = 0.0  # seconds that each creation takes
    copies: int = 0  # creations from a source that are answered with Unavailable before the last
    sick: dict[str, tuple[Health, str]] = field(default_factory=dict)
    replicas: dict[str, ReplicaReport] = field(default_factory=dict)  # those that are not in sync
    foreign: tuple[str, ...] = ()
    calls: list[str] = field(default_factory=list)
    volumes: dict[str, FakeVolume] = field(default_factory=dict)
    snapshots: dict[str, FakeSnapshot] = field(default_factory=dict)
    suspensions: dict[str, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._mutex = threading.RLock()
        self._suspension_numbers = itertools.count(1)

    def pool(self, name: str) -> PoolReport:
        pool = self.pools_of[name]
        thin = None
        if pool.thin_limit:
            thin = ThinPoolReport("thin", pool.thin_limit, 0, 0.0, 0, pool.thin_limit, 64 * 1024)
        total = sum(pool.disks)
        report = PoolReport(
            name, f"vg-{name}", EXTENT, total, total, pool.disks, thin, pool.trouble
        )
        everything: list[FakeVolume | FakeSnapshot] = [*self.volumes.values()]
        for made in [*everything, *self.snapshots.values()]:
            if made.record.spec.pool == name:
                report = less(report, made.taken)
        return report

    def report(self, volume_id: str) -> VolumeReport:
        volume = self.volumes[volume_id]
        health, trouble = self.sick.get(volume_id, (Health.OK, ""))
        replica = None
        if volume.record.replication is not None:
            replica = self.replicas.get(volume_id, IN_SYNC)
        return VolumeReport(
            id=volume_id,
            size_bytes=volume.size_bytes,
            pool=volume.record.spec.pool,
            record=to_json(volume.record),
            complete=volume.complete,
            used=volume.used,
            active=True,
            mounts=volume.mounts,
            health=health,
            trouble=trouble,
            replica=replica,
        )

    def verify_volume(self, volume_id: str) -> None:
        with self._mutex:
            self._require(volume_id)
            replica = self.report(volume_id).replica
            if replica is None or not replica.in_sync:
                raise Refused(
                    f"volume {volume_id}: both replicas have to be connected and UpToDate"
                )
            self.replicas[volume_id] = replace(replica, activity=VERIFY)

    def snapshot_report(self, snapshot_id: str) -> SnapshotReport:
        snapshot = self.snapshots[snapshot_id]
        record = snapshot.record
        return SnapshotReport(
            snapshot_id,
            record.volume_id,
            record.size_bytes,
            record.spec.pool,
            to_json(record),
            snapshot.complete,
        )

    def inventory(self) -> Inventory:
        with self._mutex:
            return Inventory(
                node=self.name,
                boot_id="boot",
                topology=self.topology,
                pools=tuple(map(self.pool, self.pools_of)),
                volumes=tuple(map(self.report, self.volumes)),
                snapshots=tuple(map(self.snapshot_report, self.snapshots)),
                foreign=self.foreign,
                replication_address="" if self.replication_trouble else self.replication_address,
                replication_trouble=self.replication_trouble,
            )

    def pools(self, *, fresh: bool) -> tuple[PoolReport, ...]:
        with self._mutex:
            return tuple(map(self.pool, self.pools_of))

    def get_volume(self, volume_id: str) -> VolumeReport:
        with self._mutex:
            self._require(volume_id)
            return self.report(volume_id)

    def create_volume(self, volume: Volume) -> tuple[VolumeReport, PoolReport]:
        time.sleep(self.delay)
        with self._mutex:
            name = volume.spec.pool
            if volume.replication is not None and self.replication_trouble:
                raise Unavailable(f"{self.name} takes no replicas now: {self.replication_trouble}")
            if volume.id not in self.volumes:
                replication = volume.replication
                complete = replication is None or self.name in replication.complete
                if volume.read_from is not None and complete:
                    self._require_source(volume.read_from)
                if name not in self.pools_of:
                    raise InvalidArgument(f"{self.name} has no pool {name!r}")
                pool = self.pool(name)
                free, reason = room(pool, volume.spec)
                if free < volume.size_bytes:
                    raise NoSpace(reason or f"{free} bytes free, {volume.size_bytes} needed")
                size = -(-volume.size_bytes // EXTENT) * EXTENT
                if 0 < volume.limit_bytes < size:
                    raise OutOfRange(f"{size} bytes are over the limit")
                complete = volume.source is None or not self.copies
                taken = footprint(pool, volume.spec, volume.size_bytes)
                self.volumes[volume.id] = FakeVolume(volume, size, taken, complete)
            present = self.volumes[volume.id]
            if present.record.read_from != volume.read_from:
                raise AlreadyExists(f"{self.name} has {volume.id}, made of something else")
            if not present.complete:
                if self.copies:
                    self.copies -= 1
                    raise Unavailable("copied to 50%")
                present.complete = True
            return self.report(volume.id), self.pool(name)

    def delete_volume(self, volume_id: str, pool: str = "") -> None:
        with self._mutex:
            self._require_configured(pool)
            volume = self.volumes.get(volume_id)
            if volume is None:
                return
            if volume.mounts:
                raise Refused(f"volume {volume_id} is mounted at {volume.mounts[0]}")
            thick = volume.record.spec.provision is Provision.THICK
            for snapshot in self.snapshots.values():
                if thick and snapshot.record.volume_id == volume_id:
                    raise Refused(f"snapshot {snapshot.record.id} depends on volume {volume_id}")
            del self.volumes[volume_id]

    def expand_volume(
        self, volume_id: str, size_bytes: int, limit_bytes: int
    ) -> tuple[int, PoolReport]:
        with self._mutex:
            volume = self._require(volume_id)
            spec, had = volume.record.spec, volume.size_bytes
            size = max(had, -(-size_bytes // EXTENT) * EXTENT)
            if 0 < limit_bytes < size:
                raise OutOfRange(f"{size} bytes are over the limit")
            del self.volumes[volume_id]  # so that its own room counts as free
            pool = self.pool(spec.pool)
            fits = room(pool, spec)[0] >= size
            self.volumes[volume_id] = volume
            if not fits:
                raise NoSpace(f"no room to grow to {size} bytes")
            volume.size_bytes = size
            volume.taken = footprint(pool, spec, size)
            return size, self.pool(spec.pool)

    def update_volume(self, volume: Volume) -> PoolReport:
        with self._mutex:
            present = self._require(volume.id)
            others = replace(present.record.spec, replicas=volume.spec.replicas)
            if others != volume.spec:
                raise Refused(f"volume {volume.id} is another one")
            had = self.volumes.pop(volume.id)  # so that its own room counts as free
            pool = self.pool(volume.spec.pool)
            free, reason = room(pool, volume.spec)
            self.volumes[volume.id] = had
            if free < present.size_bytes:
                raise NoSpace(reason or "no room")
            present.record = volume
            present.taken = footprint(pool, volume.spec, present.size_bytes)
            return self.pool(volume.spec.pool)

    def set_limits(self, volume_id: str, limits: IoLimits) -> None:
        with self._mutex:
            volume = self._require(volume_id)
            volume.record = replace(volume.record, limits=limits)

    def suspend_volumes(self, volume_ids: Sequence[str], deadline: float) -> str:
        with self._mutex:
            for volume_id in volume_ids:
                self._require(volume_id)
            name = f"{self.name}-{next(self._suspension_numbers)}"
            self.suspensions[name] = set(volume_ids)
            return name

    def resume_volumes(self, suspension: str) -> bool:
        with self._mutex:
            return self.suspensions.pop(suspension, None) is not None

    def create_snapshots(
        self, snapshots: Sequence[Snapshot], suspension: str = ""
    ) -> tuple[SnapshotReport, ...]:
        with self._mutex:
            if suspension:
                held = self.suspensions.get(suspension, set())
                if not {snapshot.volume_id for snapshot in snapshots} <= held:
                    raise Refused(f"suspension {suspension} does not hold")
            new = [snapshot for snapshot in snapshots if snapshot.id not in self.snapshots]
            cuts = {snapshot.id: self._cut(snapshot) for snapshot in new}
            self.snapshots.update(cuts)
            return tuple(self.snapshot_report(snapshot.id) for snapshot in snapshots)

    def delete_snapshots(self, snapshot_ids: Sequence[str], pool: str = "") -> None:
        with self._mutex:
            self._require_configured(pool)
            for snapshot_id in snapshot_ids:
                self.snapshots.pop(snapshot_id, None)

    def _cut(self, snapshot: Snapshot) -> FakeSnapshot:
        size = self._require(snapshot.volume_id).size_bytes
        pool = self.pool(snapshot.spec.pool)
        taken = footprint(pool, snapshot.spec, size)
        if room(pool, snapshot.spec)[0] < size:
            raise NoSpace(f"no room for a snapshot of {size} bytes")
        return FakeSnapshot(replace(snapshot, size_bytes=size), taken)

    def _require(self, volume_id: str) -> FakeVolume:
        if volume_id not in self.volumes:
            raise NotFound(f"{self.name} has no volume {volume_id}")
        return self.volumes[volume_id]

    def _require_configured(self, pool: str) -> None:
        if pool and pool not in self.pools_of:
            raise Unavailable(f"pool {pool!r} is not in the configuration of {self.name}")

    def _require_source(self, source: Source) -> None:
        there = self.snapshots if source.kind is SourceKind.SNAPSHOT else self.volumes
        if source.id not in there:
            raise NotFound(f"{self.name} has no {source.kind} {source.id}")


class FakeAgent:
    """The way to a node: where calls are counted, faults happen and answers get lost."""

    def __init__(self, node: FakeNode) -> None:
        self.node = node

    def __getattr__(self, call: str) -> object:
        target = getattr(self.node, call)
        if not callable(target):
            return target

        def pass_on(*arguments: object, **options: object) -> object:
            node = self.node
            node.calls.append(call)
            if node.down:
                raise Unavailable(f"{node.name} is down")
            node.fault(node.name, call, "before")
            answer = target(*arguments, **options)
            node.fault(node.name, call, "after")
            return answer

        return pass_on


class FakeAgents:
    """``FakeAgents("n1", "n2")`` or of nodes that were made with care."""

    def __init__(self, *nodes: str | FakeNode) -> None:
        made = [FakeNode(node) if isinstance(node, str) else node for node in nodes]
        self.nodes = {node.name: node for node in made}

    def names(self) -> tuple[str, ...]:
        return tuple(self.nodes)

    def agent(self, node: str) -> Any:  # an Agent, and everything that the node has
        if node not in self.nodes:
            raise NotFound(f"node {node!r} is not configured")
        return FakeAgent(self.nodes[node])

    def set_fault(self, fault: Fault) -> None:
        """The same on all nodes."""
        for node in self.nodes.values():
            node.fault = fault

    def volume_ids(self) -> list[str]:
        """What is there, on all nodes; one that is on two is there twice."""
        return [volume for node in self.nodes.values() for volume in node.volumes]

    def snapshot_ids(self) -> list[str]:
        return [snapshot for node in self.nodes.values() for snapshot in node.snapshots]
