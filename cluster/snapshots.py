"""The workflows of snapshots of one volume. Each may be cut off at any point and repeated.

Every call may raise Busy, Conflict and Unavailable: then it is to be repeated. Sizes are bytes.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace

from cluster.agents import Agents, SnapshotReport, ask_all, configured
from cluster.cutting import Cutter
from cluster.errors import (
    AlreadyExists,
    Busy,
    ClusterError,
    DataLoss,
    InvalidArgument,
    NotFound,
    Refused,
    Unavailable,
)
from cluster.identifiers import Kind, key_of_id, key_of_name, new_id, require_id
from cluster.locks import ObjectLocks
from cluster.model import Phase, Snapshot, snapshot_from_json
from cluster.records import Entry, group_table, snapshot_table, volume_table
from cluster.store import Store


class SnapshotRemover:
    """Removes a snapshot, alone or with its group; the caller holds the lock of one of them."""

    def __init__(self, store: Store, agents: Agents) -> None:
        self._snapshots = snapshot_table(store)
        self._agents = agents

    def remove(self, entry: Entry[Snapshot]) -> tuple[str, ...]:
        """Delete the snapshot on its nodes, then its record; returns the nodes that are left.

        Of a replicated volume, a node that is down holds nobody up when another one has removed
        its part: the record stays, DELETING, for the nodes that are left, and the reconcile loop
        finishes it. Raises Unavailable when no node can be reached, and Refused when the snapshot
        is in use: then it stays where it is.
        """
        whole = entry.item.phase is Phase.READY
        if whole:
            entry = self._snapshots.update(entry, phase=Phase.DELETING)
        snapshot = entry.item
        answers = ask_all(
            self._agents,
            configured(self._agents, snapshot.nodes),
            lambda _, agent: agent.delete_snapshots((snapshot.id,), snapshot.spec.pool),
        )
        failures = {node: answer for node, answer in answers.items() if answer is not None}
        left = tuple(failures)
        for answer in failures.values():
            if isinstance(answer, Refused):
                if snapshot.spec.replicas > 1 and not (whole and left == snapshot.nodes):
                    # Parts of it are gone, and who asked for that may have been told so.
                    self._keep(entry, left)
                elif snapshot.phase is Phase.DELETING:
                    self._snapshots.update(entry, phase=Phase.READY)
                raise answer
        if not failures:
            self._snapshots.delete(entry)
            return ()
        only_silent = all(isinstance(answer, Unavailable) for answer in failures.values())
        if snapshot.spec.replicas > 1 and only_silent and not (whole and left == snapshot.nodes):
            self._keep(entry, left)
            return left
        texts = "; ".join(f"{node}: {answer}" for node, answer in failures.items())
        raise Unavailable(f"snapshot {snapshot.id} is not removed everywhere: {texts}")

    def _keep(self, entry: Entry[Snapshot], left: tuple[str, ...]) -> None:
        """For the nodes that are left, until they have confirmed that nothing is there."""
        if (entry.item.phase, entry.item.nodes) != (Phase.DELETING, left):
            self._snapshots.update(entry, phase=Phase.DELETING, nodes=left)


class Snapshots:
    def __init__(self, store: Store, agents: Agents, locks: ObjectLocks) -> None:
        self._table = snapshot_table(store)
        self._volumes = volume_table(store)
        self._groups = group_table(store)
        self._agents = agents
        self._locks = locks
        self._cutter = Cutter(store, agents, locks)
        self._remover = SnapshotRemover(store, agents)

    def create(self, name: str, volume_id: str) -> Snapshot:
        """Idempotent by name.

        Raises NotFound (volume), AlreadyExists when that name is a snapshot of another volume,
        and NoSpace, Refused when it cannot be made: then nothing of it remains.
        """
        require_id(Kind.VOLUME, volume_id, "source_volume_id")
        with self._locks.hold(key_of_name(Kind.SNAPSHOT, name), purpose="creation"):
            entry = self._table.find(key_of_name(Kind.SNAPSHOT, name))
            if entry is not None and entry.item.phase is not Phase.DELETING:
                if entry.item.volume_id != volume_id:
                    raise AlreadyExists(
                        f"snapshot {name!r} exists already, of volume {entry.item.volume_id}"
                    )
                if entry.item.phase is Phase.READY:
                    return entry.item
                if self._is_where_it_was(entry.item):
                    return self._cut(entry)
            if entry is not None:
                # Of several replicas, what an earlier call has cut may be of another instant; and
                # where there was one, there may be none now, or one that lacks what came since.
                self._clear(entry)
            volume = self._volumes.ready(volume_id).item
            with self._cutter.locked((volume,)):
                # Read again: it may have been changed before it was locked.
                snapshot = self._new_snapshot(name, volume_id)
                return self._cut(self._table.create(snapshot))

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

    def _is_where_it_was(self, snapshot: Snapshot) -> bool:
        """Whether its volume had one replica when an earlier call began, and has that one only."""
        entry = self._volumes.find_id(snapshot.volume_id)
        return (
            snapshot.spec.replicas == 1
            and entry is not None
            and entry.item.replication is None
            and entry.item.nodes == snapshot.nodes
        )

    def _new_snapshot(self, name: str, volume_id: str) -> Snapshot:
        volume = self._volumes.ready(volume_id).item
        return Snapshot(
            id=new_id(Kind.SNAPSHOT, name),
            name=name,
            volume_id=volume_id,
            size_bytes=volume.size_bytes,
            spec=self._cutter.spec_of(volume),
            phase=Phase.CREATING,
            nodes=self._cutter.nodes_of(volume),
        )

    def _clear(self, entry: Entry[Snapshot]) -> None:
        """Remove what has that name still. Raises Unavailable while a node may have parts of it."""
        left = self._remover.remove(entry)
        if left:
            raise Unavailable(
                f"a former snapshot {entry.item.id} of that name is left on {', '.join(left)}:"
                " repeat when that is back, or take another name"
            )

    def _cut(self, entry: Entry[Snapshot]) -> Snapshot:
        wanted = replace(entry.item, created_at=time.time())
        try:
            report = self._cutter.cut((wanted,))[wanted.id]
        except ClusterError as error:
            repeated = isinstance(error, (Unavailable, Busy))
            if repeated and wanted.spec.replicas == 1:
                raise  # what was cut, if anything was, is found by the next call
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
