"""The cut that a clone of a replicated volume is made of.

The replicas of a volume that is written have the same blocks only at one instant, and only those in
the in-sync set have all that was acknowledged. So such a clone is made of a snapshot that is cut
for it and removed afterwards. Its record stays CREATING: nobody is shown it, and the reconcile loop
removes one that nobody goes on with.

The clone's record names the cut before it is made. It counts once the record names nodes as well:
until then, what a call that was cut off has left of it may be half-made, and another one takes its
place. All replicas of a clone are made of the same cut, never one of them of the next.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cluster.agents import Agents
from cluster.cutting import Cutter
from cluster.errors import Conflict, NotFound, OutOfRange, Refused, Unavailable
from cluster.identifiers import Kind, key_of_id, new_id
from cluster.locks import ObjectLocks
from cluster.model import Phase, Snapshot, SourceKind, Volume
from cluster.placement import in_words
from cluster.records import Entry, snapshot_table, volume_table
from cluster.snapshots import SnapshotRemover
from cluster.store import Store


class CloneCuts:
    """The caller holds the clone's lock."""

    def __init__(self, store: Store, agents: Agents, locks: ObjectLocks) -> None:
        self._snapshots = snapshot_table(store)
        self._volumes = volume_table(store)
        self._cutter = Cutter(store, agents, locks)
        self._remover = SnapshotRemover(store, agents)
        self._locks = locks

    def needed(self, clone: Volume) -> bool:
        """Whether one has to be made before anything can be made on a node."""
        if clone.cut:
            return not (clone.nodes and self.find(clone))
        if clone.source is None or clone.source.kind is SourceKind.SNAPSHOT:
            return False
        source = self._volumes.find_id(clone.source.id)
        return source is not None and source.item.replication is not None

    def find(self, clone: Volume) -> Snapshot | None:
        """The cut that its record names, where that is there and was not given up."""
        entry = self._snapshots.find_id(clone.cut) if clone.cut else None
        return entry.item if entry is not None and entry.item.phase is Phase.CREATING else None

    @contextmanager
    def kept(self, clone: Volume) -> Iterator[None]:
        """The reconcile loop does not take it for given up meanwhile. Raises Busy."""
        keys = [key_of_id(clone.cut)] if clone.cut else []
        with self._locks.hold(*keys, purpose="a clone of it"):
            yield

    def renew(self, entry: Entry[Volume]) -> Entry[Volume]:
        """Cut anew, for a clone that no node has anything of; it becomes as large as its source.

        Raises Unavailable, Busy and what ``Cutter.cut`` raises.
        """
        self.drop(entry.item)
        source = entry.item.source
        assert source is not None
        name = f"{entry.item.id}/{secrets.token_hex(8)}"
        entry = self._volumes.update(entry, cut=new_id(Kind.SNAPSHOT, name))
        volume = self._volumes.ready(source.id).item
        with self.kept(entry.item), self._cutter.locked((volume,)):
            volume = self._volumes.ready(source.id).item  # as it is now that it is locked
            if 0 < entry.item.limit_bytes < volume.size_bytes:
                raise OutOfRange(
                    f"volume {volume.id} has grown to {in_words(volume.size_bytes)}: its clone may"
                    f" have {in_words(entry.item.limit_bytes)} at the most"
                )
            if volume.size_bytes > entry.item.size_bytes:
                entry = self._volumes.update(entry, size_bytes=volume.size_bytes)
            cut = Snapshot(
                id=entry.item.cut,
                name=name,
                volume_id=volume.id,
                size_bytes=volume.size_bytes,
                spec=self._cutter.spec_of(volume),
                phase=Phase.CREATING,
                nodes=self._cutter.nodes_of(volume),
                created_at=time.time(),
                clone_id=entry.item.id,
            )
            self._snapshots.create(cut)
            self._cutter.cut((cut,))
        return entry

    def drop(self, clone: Volume) -> None:
        """Remove the cut, if there is one; what cannot be reached is the reconcile loop's."""
        if not clone.cut:
            return
        with suppress(Unavailable, Refused, Conflict, NotFound):
            entry = self._snapshots.find_id(clone.cut)
            if entry is not None:
                self._remover.remove(entry)
