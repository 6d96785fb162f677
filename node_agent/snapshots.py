"""The local life of snapshots: cut one by one or all at one instant, and removed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from cluster.errors import AlreadyExists, Busy, Unavailable
from cluster.locks import Locks
from cluster.model import Snapshot, snapshot_from_json, to_json
from host import errors as host
from node_agent.cuts import Cuts
from node_agent.entries import Entry
from node_agent.jobs import Jobs
from node_agent.labels import Kind, Label, State
from node_agent.logical_volumes import LogicalVolumes
from node_agent.suspensions import Suspensions
from node_agent.volumes import NodeVolumes

_log = logging.getLogger(__name__)


class NodeSnapshots:
    def __init__(
        self,
        volumes: NodeVolumes,
        logical: LogicalVolumes,
        cuts: Cuts,
        locks: Locks,
        jobs: Jobs,
    ) -> None:
        self._volumes = volumes
        self._logical = logical
        self._cuts = cuts
        self._locks = locks
        self._jobs = jobs
        self._suspensions = Suspensions(cuts, locks)

    def suspend(self, volume_ids: Sequence[str], seconds: float) -> str:
        """See ``Suspensions.begin``. Raises NotFound, Unavailable, Busy."""
        entries = [self._volumes.require_complete(volume_id) for volume_id in volume_ids]
        return self._suspensions.begin(entries, seconds)

    def resume(self, suspension: str) -> bool:
        return self._suspensions.end(suspension)

    def create(self, wanted: Sequence[Snapshot], suspension: str = "") -> tuple[Entry, ...]:
        """Cut them, all at one instant, or adopt those that are there.

        Raises NotFound, NoSpace, AlreadyExists, Refused (the suspension), Busy, Unavailable.
        """
        volume_ids = [snapshot.volume_id for snapshot in wanted]
        with ExitStack() as stack:
            ids = [snapshot.id for snapshot in wanted]
            stack.enter_context(self._locks.hold(*ids, purpose="their creation"))
            if suspension:
                cut = stack.enter_context(self._suspensions.within(suspension, volume_ids))
                return self._cut_within(wanted, cut)
            present = [self._present(snapshot) for snapshot in wanted]
            if all(entry is not None for entry in present):
                return tuple(entry for entry in present if entry is not None)
            stack.enter_context(self._locks.hold(*volume_ids, purpose="a snapshot of it"))
            return self._cut_together(wanted)

    def delete(self, snapshot_ids: Sequence[str], pool_name: str) -> None:
        """Those that are not in their pool, "" for any, are success.

        Raises Busy while one is being copied, Unavailable.
        """
        with self._locks.hold(*snapshot_ids, purpose="their deletion"):
            for snapshot_id in snapshot_ids:
                if reader := self._jobs.reader_of(snapshot_id):
                    raise Busy(f"snapshot {snapshot_id} is being read: {reader}")
                entry = self._logical.locate(Kind.SNAPSHOT, snapshot_id, pool_name)
                if entry is not None:
                    self._logical.remove(entry)

    def remove_half_made(self) -> None:
        """At the start: members of groups that an earlier agent did not finish."""
        for seen in self._logical.entries(Kind.SNAPSHOT):
            snapshot_id = seen.label.id
            with suppress(Busy), self._locks.hold(snapshot_id, purpose="clearing up"):
                entry = self._logical.find(Kind.SNAPSHOT, snapshot_id)
                if entry is not None and entry.label.state is State.FILLING:
                    self._remove_quietly(entry)

    def _present(self, snapshot: Snapshot) -> Entry | None:
        """A snapshot that is there and whole; one that is half-made is removed."""
        entry = self._logical.find(Kind.SNAPSHOT, snapshot.id)
        if entry is None:
            return None
        if snapshot_from_json(entry.label.record).volume_id != snapshot.volume_id:
            raise AlreadyExists(f"snapshot {snapshot.id} is there, of another volume")
        if entry.label.state is State.FILLING:
            self._logical.remove(entry)
            return None
        return entry

    def _cut_together(self, wanted: Sequence[Snapshot]) -> tuple[Entry, ...]:
        sources = [self._volumes.require_complete(snapshot.volume_id) for snapshot in wanted]
        if len(wanted) == 1:
            return (self._take(wanted[0], sources[0], whole=True),)
        for snapshot in wanted:
            # What is there was cut in an attempt that did not finish: at another instant.
            if (stale := self._logical.find(Kind.SNAPSHOT, snapshot.id)) is not None:
                self._logical.remove(stale)
        made: list[Entry] = []
        try:
            with self._cuts.still(sources) as hold:
                for snapshot, source in zip(wanted, sources, strict=True):
                    made.append(self._take(snapshot, source, whole=False))
            if not hold.held:
                raise Unavailable("I/O was not held still to the end; repeat the request")
        except BaseException:
            for entry in made:
                self._remove_quietly(entry)
            raise
        # Only now are they known to be of one instant.
        return tuple(
            self._logical.relabel(entry, entry.label.with_state(source.label.state))
            for entry, source in zip(made, sources, strict=True)
        )

    def _cut_within(self, wanted: Sequence[Snapshot], cut: set[str]) -> tuple[Entry, ...]:
        made = []
        for snapshot in wanted:
            source = self._volumes.require_complete(snapshot.volume_id)
            entry = self._present(snapshot)
            if entry is not None and snapshot.id not in cut:
                self._logical.remove(entry)  # of an earlier attempt, another instant
                entry = None
            made.append(entry or self._take(snapshot, source, whole=True, frozen=True))
            cut.add(snapshot.id)
        return tuple(made)

    def _take(
        self, snapshot: Snapshot, source: Entry, *, whole: bool, frozen: bool = False
    ) -> Entry:
        label = Label(
            id=snapshot.id,
            kind=Kind.SNAPSHOT,
            state=source.label.state if whole else State.FILLING,
            unique=source.label.unique,
            record=to_json(snapshot),
        )
        take = self._cuts.cut if whole and not frozen else self._cuts.take
        try:
            return take(source, label)
        except host.AlreadyExists:
            # An answer of LVM was lost: it is there. Whoever repeats the request finds it.
            self._logical.look(source.pool.name)
            found = self._logical.find(Kind.SNAPSHOT, snapshot.id)
            if found is None or not whole:
                raise Unavailable(f"snapshot {snapshot.id} was there already; repeat") from None
            return found

    def _remove_quietly(self, entry: Entry) -> None:
        try:
            self._logical.remove(entry)
        except (host.HostError, Unavailable) as error:
            _log.warning("cannot remove %s/%s: %s", entry.group, entry.name, error)
