"""What is on this node, as the controller and people see it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from cluster.agents import Inventory, PoolReport, ReplicaReport, SnapshotReport, VolumeReport
from cluster.model import ENCRYPTION_BYTES
from host.boot import boot_id
from host.command import Runner
from host.mount_table import Mount, mounts_from
from node_agent import health, replica_status
from node_agent.config import NodeConfig
from node_agent.devices import Devices, volume_of_source
from node_agent.entries import Entry
from node_agent.health import Problem
from node_agent.labels import Kind, State
from node_agent.logical_volumes import LogicalVolumes
from node_agent.pool_report import ThinUsage
from node_agent.replicas import Replicas
from node_agent.targets import Targets
from node_agent.version import VERSION

_log = logging.getLogger(__name__)
_OURS = "/dev/mapper/xlss-"


def mounts_by_volume() -> dict[str, list[Mount]]:
    """All mounts of our volumes' file systems, from one look at the mount table."""
    found: dict[str, list[Mount]] = {}
    for mount in mounts_from(_OURS):
        if volume_id := volume_of_source(mount.source):
            found.setdefault(volume_id, []).append(mount)
    return found


class Reporter:
    """Makes reports of what ``LogicalVolumes`` remembers and the kernel says. Starts no command,
    unless it says so."""

    def __init__(
        self,
        config: NodeConfig,
        volumes: LogicalVolumes,
        devices: Devices,
        targets: Targets,
        runner: Runner,
        replicas: Replicas | None = None,
    ) -> None:
        self._config = config
        self._volumes = volumes
        self._devices = devices
        self._targets = targets
        self._runner = runner
        self._replicas = replicas

    def inventory(self) -> Inventory:
        trouble = self._replicas.trouble if self._replicas is not None else ""
        return Inventory(
            node=self._config.name,
            boot_id=boot_id(),
            topology=self._config.segments,
            pools=self.pools(),
            volumes=self.volumes(),
            snapshots=tuple(map(self.snapshot, self._volumes.entries(Kind.SNAPSHOT))),
            foreign=self._volumes.foreign(),
            stuck_commands=self._runner.stuck,
            version=VERSION,
            replication_address="" if trouble else self._config.replication_address,
            replication_trouble=trouble,
        )

    def pools(self) -> tuple[PoolReport, ...]:
        return self._volumes.reports()

    def volumes(self) -> tuple[VolumeReport, ...]:
        mounts = mounts_by_volume()
        staged = self._devices.staged_ids()
        usages: dict[str, ThinUsage | None] = {}
        return tuple(
            self._volume(entry, mounts, entry.label.id in staged, usages)
            for entry in self._volumes.entries(Kind.VOLUME)
        )

    def volume(self, entry: Entry) -> VolumeReport:
        """One volume."""
        active = self._devices.face(entry.label.id) is not None
        return self._volume(entry, mounts_by_volume(), active, {})

    def snapshot(self, entry: Entry) -> SnapshotReport:
        record = _fields(entry)
        return SnapshotReport(
            id=entry.label.id,
            volume_id=str(record.get("volume_id", "")),
            size_bytes=_volume_bytes(entry, record),
            pool=entry.pool.name,
            record=entry.label.record,
            complete=entry.label.state is not State.FILLING,
        )

    def problems(self, entry: Entry) -> list[Problem]:
        """Everything that is wrong with one volume; reads from its device if it is staged."""
        mounts = mounts_by_volume().get(entry.label.id, [])
        status = self._volumes.status(entry.pool.name)
        found = health.problems(entry, status, self._volumes.usage(entry.pool), mounts)
        replica = self._replica(entry)
        if replica is not None:
            found += replica_status.problems(replica)
        top = self._devices.top(entry.label.id)
        # A read of what DRBD holds back would hang, and tell nothing new.
        if top is not None and not (replica is not None and replica.frozen):
            found += health.answers(self._runner, self._devices.path_of(top))
        return found

    def _replica(self, entry: Entry) -> ReplicaReport | None:
        if not is_replicated(entry):
            return None
        if self._replicas is None:
            return ReplicaReport(doing="this node has no arbiters in its configuration")
        return self._replicas.report(entry.label.id)

    def _volume(
        self,
        entry: Entry,
        mounts: Mapping[str, list[Mount]],
        active: bool,
        usages: dict[str, ThinUsage | None],
    ) -> VolumeReport:
        volume_id, label = entry.label.id, entry.label
        if entry.thin and entry.pool.name not in usages:
            usages[entry.pool.name] = self._volumes.usage(entry.pool)
        own = mounts.get(volume_id, [])
        usage = usages.get(entry.pool.name) if entry.thin else None
        status = self._volumes.status(entry.pool.name)
        found = health.problems(entry, status, usage, own)
        if (replica := self._replica(entry)) is not None:
            found += replica_status.problems(replica)
        record = _fields(entry)
        size = _volume_bytes(entry, record)
        blocks = [target.path for target in self._targets.of(volume_id) if target.block]
        return VolumeReport(
            id=volume_id,
            size_bytes=size,
            pool=entry.pool.name,
            record=label.record,
            # An agent killed between a cut and the growth to the wanted size leaves it smaller.
            complete=label.state is not State.FILLING and size >= int(record.get("size_bytes", 0)),
            used=label.state is State.USED,
            active=active,
            mounts=(*(mount.path for mount in own), *blocks),
            health=health.worst(found),
            trouble=health.in_words(found),
            allocated_bytes=entry.seen.allocated_bytes if entry.thin and entry.seen else 0,
            logical_volume_uuid=entry.seen.uuid if entry.seen else "",
            replica=replica,
        )


def is_replicated(entry: Entry) -> bool:
    """By its record."""
    return _fields(entry).get("replication") is not None


def _fields(entry: Entry) -> dict[str, Any]:
    """The record as it is: a damaged one must not hide the volume from the inventory."""
    try:
        record = json.loads(entry.label.record)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _volume_bytes(entry: Entry, record: Mapping[str, Any]) -> int:
    """What a pod sees of it."""
    encrypted = bool(record.get("spec", {}).get("encrypted"))
    return entry.usable_bytes - (ENCRYPTION_BYTES if encrypted else 0)
