"""The workflows of snapshots of one volume. Each may be cut off at any point and repeated.

Every call may raise Busy, Conflict and Unavailable: then it is to be repeated. Sizes are bytes.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace

from cluster.agents import Agents, SnapshotReport, ask_all
from cluster.errors import (
    AlreadyExists,
    Busy,
    ClusterError,
    DataLoss,
    InvalidArgument,
    NotFound,
    Refused,
    Unavailable,
    Unsupported,
)
from cluster.identifiers import Kind, key_of_id, key_of_name, new_id, require_id
from cluster.locks import ObjectLocks
from cluster.model import Phase, Snapshot, Volume, snapshot_from_json
from cluster.records import Entry, group_table, snapshot_table, volume_table
from cluster.store import Store


def require_one_replica(volume: Volume) -> None:
    """Raises Unsupported: a cut through several replicas at one instant is not there yet."""
    if volume.spec.replicas > 1:
        raise Unsupported(
            f"volume {volume.id} has {volume.spec.replicas} replicas: snapshots of replicated"
            " volumes are not supported yet"
        )


class SnapshotRemover:
    """Removes a snapshot, alone or with its group; the caller holds the lock of one of them."""

    def __init__(self, store: Store, agents: Agents) -> None:
        self._snapshots = snapshot_table(store)
        self._agents = agents

    def remove(self, entry: Entry[Snapshot]) -> None:
        """Delete the snapshot on its nodes, then its record.

        Raises Unavailable when a node cannot be reached, and Refused when the snapshot is in use
        there: then it is as it was before.
        """
        if entry.item.phase is Phase.READY:
            entry = self._snapshots.update(entry, phase=Phase.DELETING)
        snapshot = entry.item
        answers = ask_all(
            self._agents, snapshot.nodes, lambda _, agent: agent.delete_snapshots((snapshot.id,))
        )
        for node, answer in answers.items():
            if isinstance(answer, Refused):
                if snapshot.phase is Phase.DELETING:
                    self._snapshots.update(entry, phase=Phase.READY)
                raise answer
            if answer is not None and not isinstance(answer, NotFound):
                raise Unavailable(f"snapshot {snapshot.id} is not removed on {node}: {answer}")
        self._snapshots.delete(entry)


class Snapshots:
    def __init__(self, store: Store, agents: Agents, locks: ObjectLocks) -> None:
        self._table = snapshot_table(store)
        self._volumes = volume_table(store)
        self._groups = group_table(store)
        self._agents = agents
        self._locks = locks
        self._remover = SnapshotRemover(store, agents)

    def create(self, name: str, volume_id: str) -> Snapshot:
        """Idempotent by name.

        Raises NotFound (volume), AlreadyExists when that name is a snapshot of another volume,
        and NoSpace, Refused when it cannot be made: then nothing of it remains.
        """
        require_id(Kind.VOLUME, volume_id, "source_volume_id")
        with self._locks.hold(key_of_name(Kind.SNAPSHOT, name), purpose="creation"):
            entry = self._table.find(key_of_name(Kind.SNAPSHOT, name))
            if entry is not None and entry.item.phase is Phase.DELETING:
                self._remover.remove(entry)
                entry = None
            if entry is None:
                entry = self._table.create(self._new_snapshot(name, volume_id))
            elif entry.item.volume_id != volume_id:
                raise AlreadyExists(
                    f"snapshot {name!r} exists already, of volume {entry.item.volume_id}"
                )
            return entry.item if entry.item.phase is Phase.READY else self._cut(entry)

    def delete(self, snapshot_id: str) -> None:
        """A snapshot that is not there is success.

        Raises Refused while it is in use, InvalidArgument for a member of a group (CSI 1.13,
        DeleteSnapshot, "Snapshot is part of a group").
        """
        try:
            require_id(Kind.SNAPSHOT, snapshot_id, "snapshot_id")
        except NotFound:
            return
        with self._locks.hold(key_of_id(snapshot_id), purpose="deletion"):
            entry = self._table.find_id(snapshot_id)
            if entry is None:
                return
            group_id = entry.item.group_id
            if group_id and self._groups.find_id(group_id) is not None:
                raise InvalidArgument(
                    f"snapshot {snapshot_id} is part of group {group_id}: delete that"
                )
            self._remover.remove(entry)

    def get(self, snapshot_id: str) -> Snapshot:
        """Raises NotFound, also for a snapshot that is half-made or being deleted."""
        return self._table.ready(require_id(Kind.SNAPSHOT, snapshot_id, "snapshot_id")).item

    def list(
        self, *, after: str = "", limit: int = 0, volume_id: str = "", snapshot_id: str = ""
    ) -> tuple[list[Snapshot], str]:
        """A page of snapshots and the token of the next one: see ``Table.page``.

        ``volume_id`` and ``snapshot_id`` restrict it; one that does not exist gives an empty page.
        """
        if snapshot_id:
            with suppress(NotFound):
                snapshot = self.get(snapshot_id)
                if volume_id in ("", snapshot.volume_id):
                    return [snapshot], ""
            return [], ""
        return self._table.page(after, limit, lambda item: volume_id in ("", item.volume_id))

    def _new_snapshot(self, name: str, volume_id: str) -> Snapshot:
        volume = self._volumes.ready(volume_id).item
        require_one_replica(volume)
        return Snapshot(
            id=new_id(Kind.SNAPSHOT, name),
            name=name,
            volume_id=volume_id,
            size_bytes=volume.size_bytes,
            spec=volume.spec,
            phase=Phase.CREATING,
            nodes=volume.nodes,
        )

    def _cut(self, entry: Entry[Snapshot]) -> Snapshot:
        wanted = replace(entry.item, created_at=time.time())
        try:
            (report,) = self._agents.agent(wanted.nodes[0]).create_snapshots((wanted,))
        except (Unavailable, Busy):
            raise
        except ClusterError:
            with suppress(Unavailable, Refused):  # the reconcile loop removes what is left
                self._remover.remove(entry)
            raise
        ready = self._table.update(
            entry,
            phase=Phase.READY,
            size_bytes=report.size_bytes,
            created_at=time_of_cut(report, wanted),
        )
        return ready.item


def time_of_cut(report: SnapshotReport, wanted: Snapshot) -> float:
    """When it was cut: an earlier call's time, when this one found what that had made."""
    try:
        return snapshot_from_json(report.record).created_at
    except DataLoss:
        return wanted.created_at
