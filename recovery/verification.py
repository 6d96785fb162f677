"""Online comparison of replicas: by a person's word, and of each volume from time to time."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping

from cluster.agents import VERIFY, Agents, VerifyReport, VolumeReport, ask_all
from cluster.errors import ClusterError, Refused
from cluster.memberships import Memberships
from cluster.model import Phase, Volume
from cluster.records import volume_table
from cluster.store import Store
from recovery.rounds import Rounds

_log = logging.getLogger(__name__)

# After one that was interrupted: it starts from the beginning, and others wait for its nodes.
_AGAIN_SECONDS = 3600.0

Reports = Mapping[tuple[str, str], VolumeReport]
"""By node and volume."""


class Verification:
    """``interval_seconds`` between two comparisons of a volume; 0: only by a person's word.

    ``round_seconds``: between two looks at whose turn it is.
    """

    def __init__(
        self,
        store: Store,
        agents: Agents,
        *,
        interval_seconds: float,
        round_seconds: float = 60.0,
    ) -> None:
        self._table = volume_table(store)
        self._memberships = Memberships(store)
        self._agents = agents
        self._interval_seconds = interval_seconds
        self._rounds = Rounds(
            "verify",
            self.look,
            round_seconds,
            "whose turn it is to be verified could not be found out",
        )

    def start(self) -> None:
        """Begin the rounds, if there are any."""
        if self._interval_seconds:
            self._rounds.start()

    def stop(self) -> None:
        """Waits for a round that is under way. With the agents' channels closed it ends at once."""
        self._rounds.stop()

    def verify(self, volume_id: str) -> str:
        """Begin it; returns the node that compares. Raises NotFound, Refused, Unavailable."""
        volume = self._table.ready(volume_id).item
        held = self._memberships.find(volume_id)
        if volume.replication is None or held is None:
            raise Refused(f"volume {volume.name} is not replicated: there is nothing to compare")
        record = held.record
        if len(record.replicas) < 2 or set(record.members) != set(record.replicas):
            raise Refused(
                f"volume {volume.name}: only {', '.join(record.members)} is in sync: it can be "
                "verified once both replicas are"
            )
        # Where it is served, the agent refuses.
        node = next(one for one in record.members if one != record.primary)
        self._agents.agent(node).verify_volume(volume_id)
        return node

    def look(self) -> None:
        """One round: begin what is due, one comparison a node at a time."""
        volumes = [
            entry.item
            for entry in self._table.list()[0]
            if entry.item.replication is not None and entry.item.phase is Phase.READY
        ]
        nodes = {node for volume in volumes for node in volume.nodes}
        inventories = ask_all(self._agents, nodes, lambda _, agent: agent.inventory())
        reports = {
            (node, report.id): report
            for node, answer in inventories.items()
            if not isinstance(answer, ClusterError)
            for report in answer.volumes
        }
        busy = {
            node
            for (node, _), report in reports.items()
            if report.replica is not None and report.replica.activity
        }
        now = time.time()
        again = min(_AGAIN_SECONDS, self._interval_seconds)
        for volume in sorted(volumes, key=lambda one: _verified_at(one, reports)):
            due = now - _verified_at(volume, reports) >= self._interval_seconds
            due = due and now - _interrupted_at(volume, reports) >= again
            if not due or not busy.isdisjoint(volume.nodes) or not _ready(volume, reports):
                continue
            try:
                self.verify(volume.id)
            except ClusterError as error:  # such as NotFound: deleted since it was listed
                _log.info("volume %s is not verified now: %s", volume.id, error)
            else:
                busy.update(volume.nodes)


def _verified_at(volume: Volume, reports: Reports) -> float:
    """When the newest finished comparison ended, by its node's clock.

    Before the first one: when the volume was made, so that a new one has an interval's time.
    """
    ended = (one.finished_at for one in _verifies(volume, reports) if not one.trouble)
    return max(ended, default=volume.created_at)


def _interrupted_at(volume: Volume, reports: Reports) -> float:
    """When the newest comparison that did not come to its end was broken off."""
    return max((one.finished_at for one in _verifies(volume, reports) if one.trouble), default=0.0)


def _verifies(volume: Volume, reports: Reports) -> Iterator[VerifyReport]:
    for node in volume.nodes:
        report = reports.get((node, volume.id))
        if report is not None and report.replica is not None and report.replica.verify is not None:
            yield report.replica.verify


def _ready(volume: Volume, reports: Reports) -> bool:
    found: Collection[VolumeReport | None] = [
        reports.get((node, volume.id)) for node in volume.nodes
    ]
    return all(
        one is not None
        and one.replica is not None
        and one.replica.in_sync
        and one.replica.activity != VERIFY
        for one in found
    )
