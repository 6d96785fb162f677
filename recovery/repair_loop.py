"""Goes on with changes of replicas that were cut off, and replaces replicas that are lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from cluster.errors import Busy, ClusterError
from cluster.membership import Membership
from cluster.memberships import Memberships
from cluster.model import Phase, Volume
from cluster.records import volume_table
from cluster.store import Store
from recovery.failover import isolated
from recovery.followed import Followed
from recovery.replica_changes import ReplicaChanges
from recovery.rounds import Rounds
from replication.record import Statement

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Lost:
    volume: Volume
    node: str  # whose replica is to be replaced
    reason: str


class RepairLoop:
    """``nodes`` are all configured ones.

    ``repair_after_seconds``: for so long a node has to be silent, or a disk failed, before its
    replica is replaced; 0 is never. What was cut off is gone on with in any case. One at a time.
    """

    def __init__(
        self,
        store: Store,
        followed: Followed,
        changes: ReplicaChanges,
        nodes: Collection[str],
        *,
        repair_after_seconds: float,
        interval_seconds: float = 10.0,
    ) -> None:
        self._volumes = volume_table(store)
        self._memberships = Memberships(store)
        self._followed = followed
        self._changes = changes
        self._nodes = frozenset(nodes)
        self._repair_after_seconds = repair_after_seconds
        self._silent_since: dict[str, float] = {}  # time.monotonic()
        self._failed_since: dict[tuple[str, str], float] = {}  # volume and node
        self._unfinished: frozenset[str] = frozenset()
        self._reasons: dict[str, str] = {}
        self._rounds = Rounds(
            "repair", self.look, interval_seconds, "the replicas could not be looked after"
        )

    def start(self) -> None:
        self._rounds.start()

    def stop(self) -> None:
        """Waits for the round that is under way. Before the arbiter is stopped."""
        self._rounds.stop()

    def reason(self, volume_id: str) -> str:
        """What is being done about its replicas, or why it cannot be; "" where nothing is."""
        return self._reasons.get(volume_id, "")

    def look(self) -> None:
        """One round. Raises Unavailable and DataLoss when the store fails."""
        records = {volume_id: held.record for volume_id, held in self._memberships.list()[0]}
        volumes = [
            entry.item
            for entry in self._volumes.list()[0]
            if entry.item.phase is Phase.READY and entry.item.id in records
        ]
        reasons: dict[str, str] = {}
        unfinished = frozenset(v.id for v in volumes if _is_unfinished(v, records[v.id]))
        # Not what is new: a call may be about to be repeated for it.
        for volume_id in sorted(unfinished & self._unfinished):
            self._try(reasons, volume_id, "a change of its replicas is gone on with", "")
        self._unfinished = unfinished
        whole = [volume for volume in volumes if volume.id not in unfinished]
        for lost in list(self._lost(whole, records, reasons)):
            self._try(reasons, lost.volume.id, lost.reason, lost.node)
        self._reasons = reasons

    def _try(self, reasons: dict[str, str], volume_id: str, why: str, lost: str) -> None:
        if self._rounds.stopped:
            return
        try:
            if lost:
                self._changes.move_replica(volume_id, lost)
            else:
                self._changes.mend(volume_id)
        except Busy:
            return
        except ClusterError as error:
            self._tell(reasons, volume_id, f"{why}; not yet: {error}")
        else:
            _log.warning("volume %s: %s: done", volume_id, why)

    def _tell(self, reasons: dict[str, str], volume_id: str, text: str) -> None:
        reasons[volume_id] = text
        if self._reasons.get(volume_id) != text:
            _log.warning("volume %s: %s", volume_id, text)

    def _lost(
        self,
        volumes: Collection[Volume],
        records: dict[str, Membership],
        reasons: dict[str, str],
    ) -> Iterator[_Lost]:
        now = time.monotonic()
        quiet = self._followed.silent()
        self._silent_since = {node: self._silent_since.get(node, now) for node in quiet}
        failed: dict[tuple[str, str], float] = {}
        standing_down = isolated(quiet, self._nodes)
        for volume in volumes:
            record = records[volume.id]
            if volume.replication is None or record.quarantine:
                continue
            stated = self._followed.statements(volume.id)
            for node in record.replicas:
                if not record.others(node):
                    continue  # nothing complete would remain
                since, what = None, ""
                if node in quiet:
                    since, what = self._silent_since[node], f"{node} is gone"
                elif node not in record.members and _has_no_disk(stated.get(node)):
                    key = (volume.id, node)
                    since = failed[key] = self._failed_since.get(key, now)
                    what = f"the replica on {node} has failed"
                if since is None or not 0 < self._repair_after_seconds <= now - since:
                    continue
                if standing_down:
                    self._tell(reasons, volume.id, f"{what}, but {standing_down}")
                else:
                    yield _Lost(volume, node, f"{what}: it is replaced")
        self._failed_since = failed


def _has_no_disk(stated: Statement | None) -> bool:
    return stated is not None and not stated.view.has_disk


def _is_unfinished(volume: Volume, record: Membership) -> bool:
    if volume.replication is None:
        return True  # the membership record was left of a change that was cut off
    if record.quarantine:
        return False
    moving = set(volume.nodes) & set(volume.leftovers)
    fit = set(volume.nodes) == set(record.replicas)
    return bool(moving) or not fit or not len(record.replicas) == volume.spec.replicas == 2
