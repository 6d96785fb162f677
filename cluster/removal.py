"""Removing volumes from their nodes. May be cut off at any point and repeated."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from cluster.agents import Agents, ask_all, configured
from cluster.clones import CloneCuts
from cluster.errors import ClusterError, Refused, Unavailable
from cluster.model import Phase, Volume
from cluster.records import Entry, volume_table
from cluster.replicas import ReplicaRecords
from cluster.store import Store

_log = logging.getLogger(__name__)


class VolumeRemover:
    """The caller holds the volume's lock."""

    def __init__(self, store: Store, agents: Agents, cuts: CloneCuts) -> None:
        self._volumes = volume_table(store)
        self._replicas = ReplicaRecords(store)
        self._agents = agents
        self._cuts = cuts

    def remove(self, entry: Entry[Volume]) -> tuple[str, ...]:
        """Delete the volume on every node that may have parts of it, then its record.

        Returns the nodes that are left: of a volume of several replicas, a node that is down holds
        nobody up when another one has removed its own. Its record stays, DELETING, and keeps the
        DRBD minor and port, until the reconcile loop has finished it. Raises Unavailable when no
        node can be reached, and Refused when the volume is in use there: then it is as before,
        unless another replica of it is gone.
        """
        if entry.item.phase is Phase.READY:
            entry = self._volumes.update(entry, phase=Phase.DELETING)
        volume = entry.item
        places = tuple(dict.fromkeys((*volume.nodes, *volume.leftovers)))
        failures = self.delete_on(volume, places)
        if not failures:
            if volume.spec.replicas > 1 or volume.replication is not None:
                self._replicas.dissolve(volume)
            self._cuts.drop(volume)
            self._volumes.delete(entry)
            return ()
        left = tuple(failures)
        # Of what was deleted in part, an earlier call has told so.
        begun = not volume.nodes or len(left) < len(places)
        if volume.spec.replicas > 1 and volume.phase is Phase.DELETING and begun:
            return self._keep(entry, failures)
        refusal = next((error for error in failures.values() if isinstance(error, Refused)), None)
        if refusal is not None:
            if volume.phase is Phase.DELETING:
                self._volumes.update(entry, phase=Phase.READY)
            raise refusal
        if volume.phase is Phase.CREATING and (volume.nodes or volume.leftovers != left):
            self._volumes.update(entry, nodes=(), leftovers=left)
        raise Unavailable(f"volume {volume.id} is not removed everywhere: {_texts(failures)}")

    def delete_on(self, volume: Volume, nodes: Sequence[str]) -> dict[str, ClusterError]:
        """The nodes where it may still be, and why. A node that is not configured is no more."""
        answers = ask_all(
            self._agents,
            configured(self._agents, nodes),
            lambda _, agent: agent.delete_volume(volume.id, volume.spec.pool),
        )
        return {node: answer for node, answer in answers.items() if answer is not None}

    def _keep(self, entry: Entry[Volume], failures: Mapping[str, ClusterError]) -> tuple[str, ...]:
        """For the nodes that are left. Raises what one that was reached has against it."""
        left = tuple(failures)
        if entry.item.nodes or entry.item.leftovers != left:
            self._volumes.update(entry, nodes=(), leftovers=left)
            _log.warning(
                "volume %s is not removed everywhere yet: %s", entry.item.id, _texts(failures)
            )
        for error in failures.values():
            if not isinstance(error, Unavailable):
                raise error
        return left


def _texts(failures: Mapping[str, ClusterError]) -> str:
    return "; ".join(f"{node}: {error}" for node, error in failures.items())
