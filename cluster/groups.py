"""The workflows of group snapshots: several volumes cut at one instant.

On one node the agent does that by itself; ``cutting.py`` does it on several, and on all replicas of
replicated volumes. A group that was cut off half-way is removed and cut anew, never completed.

Every call may raise Busy, Conflict and Unavailable: then it is to be repeated.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

from cluster.agents import Agents
from cluster.cutting import Cutter
from cluster.errors import (
    AlreadyExists,
    ClusterError,
    InvalidArgument,
    NotFound,
    Refused,
    Unavailable,
)
from cluster.identifiers import Kind, key_of_id, key_of_name, new_id, require_id
from cluster.locks import ObjectLocks
from cluster.model import Group, Phase, Snapshot, Volume
from cluster.records import Entry, group_table, snapshot_table, volume_table
from cluster.snapshots import SnapshotRemover
from cluster.store import Store


class Groups:
    def __init__(self, store: Store, agents: Agents, locks: ObjectLocks) -> None:
        self._groups = group_table(store)
        self._snapshots = snapshot_table(store)
        self._volumes = volume_table(store)
        self._agents = agents
        self._locks = locks
        self._cutter = Cutter(store, agents, locks)
        self._remover = SnapshotRemover(store, agents)

    def create(self, name: str, volume_ids: Sequence[str]) -> tuple[Group, tuple[Snapshot, ...]]:
        """Idempotent by name; the order of the volumes does not matter.

        Raises NotFound (a volume), AlreadyExists when that name is a group of other volumes, and
        what the agents raise when it cannot be cut: then nothing of it remains.
        """
        wanted = _wanted(volume_ids)
        key = key_of_name(Kind.GROUP, name)
        with self._locks.hold(key, purpose="creation"):
            entry = self._groups.find(key)
            if entry is not None and entry.item.phase is not Phase.DELETING:
                if entry.item.volume_ids != wanted:
                    raise AlreadyExists(f"group {name!r} exists already, of other volumes")
                if entry.item.phase is Phase.READY:
                    return entry.item, self._members(entry.item)
            if entry is not None:
                self.remove(entry)
            volumes = [self._volumes.ready(volume_id).item for volume_id in wanted]
            with self._cutter.locked(volumes):
                group, members = _new_group(name, volumes, self._cutter)
                return self._cut(self._groups.create(group), members)

    def delete(self, group_id: str, snapshot_ids: Sequence[str]) -> None:
        """Delete the group and all its snapshots. A group that is not there is success.

        Raises InvalidArgument when ``snapshot_ids``, if any, are not those of the group.
        """
        try:
            require_id(Kind.GROUP, group_id, "group_snapshot_id")
        except NotFound:
            return
        with self._locks.hold(key_of_id(group_id), purpose="deletion"):
            entry = self._groups.find_id(group_id)
            if entry is not None:
                _require_members(entry.item, snapshot_ids)
                self.remove(entry)

    def get(self, group_id: str, snapshot_ids: Sequence[str]) -> tuple[Group, tuple[Snapshot, ...]]:
        """Raises NotFound, InvalidArgument as ``delete``."""
        group = self._groups.ready(require_id(Kind.GROUP, group_id, "group_snapshot_id")).item
        _require_members(group, snapshot_ids)
        return group, self._members(group)

    def remove(self, entry: Entry[Group]) -> None:
        """Delete its snapshots, then its record. The caller holds the group's lock.

        Raises Unavailable when a node cannot be reached, Refused when a snapshot is in use there.
        """
        if entry.item.phase is Phase.READY:
            entry = self._groups.update(entry, phase=Phase.DELETING)
        for snapshot_id in entry.item.snapshot_ids:
            member = self._snapshots.find_id(snapshot_id)
            if member is not None:
                self._remover.remove(member)
        self._groups.delete(entry)

    def _members(self, group: Group) -> tuple[Snapshot, ...]:
        return tuple(self._snapshots.ready(snapshot_id).item for snapshot_id in group.snapshot_ids)

    def _cut(
        self, entry: Entry[Group], members: tuple[Snapshot, ...]
    ) -> tuple[Group, tuple[Snapshot, ...]]:
        intents = [self._snapshots.create(member) for member in members]
        try:
            reports = self._cutter.cut(members)
        except ClusterError:
            with suppress(Unavailable, Refused):  # the reconcile loop removes what is left
                self.remove(entry)
            raise
        ready = tuple(
            self._snapshots.update(
                intent, phase=Phase.READY, size_bytes=reports[intent.item.id].size_bytes
            ).item
            for intent in intents
        )
        return self._groups.update(entry, phase=Phase.READY).item, ready


def _wanted(volume_ids: Sequence[str]) -> tuple[str, ...]:
    if not volume_ids:
        raise InvalidArgument("source_volume_ids are missing")
    wanted = {require_id(Kind.VOLUME, volume_id, "source_volume_ids") for volume_id in volume_ids}
    if len(wanted) < len(volume_ids):
        raise InvalidArgument("source_volume_ids names a volume twice")
    return tuple(sorted(wanted))


def _new_group(
    name: str, volumes: Iterable[Volume], cutter: Cutter
) -> tuple[Group, tuple[Snapshot, ...]]:
    group_id = new_id(Kind.GROUP, name)
    now = time.time()
    members = tuple(
        Snapshot(
            id=new_id(Kind.SNAPSHOT, f"{group_id}/{volume.id}"),
            name=f"{group_id}/{volume.id}",
            volume_id=volume.id,
            size_bytes=volume.size_bytes,
            spec=cutter.spec_of(volume),
            phase=Phase.CREATING,
            nodes=cutter.nodes_of(volume),
            group_id=group_id,
            created_at=now,
        )
        for volume in volumes
    )
    group = Group(
        id=group_id,
        name=name,
        volume_ids=tuple(member.volume_id for member in members),
        snapshot_ids=tuple(member.id for member in members),
        phase=Phase.CREATING,
        created_at=now,
    )
    return group, members


def _require_members(group: Group, snapshot_ids: Sequence[str]) -> None:
    """CSI 1.13, DeleteVolumeGroupSnapshot, "Snapshot list mismatch"."""
    if snapshot_ids and set(snapshot_ids) != set(group.snapshot_ids):
        raise InvalidArgument(f"snapshot_ids are not those of group {group.id}")
