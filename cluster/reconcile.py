"""Comparing the store with what the nodes have, and mending what can be mended without a doubt.

Mended: deletions and creations that nobody goes on with, leftovers, sizes that have grown, limits
that a node has missed. Only reported, for a person to decide: logical volumes that no record knows,
records whose logical volume is gone, what is not ours. Nothing is ever deleted that the store does
not name.

A comparison never races with the workflows. Records that changed since before the inventories were
asked for are left to the next run; whatever is mended is read again under the object's lock, and
left alone when it has changed or somebody works on it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from cluster.agents import Agent, Agents, Inventory, SnapshotReport, VolumeReport, ask_all
from cluster.clones import CloneCuts
from cluster.creation import VolumeMaker
from cluster.differences import Difference, DifferenceKind, not_configured, orphan, removed
from cluster.errors import Busy, ClusterError
from cluster.groups import Groups
from cluster.identifiers import key_of_id
from cluster.locks import ObjectLocks
from cluster.memberships import Memberships
from cluster.model import Group, Phase, Snapshot, Volume, volume_from_json
from cluster.pools import PoolLedger
from cluster.records import Entry, Table, group_table, snapshot_table, volume_table
from cluster.removal import VolumeRemover
from cluster.replicas import Slots, holds_slot
from cluster.snapshots import SnapshotRemover
from cluster.store import RecordKind, Store

_log = logging.getLogger(__name__)
_T = TypeVar("_T", Volume, Snapshot, Group)


@dataclass(frozen=True)
class _Picture:
    """The records at one revision, and what the nodes had after that."""

    volumes: Mapping[str, Entry[Volume]]  # by identifier
    snapshots: Mapping[str, Entry[Snapshot]]
    groups: Mapping[str, Entry[Group]]
    inventories: Mapping[str, Inventory]
    silent: frozenset[str]  # configured nodes that did not answer
    changed: frozenset[str]  # keys of what changed meanwhile: the inventories say nothing of it
    volume_reports: Mapping[tuple[str, str], VolumeReport]  # by node and identifier
    snapshot_reports: Mapping[tuple[str, str], SnapshotReport]

    def settled(self, identifier: str) -> bool:
        return key_of_id(identifier) not in self.changed

    def out_of_reach(self, nodes: Collection[str]) -> bool:
        """Whether none of them answered: each would cost the others of this run its deadline."""
        return bool(nodes) and self.silent.issuperset(nodes)


class Reconciler:
    """``grace_seconds``: how long a creation may lie still before it counts as given up.

    Well over the 5 minutes that the sidecars wait between two repetitions at the most: a long copy
    goes on meanwhile, and must not be taken away from under them.
    """

    def __init__(
        self,
        store: Store,
        agents: Agents,
        pools: PoolLedger,
        locks: ObjectLocks,
        *,
        grace_seconds: float = 900.0,
    ) -> None:
        self._store = store
        self._agents = agents
        self._pools = pools
        self._locks = locks
        self._grace_seconds = grace_seconds
        self._volumes = volume_table(store)
        self._snapshots = snapshot_table(store)
        self._groups = group_table(store)
        self._memberships = Memberships(store)
        self._slots = Slots(store)
        self._maker = VolumeMaker(store, agents, pools, locks)
        self._volume_remover = VolumeRemover(store, agents, CloneCuts(store, agents, locks))
        self._remover = SnapshotRemover(store, agents)
        self._group_workflows = Groups(store, agents, locks)
        self._one_run = threading.Lock()
        self._last: tuple[Difference, ...] = ()
        self._last_at: float | None = None

    @property
    def differences(self) -> tuple[Difference, ...]:
        """What the last run found."""
        return self._last

    def compared_seconds_ago(self) -> float | None:
        """When the last run ended; None before the first."""
        return None if self._last_at is None else time.monotonic() - self._last_at

    def run_once(self) -> tuple[Difference, ...]:
        """Compare, mend and report.

        Raises Unavailable and DataLoss when the store fails, RevisionExpired when it has changed
        too much meanwhile.
        """
        with self._one_run:
            found = list(self._run())
            for difference in found:
                if difference in self._last:
                    continue
                _log.warning(
                    "%s on %s: %s",
                    difference.kind,
                    difference.node or "no node",
                    difference.text,
                    extra={"object": difference.object_id, "mended": difference.mended},
                )
            self._last, self._last_at = tuple(found), time.monotonic()
            self._locks.forget_idle(self._grace_seconds)
            return self._last

    def _run(self) -> Iterator[Difference]:
        picture, unreachable = self._look()
        yield from unreachable
        for node, inventory in picture.inventories.items():
            yield from self._unknown(node, inventory, picture)
        for volume in picture.volumes.values():
            yield from self._volume(volume, picture)
        for group in picture.groups.values():
            yield from self._group(group, picture)
        for snapshot in picture.snapshots.values():
            yield from self._snapshot(snapshot, picture)
        yield from self._ownerless()

    def _look(self) -> tuple[_Picture, list[Difference]]:
        volumes, volumes_at = self._volumes.list()
        snapshots, snapshots_at = self._snapshots.list()
        groups, groups_at = self._groups.list()
        ticket = self._pools.ticket()

        def ask(node: str, agent: Agent) -> Inventory:
            inventory = agent.inventory()
            # At once: creations must not wait until a node that hangs has had its time, too.
            self._pools.observe(node, inventory, ticket)
            return inventory

        answers = ask_all(self._agents, self._agents.names(), ask)
        inventories: dict[str, Inventory] = {}
        unreachable: list[Difference] = []
        for node, answer in answers.items():
            if isinstance(answer, ClusterError):
                self._pools.observe(node, answer, ticket)
                unreachable.append(Difference(DifferenceKind.UNREACHABLE, node, "", str(answer)))
            elif answer.node != node:
                text = f"it is {answer.node}"
                unreachable.append(Difference(DifferenceKind.UNREACHABLE, node, "", text))
            else:
                inventories[node] = answer
        changed: set[str] = set()
        for kind, revision in (
            (RecordKind.VOLUME, volumes_at),
            (RecordKind.SNAPSHOT, snapshots_at),
            (RecordKind.GROUP, groups_at),
        ):
            changed |= self._changed_since(kind, revision)
        seen = inventories.items()
        picture = _Picture(
            {entry.item.id: entry for entry in volumes},
            {entry.item.id: entry for entry in snapshots},
            {entry.item.id: entry for entry in groups},
            inventories,
            frozenset(answers.keys() - inventories.keys()),
            frozenset(changed),
            {(node, volume.id): volume for node, all_ in seen for volume in all_.volumes},
            {(node, cut.id): cut for node, all_ in seen for cut in all_.snapshots},
        )
        return picture, unreachable

    def _changed_since(self, kind: RecordKind, revision: int) -> set[str]:
        return {event.record.key for event in self._store.watch(kind, revision, timeout=0)}

    def _unknown(self, node: str, inventory: Inventory, picture: _Picture) -> Iterator[Difference]:
        for name in inventory.foreign:
            yield Difference(DifferenceKind.FOREIGN, node, name, f"{name} is not ours")
        for volume in inventory.volumes:
            known = picture.volumes.get(volume.id)
            places = () if known is None else (*known.item.nodes, *known.item.leftovers)
            if node not in places and picture.settled(volume.id):
                yield orphan(node, "volume", volume.id)
        for snapshot in inventory.snapshots:
            cut = picture.snapshots.get(snapshot.id)
            if (cut is None or node not in cut.item.nodes) and picture.settled(snapshot.id):
                yield orphan(node, "snapshot", snapshot.id)

    def _volume(self, entry: Entry[Volume], picture: _Picture) -> Iterator[Difference]:
        volume = entry.item
        if not picture.settled(volume.id):
            return
        out_of_reach = picture.out_of_reach((*volume.nodes, *volume.leftovers))
        match volume.phase:
            case Phase.DELETING:
                yield from self._finish(
                    self._volumes, entry, self._remove_volume, DifferenceKind.DELETING, out_of_reach
                )
            case Phase.CREATING if self._given_up(entry.key):
                yield from self._finish(
                    self._volumes,
                    entry,
                    self._remove_volume,
                    DifferenceKind.HALF_MADE,
                    out_of_reach,
                )
            case Phase.READY:
                if volume.leftovers:
                    yield from self._finish(
                        self._volumes,
                        entry,
                        self._remove_leftovers,
                        DifferenceKind.LEFTOVER,
                        picture.out_of_reach(volume.leftovers),
                    )
                yield from self._replicated(entry)
                reports = {
                    node: picture.volume_reports.get((node, volume.id)) for node in volume.nodes
                }
                for node, report in reports.items():
                    if node in picture.inventories:
                        yield from self._replica(entry, node, report, _least(reports.values()))
                    elif node not in picture.silent:
                        yield not_configured(node, "volume", volume)

    def _replicated(self, entry: Entry[Volume]) -> Iterator[Difference]:
        """Its membership record is read again: it may have come since the picture was taken."""
        volume = entry.item
        if volume.replication is not None and self._memberships.find(volume.id) is None:
            text = (
                f"volume {volume.id} ({volume.name}) is replicated and has no membership record:"
                " it cannot be published until its nodes have reported, or a person decides"
            )
            _log.error(text, extra={"object": volume.id})
            yield Difference(DifferenceKind.NO_MEMBERSHIP, "", volume.id, text)

    def _ownerless(self) -> Iterator[Difference]:
        """Membership records and slots whose volume is gone: nobody else would remove them.

        The volume's record comes before them and goes after them, so one that is not there now
        will not come any more: identifiers are not used twice.
        """
        for volume_id, _ in self._memberships.list()[0]:
            with _next_time(volume_id):
                if self._volumes.find_id(volume_id) is None:
                    self._memberships.delete(volume_id)
                    yield removed(volume_id, f"membership record of {volume_id}, which is gone")
        for number, volume_id in self._slots.list().items():
            with _next_time(volume_id):
                owner = self._volumes.find_id(volume_id)
                if owner is None or not holds_slot(owner.item, number):
                    self._slots.free(number, volume_id)
                    yield removed(volume_id, f"DRBD minor and port that {volume_id} does not have")

    def _replica(
        self, entry: Entry[Volume], node: str, report: VolumeReport | None, size: int
    ) -> Iterator[Difference]:
        """``size``: what all replicas have; one alone that has grown does not make it larger."""
        volume = entry.item
        if report is None:
            text = f"volume {volume.id} ({volume.name}) has no logical volume"
            yield Difference(DifferenceKind.MISSING, node, volume.id, text)
        elif not report.complete:
            text = f"volume {volume.id} is ready, its logical volume is not complete"
            yield Difference(DifferenceKind.INCOMPLETE, node, volume.id, text)
        elif report.size_bytes < volume.size_bytes:
            text = f"volume {volume.id}: {report.size_bytes} bytes, {volume.size_bytes} recorded"
            yield Difference(DifferenceKind.SIZE, node, volume.id, text)
        elif size > volume.size_bytes:
            yield from self._finish(
                self._volumes,
                entry,
                lambda current: self._volumes.update(current, size_bytes=size),
                DifferenceKind.SIZE,
            )
        elif _limits_differ(volume, report):
            yield from self._finish(
                self._volumes,
                entry,
                lambda current: self._agents.agent(node).set_limits(volume.id, current.item.limits),
                DifferenceKind.LIMITS,
            )

    def _snapshot(self, entry: Entry[Snapshot], picture: _Picture) -> Iterator[Difference]:
        snapshot = entry.item
        group = picture.groups.get(snapshot.group_id)
        if not picture.settled(snapshot.id) or (group and group.item.phase is not Phase.READY):
            return  # it goes with its group
        out_of_reach = picture.out_of_reach(snapshot.nodes)
        if snapshot.phase is Phase.DELETING:
            yield from self._finish(
                self._snapshots,
                entry,
                self._remove_snapshot,
                DifferenceKind.DELETING,
                out_of_reach,
            )
        elif snapshot.phase is Phase.CREATING and self._given_up(entry.key):
            yield from self._finish(
                self._snapshots,
                entry,
                self._remove_snapshot,
                DifferenceKind.HALF_MADE,
                out_of_reach,
            )
        elif snapshot.phase is Phase.READY:
            for node in snapshot.nodes:
                report = picture.snapshot_reports.get((node, snapshot.id))
                if node in picture.inventories and report is None:
                    text = f"snapshot {snapshot.id} ({snapshot.name}) has no logical volume"
                    yield Difference(DifferenceKind.MISSING, node, snapshot.id, text)
                elif node not in picture.inventories and node not in picture.silent:
                    yield not_configured(node, "snapshot", snapshot)

    def _group(self, entry: Entry[Group], picture: _Picture) -> Iterator[Difference]:
        group = entry.item
        cuts = (picture.snapshots.get(cut) for cut in group.snapshot_ids)
        out_of_reach = picture.out_of_reach(
            [node for cut in cuts if cut for node in cut.item.nodes]
        )
        remove = self._group_workflows.remove
        if group.phase is Phase.DELETING:
            yield from self._finish(
                self._groups, entry, remove, DifferenceKind.DELETING, out_of_reach
            )
        elif group.phase is Phase.CREATING and self._given_up(entry.key):
            yield from self._finish(
                self._groups, entry, remove, DifferenceKind.HALF_MADE, out_of_reach
            )

    def _given_up(self, key: str) -> bool:
        return self._locks.idle_seconds(key) >= self._grace_seconds

    def _remove_snapshot(self, entry: Entry[Snapshot]) -> None:
        left = self._remover.remove(entry)
        if left:
            raise ClusterError(f"snapshot {entry.item.id} is left on {', '.join(left)}")

    def _remove_volume(self, entry: Entry[Volume]) -> None:
        left = self._volume_remover.remove(entry)
        if left:
            raise ClusterError(f"volume {entry.item.id} is left on {', '.join(left)}")

    def _remove_leftovers(self, entry: Entry[Volume]) -> None:
        left = self._maker.remove_leftovers(entry).item.leftovers
        if left:
            raise ClusterError(f"volume {entry.item.id} has leftovers on {', '.join(left)}")

    def _finish(
        self,
        table: Table[_T],
        entry: Entry[_T],
        mend: Callable[[Entry[_T]], object],
        kind: DifferenceKind,
        out_of_reach: bool = False,
    ) -> Iterator[Difference]:
        """Mend it, if it is still as it was and nobody works on it."""
        identifier = entry.item.id
        node = ", ".join(getattr(entry.item, "nodes", ()))
        if out_of_reach:
            yield Difference(kind, node, identifier, f"{identifier} waits for its node to answer")
            return
        try:
            with self._locks.hold(entry.key, purpose="reconciliation"):
                current = table.find(entry.key)
                if current is None or current.revision != entry.revision:
                    return
                mend(current)
        except Busy:
            return
        except ClusterError as error:
            yield Difference(kind, node, identifier, str(error))
        else:
            yield Difference(kind, node, identifier, f"{identifier} is mended", mended=True)


def _least(reports: Collection[VolumeReport | None]) -> int:
    """The size that all have; 0 where one is not known."""
    return min(0 if report is None else report.size_bytes for report in reports)


@contextmanager
def _next_time(volume_id: str) -> Iterator[None]:
    """What cannot be done for one volume now, such as one that just changes, ends no run."""
    try:
        yield
    except ClusterError as error:
        _log.warning("volume %s: not cleared up yet: %s", volume_id, error)


def _limits_differ(volume: Volume, report: VolumeReport) -> bool:
    try:
        return volume_from_json(report.record).limits != volume.limits
    except ClusterError:
        return False  # a damaged record in the tags is not mended by setting limits
