"""The snapshots of a chaos run: what is in them, what is made of them, and what is left of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.records import differing, hashes
from lab.replica_states import stored, stored_snapshot, stored_volume
from tests.chaos_schedule import NODES
from tests.chaos_service import Workload
from tests.lab.replica_group import visible
from tests.lab.replicated import LVM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.deployment import Deployment
    from lab.record_verdict import Journal
    from tests.chaos_service import Keeper

_KEPT = 1  # of a volume, while the next one is cut
# The reconcile loop comes by (the run lets it often), and a node is asked again by then.
_LEAVING_SECONDS = 120.0


@dataclass(frozen=True)
class Cut:
    """A snapshot. `before`: the journal from before it was asked for."""

    id: str
    keeper: Keeper
    before: Journal

    @property
    def service(self) -> Workload:
        return self.keeper.service


class Cuts:
    """Thread safe as far as changes and `judge` need: those do not run at the same time."""

    def __init__(self, cluster: Deployment) -> None:
        self.names: list[str] = []
        self.judged = 0
        self._cluster = cluster
        self._there: list[Cut] = []
        self._new: list[Cut] = []

    def add(self, cut: Cut) -> None:
        self._there.append(cut)
        self._new.append(cut)

    def superfluous(self, volume_id: str) -> list[Cut]:
        """Those of a volume that are to be deleted before the next one."""
        own = [cut for cut in self._there if cut.service.id == volume_id]
        return own[: max(0, len(own) - _KEPT + 1)]

    def forget(self, cut: Cut) -> None:
        self._there.remove(cut)

    def judge(self) -> None:
        """Those that are new: equal on all their nodes, and nothing lost. Raises AssertionError."""
        for cut in self._new:
            nodes = stored_snapshot(self._cluster, cut.id).nodes
            self._compare(cut, nodes)
            self._restore(cut, nodes)
            self.judged += 1
        self._new.clear()

    def _compare(self, cut: Cut, nodes: Sequence[str]) -> None:
        with visible(self._cluster, nodes, cut.id) as (path,):
            contents = [hashes(self._cluster.nodes[node], path) for node in nodes]
            for node, content in zip(nodes, contents, strict=True):
                different = differing(contents[0], content)
                assert not different, f"{cut.id} differs on {nodes[0]} and {node} at {different}"
            if not cut.service.filesystem:
                self._judge(cut, nodes[0], path, f"snapshot {cut.id}")

    def _restore(self, cut: Cut, nodes: Sequence[str]) -> None:
        """A volume of two replicas: each serves what was acknowledged before."""
        places = (*nodes, *(node for node in NODES if node not in nodes))[:2]
        copy = Workload(
            self._cluster,
            f"of-{cut.id}",
            (places[0], places[1]),
            cut.service.filesystem,
            {"snapshot": cut.id},
        )
        contents = []
        for node in copy.follow():
            copy.move(node)
            self._judge(cut, node, copy.device, f"what was restored of {cut.id}")
            if not copy.filesystem:
                contents.append(hashes(self._cluster.nodes[node], copy.device))
        for content in contents:
            different = differing(contents[0], content)
            assert not different, f"replicas of {copy.id}, of {cut.id}, differ at {different}"
        copy.delete()

    def _judge(self, cut: Cut, node: str, path: str, what: str) -> None:
        verdict = cut.service.records.check(self._cluster.nodes[node], path, cut.before)
        assert verdict.ok, f"{what} on {node}: {verdict}"

    def delete_all(self) -> None:
        """With everything healed. Raises AssertionError."""
        controller = self._cluster.controller()
        for cut in list(self._there):
            cut.service.repeat("delete it", lambda cut=cut: controller.delete_snapshot(cut.id))  # type: ignore[misc]
            self.forget(cut)

    def nothing_left(self, volume_ids: Sequence[str]) -> None:
        """On no node is anything but these volumes and the snapshots that are there."""
        until = time.monotonic() + _LEAVING_SECONDS
        while left := self._left(volume_ids):
            assert time.monotonic() < until, f"left over: {left}"
            time.sleep(1.0)

    def _left(self, volume_ids: Sequence[str]) -> str:
        wanted: set[tuple[str, str]] = set()
        for volume_id in volume_ids:
            for place in stored_volume(self._cluster, volume_id).nodes:
                wanted |= {(place, f"vol-{volume_id}"), (place, f"meta-{volume_id}")}
        for cut in self._there:
            nodes = stored_snapshot(self._cluster, cut.id).nodes
            wanted |= {(place, f"snap-{cut.id}") for place in nodes}
        found: set[tuple[str, str]] = set()
        for name, node in self._cluster.nodes.items():
            lines = node.sh(
                f"{LVM} lvs --reportformat basic --noheadings -o lv_name vg0"
            ).text.split()
            found |= {(name, one) for one in lines if one.startswith(("vol-", "meta-", "snap-"))}
        if wanted != found:
            return f"{sorted(found - wanted)}; lacking: {sorted(wanted - found)}"
        records = stored(self._cluster)
        there = (records["volume"], records["membership"], records["snapshot"])
        right = (len(volume_ids), len(volume_ids), len(self._there))
        return "" if there == right else f"in the store {dict(records)}"
