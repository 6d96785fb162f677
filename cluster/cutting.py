"""Cutting snapshots on several nodes at one instant: of several volumes, or of several replicas.

The I/O of all volumes is held still on all nodes, then all are cut, then it is let go again. An
acknowledged write of a replicated volume is on all members of its in-sync set, and none is under
way while its face is held still where it is used; on the other members the suspension only keeps
the volume from being taken into use. The cuts count only when every node says that it held on
until the end, and when the members are still those that were cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from cluster.agents import Agents, SnapshotReport, ask_all
from cluster.errors import ClusterError, Refused, Unavailable
from cluster.identifiers import key_of_id
from cluster.locks import ObjectLocks
from cluster.membership import Membership
from cluster.memberships import Memberships
from cluster.model import Snapshot, Volume, VolumeSpec
from cluster.store import Store

# How long nodes hold I/O still at the most: longer than all cuts should take, shorter than what
# makes applications fail (the kernel's hung task warning comes after 120 s).
_HOLD_SECONDS = 10.0

_T = TypeVar("_T")


class Cutter:
    def __init__(self, store: Store, agents: Agents, locks: ObjectLocks) -> None:
        self._memberships = Memberships(store)
        self._agents = agents
        self._locks = locks

    @contextmanager
    def locked(self, volumes: Iterable[Volume]) -> Iterator[None]:
        """Keep replicated volumes from being published, unpublished or changed. Raises Busy."""
        keys = [key_of_id(volume.id) for volume in volumes if volume.replication is not None]
        with self._locks.hold(*keys, purpose="a snapshot of it"):
            yield

    def nodes_of(self, volume: Volume) -> tuple[str, ...]:
        """Where it is to be cut: the replicas that have every acknowledged write.

        Raises Refused when nobody knows which those are.
        """
        return volume.nodes if volume.replication is None else self._membership(volume.id).members

    def spec_of(self, volume: Volume) -> VolumeSpec:
        """That of its cuts. One on its way to one replica has its members still, which is what
        the rules for cuts of several replicas are about."""
        if volume.replication is None:
            return volume.spec
        return replace(volume.spec, replicas=len(volume.replication.places))

    def cut(self, wanted: Sequence[Snapshot]) -> dict[str, SnapshotReport]:
        """Cut them all on all their nodes, at one instant; by identifier, the smallest of each.

        The caller holds ``locked``. Raises Unavailable when the cuts may be of several instants:
        then they are to be removed and cut anew; and Refused when they would be.
        """
        together = len(wanted) > 1
        before = {cut.volume_id: self._epoch(cut, together=together) for cut in wanted}
        by_node: dict[str, list[Snapshot]] = {}
        for snapshot in wanted:
            for node in snapshot.nodes:
                by_node.setdefault(node, []).append(snapshot)
        if len(by_node) == 1:
            ((node, cuts),) = by_node.items()
            reports = list(self._agents.agent(node).create_snapshots(cuts))
        else:
            reports = self._cut_held(by_node)
        for snapshot in wanted:
            if self._epoch(snapshot) != before[snapshot.volume_id]:
                raise Unavailable(
                    f"the in-sync set of volume {snapshot.volume_id} changed while it was being"
                    " cut; repeat"
                )
        least: dict[str, SnapshotReport] = {}
        for report in reports:
            known = least.get(report.id, report)
            least[report.id] = min(known, report, key=lambda each: each.size_bytes)
        return least

    def _cut_held(self, by_node: Mapping[str, Sequence[Snapshot]]) -> list[SnapshotReport]:
        held: dict[str, str] = {}  # node -> its suspension
        try:
            answers = ask_all(
                self._agents,
                by_node,
                lambda node, agent: agent.suspend_volumes(
                    [cut.volume_id for cut in by_node[node]], _HOLD_SECONDS
                ),
            )
            held = {node: name for node, name in answers.items() if isinstance(name, str)}
            _require_answers(answers)
            cut = _require_answers(
                ask_all(
                    self._agents,
                    by_node,
                    lambda node, agent: agent.create_snapshots(by_node[node], held[node]),
                )
            )
        finally:
            still = ask_all(
                self._agents, held, lambda node, agent: agent.resume_volumes(held[node])
            )
        broken = [node for node, answer in still.items() if answer is not True]
        if broken:
            raise Unavailable(f"I/O was not held still to the end on {', '.join(broken)}; repeat")
        return [report for reports in cut.values() for report in reports]

    def _epoch(self, snapshot: Snapshot, *, together: bool = False) -> int:
        """That of the set whose members are to be cut; 0 without replicas.

        A node that has left it may lack writes that were acknowledged since, also when it is a
        member again: then the epoch tells. Raises Refused when it is to be cut ``together`` with
        others and is written on a node without a complete replica: its face is not held still then,
        so that it is cut as it is at one moment on the disk that has it, but not at theirs.
        """
        if snapshot.spec.replicas == 1:
            return 0
        record = self._membership(snapshot.volume_id)
        lost = set(snapshot.nodes) - set(record.members)
        if lost:
            raise Unavailable(
                f"{', '.join(sorted(lost))} left the in-sync set of volume {snapshot.volume_id}"
                " while it was being cut; repeat"
            )
        if together and record.primary and record.primary not in record.members:
            raise Refused(
                f"volume {snapshot.volume_id} is served on {record.primary} without a disk of its"
                " own: no snapshot of it together with others can be cut before its replica there"
                " is in sync again"
            )
        return record.epoch

    def _membership(self, volume_id: str) -> Membership:
        held = self._memberships.find(volume_id)
        if held is None or held.record.quarantine or not held.record.members:
            raise Refused(
                f"which replicas of volume {volume_id} are complete is not known: no snapshot can"
                " be cut before its nodes have reported"
            )
        return held.record


def _require_answers(answers: Mapping[str, _T | ClusterError]) -> dict[str, _T]:
    """Raises the first error there is."""
    found: dict[str, _T] = {}
    for node, answer in answers.items():
        if isinstance(answer, ClusterError):
            raise answer
        found[node] = answer
    return found
