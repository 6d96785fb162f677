"""Live changes of replicas: one to two, two to one, to another node, in place of a lost one.

The volume may be mounted and written throughout. *The membership record is the truth about who has
a replica*; the volume's record is ahead of it or behind it where a change was cut off:

- a node in ``nodes`` that is in neither the membership nor ``leftovers``: a replica is being added;
- a node in ``nodes`` and in ``leftovers``: it is on its way out. Once the membership is without it,
  it is taken out of ``nodes`` and removed; where the removal was not granted, it stays;
- ``spec.replicas`` 1 and ``replication``: DRBD is on its way out; 2 and one replica: it lacks one.

So each change is gone on with from the records alone, by a repetition of the call or by ``mend``.

DRBD 8.4 has two replicas at the most: one that moves leaves first, and until the new one is in sync
there is one. ``Replication.places`` keeps the one that has left until another takes its place: its
agent reads in the membership that it has no replica any more, and takes it down.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace

from cluster.agents import Agents, VolumeReport
from cluster.creation import VolumeMaker
from cluster.errors import (
    Busy,
    ClusterError,
    Conflict,
    DataLoss,
    InvalidArgument,
    NotFound,
    Refused,
    Unavailable,
    Unsupported,
)
from cluster.identifiers import Kind, key_of_id, require_id
from cluster.locks import ObjectLocks
from cluster.membership import Held, Membership, newest_epoch
from cluster.model import LayoutKind, ReplicaPlace, Volume, VolumeSpec, volume_from_json
from cluster.placement import PlacementRequest
from cluster.pools import PoolLedger, Reservation
from cluster.records import Entry, volume_table
from cluster.replicas import ReplicaRecords
from cluster.store import Store
from recovery.asking import Asking, Decider
from replication import arbiter_rules
from replication.arbiter_rules import Answer
from replication.record import Disk, Statement

_log = logging.getLogger(__name__)

_PURPOSE = "a change of its replicas"


class ReplicaChanges:
    """Each call may be cut off at any point and repeated; then it goes on.

    All raise NotFound, Busy (another call works on the volume), Conflict, Refused (with what has
    to be done first), NoSpace (with the reason for each node), and Unavailable: then the call is to
    be repeated. ``patience_seconds``: how long a call waits by itself for what agents have to see.
    """

    def __init__(
        self,
        store: Store,
        agents: Agents,
        pools: PoolLedger,
        locks: ObjectLocks,
        decider: Decider,
        *,
        patience_seconds: float = 10.0,
    ) -> None:
        self._volumes = volume_table(store)
        self._replicas = ReplicaRecords(store)
        self._memberships = self._replicas.memberships
        self._maker = VolumeMaker(store, agents, pools, locks)
        self._agents = agents
        self._pools = pools
        self._locks = locks
        self._asking = Asking(self._memberships, agents, pools, decider, patience_seconds)

    def set_replicas(self, volume_id: str, count: int) -> Volume:
        """Give the volume one or two replicas; a new one is filled in the background.

        Of two, that stays which is in use, or is complete.
        """
        if count not in (1, 2):
            raise InvalidArgument(f"{count} replicas: only 1 or 2 are supported")
        require_id(Kind.VOLUME, volume_id, "volume_id")
        with self._locks.hold(key_of_id(volume_id), purpose=_PURPOSE):
            entry = self._volumes.ready(volume_id)
            if count == 1:
                return self._reduce(self._settled(entry)).item
            if entry.item.replication is not None and entry.item.spec.replicas == 1:
                # It was to become one; whatever has been done of that is gone on from.
                entry = self._settled(entry)
                if len(self._record(entry.item).replicas) == 1:
                    entry = self._collapse(entry)
                else:
                    entry = self._volumes.update(entry, spec=_spec(entry.item, 2))
            entry = self._settled(entry)
            if entry.item.replication is None:
                return self._convert(entry).item
            return self._complete(entry).item

    def move_replica(self, volume_id: str, from_node: str, to_node: str = "") -> Volume:
        """Give up the replica of a node for one on another; ``to_node`` "" is where there is room.

        The node may be gone: what it still has is removed when it is back. Until the new replica is
        in sync there is one. Refused while the volume is in use on that node.
        """
        require_id(Kind.VOLUME, volume_id, "volume_id")
        if to_node and to_node not in self._agents.names():
            raise NotFound(f"no node {to_node!r}")
        with self._locks.hold(key_of_id(volume_id), purpose=_PURPOSE):
            entry = self._volumes.ready(volume_id)
            if entry.item.replication is None:
                raise Refused(
                    f"volume {volume_id} has one replica, which cannot be moved: let it have two"
                    " replicas, wait until they are in sync, then move or give up the first one"
                )
            entry = self._settled(entry)
            record = self._record(entry.item)
            if from_node in record.replicas:
                return self._move(entry, record, from_node, to_node).item
            if len(record.replicas) > 1:
                if to_node not in ("", *record.replicas):
                    raise Refused(f"volume {volume_id} has no replica on {from_node}")
                return entry.item  # a repetition
            return self._complete(entry, to_node, {from_node: "its replica is moved away"}).item

    def mend(self, volume_id: str) -> Volume:
        """Go on with what was cut off, and add a replica that is missing."""
        require_id(Kind.VOLUME, volume_id, "volume_id")
        with self._locks.hold(key_of_id(volume_id), purpose=_PURPOSE):
            entry = self._volumes.ready(volume_id)
            if entry.item.replication is None:
                self._memberships.delete(volume_id)
                return entry.item
            entry = self._settled(entry)
            if entry.item.spec.replicas == 1:
                return self._reduce(entry).item
            return self._complete(entry).item

    # What both records say

    def _record(self, volume: Volume) -> Membership:
        held = self._memberships.find(volume.id)
        if held is None:
            raise Refused(
                f"volume {volume.id} has no membership record: which of its replicas is complete"
                " is not known, and nothing is changed before its nodes have reported"
            )
        if held.record.quarantine:
            raise Refused(f"volume {volume.id}: {held.record.quarantine}")
        return held.record

    def _settled(self, entry: Entry[Volume]) -> Entry[Volume]:
        """With the volume's record in line, but for a replica whose adding is gone on with."""
        volume = entry.item
        if volume.replication is None:
            return entry
        record = self._record(volume)
        adding = [n for n in volume.nodes if n not in (*record.replicas, *volume.leftovers)]
        if adding and volume.spec.replicas > 1 and len(record.replicas) == 1:
            try:
                return self._fill(entry, adding[0])
            except (Conflict, DataLoss):
                raise
            except ClusterError as error:
                in_trouble = self._in_trouble(adding[0])
                if isinstance(error, (Unavailable, Busy)) and not in_trouble:
                    raise  # it is busy with it
                # It is down, full, gone, or takes no replicas any more: elsewhere then.
                _log.warning("volume %s: no replica on %s: %s", volume.id, adding[0], error)
        return self._part(entry, record)

    def _in_trouble(self, node: str) -> bool:
        """Asks it, so that its room is known as well."""
        if node not in self._agents.names():
            return True
        self._pools.refresh((node,), whole=True)
        return node in self._pools.troubled() or bool(self._pools.replication_trouble(node))

    def _follow(self, entry: Entry[Volume], record: Membership) -> Entry[Volume]:
        """The volume's record as the membership record wants it.

        What has left it is not removed before the members have all by themselves.
        """
        volume = entry.item
        known = dict.fromkeys((*volume.nodes, *record.replicas))
        kept = {*record.replicas, *(() if record.confirmed else volume.nodes)}
        nodes = tuple(node for node in known if node in kept)
        left = dict.fromkeys((*volume.leftovers, *volume.nodes))
        leftovers = tuple(node for node in left if node not in record.replicas)
        if (nodes, leftovers) == (volume.nodes, volume.leftovers):
            return entry
        return self._volumes.update(entry, nodes=nodes, leftovers=leftovers)

    def _part(self, entry: Entry[Volume], record: Membership) -> Entry[Volume]:
        """As ``_follow``; what has left the membership record is removed, once it can be."""
        if not record.confirmed and set(entry.item.nodes) - set(record.replicas):
            self._asking.until_confirmed(entry.item.id)
            record = self._record(entry.item)
        return self._remove_rest(self._follow(entry, record))

    def _remove_rest(self, entry: Entry[Volume]) -> Entry[Volume]:
        """What other nodes still have of it; those out of reach are left to the reconcile loop."""
        return self._maker.remove_leftovers(entry) if entry.item.leftovers else entry

    # One to two

    def _convert(self, entry: Entry[Volume]) -> Entry[Volume]:
        """A second replica for a volume without DRBD."""
        volume = entry.item
        if volume.spec.layout.kind is not LayoutKind.LINEAR:
            raise Unsupported(f"layout {volume.spec.layout.kind} is not supported with 2 replicas")
        (present,) = volume.nodes
        self._pools.refresh((present,), whole=True)
        if trouble := self._pools.replication_trouble(present):
            raise Unavailable(f"{present} takes no replicas now: {trouble}")
        address = self._pools.replication_address(present)
        if not address:
            raise Refused(f"{present} takes no replicas: configure its replication_address")
        entry = self._remove_rest(entry)
        with self._room(entry.item, present) as reservation:
            entry = self._begin(entry, (present, address), reservation)
            try:
                return self._fill(entry, reservation.node, reservation)
            except (Unavailable, Busy):
                raise
            except ClusterError:
                # No repetition will help: it is what it was before.
                entry = self._volumes.ready(volume.id)
                entry = self._follow(entry, self._record(entry.item))
                self._remove_rest(self._collapse(entry))
                raise

    def _begin(
        self, entry: Entry[Volume], present: tuple[str, str], added: Reservation
    ) -> Entry[Volume]:
        """Write down where it is to be, with all that it has in the store then.

        The membership record comes first: a replicated volume is never without.
        """
        volume = entry.item
        node = present[0]
        places = (present, (added.node, added.replication_address))
        planned = self._replicas.plan(volume, places, equal=False)
        user = next((publication.node for publication in volume.published), "")
        self._memberships.delete(volume.id)
        # The node may have noted a record of a former life of it with two replicas.
        record = Membership((node,), (node,), primary=user, active=node, epoch=newest_epoch())
        record = replace(record, generation=planned.generation)
        self._memberships.create(volume.id, record)
        return self._volumes.update(
            entry, nodes=(node, added.node), spec=_spec(volume, 2), replication=planned
        )

    def _complete(
        self, entry: Entry[Volume], to_node: str = "", refused: Mapping[str, str] | None = None
    ) -> Entry[Volume]:
        """A second replica beside the one that is left, unless there are two."""
        record = self._record(entry.item)
        if len(record.replicas) > 1:
            return entry
        (keeper,) = record.replicas
        with self._room(entry.item, keeper, to_node, refused) as reservation:
            return self._add(entry, keeper, reservation)

    def _room(
        self,
        volume: Volume,
        keeper: str,
        to_node: str = "",
        refused: Mapping[str, str] | None = None,
    ) -> Reservation:
        """Room for a replica beside that of the keeper."""
        why = dict.fromkeys(volume.leftovers, "what is left of a former replica is still there")
        why |= refused or {}
        if to_node:
            why |= {n: "not asked for" for n in self._agents.names() if n not in (to_node, keeper)}
        size = max(volume.size_bytes, self._agents.agent(keeper).get_volume(volume.id).size_bytes)
        request = PlacementRequest(volume.id, size, _spec(volume, 2), beside=(keeper,))
        (reservation,) = self._pools.reserve(request, why)
        return reservation

    def _add(self, entry: Entry[Volume], keeper: str, reservation: Reservation) -> Entry[Volume]:
        """A replica in place of one that has left."""
        volume = entry.item
        assert volume.replication is not None  # the caller has looked
        self._asking.until_apart(volume.id, keeper)
        node = reservation.node
        own = next(place for place in volume.replication.places if place.node == keeper)
        free = next(number for number in (0, 1) if number != own.node_id)
        other = ReplicaPlace(node, free, reservation.replication_address)
        changed = replace(volume.replication, places=(own, other), equal=False)
        entry = self._volumes.update(entry, nodes=(keeper, node), replication=changed)
        return self._fill(entry, node, reservation)

    def _fill(
        self, entry: Entry[Volume], node: str, reservation: Reservation | None = None
    ) -> Entry[Volume]:
        """Make what the volume's record has, and let the new replica be filled."""
        keeper = next(other for other in entry.item.nodes if other != node)
        there = self._agents.agent(keeper).get_volume(entry.item.id)
        entry = self._claim(entry, there)
        volume = entry.item
        size = max(volume.size_bytes, there.size_bytes)  # it may have grown alone
        wanted = replace(volume, size_bytes=size, limit_bytes=0)
        _, pool = self._agents.agent(node).create_volume(wanted)
        if reservation is not None:
            reservation.report(pool)
        self._asking.update(keeper, volume)
        self._asking.grant(volume.id, lambda held, _: arbiter_rules.add_replica(held.record, node))
        return entry

    def _claim(self, entry: Entry[Volume], there: VolumeReport) -> Entry[Volume]:
        """Claim the slot that the record names, or another one while DRBD does not have it yet."""
        while not self._replicas.claim(entry.item):
            replication = entry.item.replication
            assert replication is not None  # the caller has written it
            if volume_from_json(there.record).replication is not None:
                raise Refused(
                    f"volume {entry.item.id}: its DRBD minor and port belong to another volume,"
                    " as in a store that was restored: give one of the two up"
                )
            places = [(place.node, place.address) for place in replication.places]
            slot = self._replicas.plan(entry.item, places, equal=False)
            changed = replace(replication, minor=slot.minor, port=slot.port)
            entry = self._volumes.update(entry, replication=changed)
        return entry

    # Two to one

    def _reduce(self, entry: Entry[Volume]) -> Entry[Volume]:
        volume = entry.item
        if volume.replication is None:
            return entry
        if volume.spec.replicas != 1:
            entry = self._volumes.update(entry, spec=_spec(volume, 1))
        record = self._record(volume)
        if len(record.replicas) > 1:
            keeper = self._keeper(volume, record)
            leaving = next(node for node in record.replicas if node != keeper)
            self._require_there(volume, keeper)
            entry = self._give_up(entry, leaving, keeper)
        return self._collapse(entry)

    def _require_there(self, volume: Volume, keeper: str) -> None:
        """What it has stated tells only what it had: the other one may be all that is left."""
        try:
            self._agents.agent(keeper).get_volume(volume.id)
        except ClusterError as error:
            raise Unavailable(
                f"{keeper}, which would keep volume {volume.id}, does not have it now: {error};"
                " nothing is given up before it is back, or the volume is served elsewhere"
            ) from error

    def _keeper(self, volume: Volume, record: Membership) -> str:
        used = [record.primary, *(publication.node for publication in volume.published)]
        for node in used:
            if node in record.replicas:
                return node
        if not record.members:
            raise Refused(f"volume {volume.id} has no complete replica: a person has to decide")
        stated = self._asking.statements(volume.id)
        there = [node for node in record.members if node in stated]
        whole = [node for node in there if stated[node].view.disk is Disk.UP_TO_DATE]
        return (whole or there or list(record.members))[0]

    def _move(
        self, entry: Entry[Volume], record: Membership, from_node: str, to_node: str
    ) -> Entry[Volume]:
        volume = entry.item
        if from_node in (record.primary, *(one.node for one in volume.published)):
            raise Refused(
                f"volume {volume.id} is in use on {from_node}: move the workload to another node"
                " first"
            )
        keeper = next((node for node in record.replicas if node != from_node), "")
        if not keeper:
            raise Refused(f"{from_node} has the only replica of volume {volume.id}")
        if to_node in record.replicas:
            raise InvalidArgument(f"volume {volume.id} has a replica on {to_node} already")
        with ExitStack() as stack:
            # Before anything is given up.
            refused = {from_node: "its replica is moved away"}
            reservation = stack.enter_context(self._room(volume, keeper, to_node, refused))
            entry = self._give_up(entry, from_node, keeper)
            return self._add(entry, keeper, reservation)

    def _give_up(self, entry: Entry[Volume], leaving: str, keeper: str) -> Entry[Volume]:
        """One of two replicas goes; the keeper has stated that it has everything."""
        volume = entry.item
        if leaving not in volume.leftovers:
            left = (*volume.leftovers, leaving)
            entry = self._volumes.update(entry, leftovers=left)

        def rule(held: Held, stated: Mapping[str, Statement]) -> Answer:
            if keeper not in stated:
                words = f"{keeper}, which is to keep the volume, has not told what it has"
                return Answer(False, held.record, words)
            return arbiter_rules.remove_replica(held, leaving, stated[keeper])

        try:
            self._asking.grant(volume.id, rule)
        except (Unavailable, Refused):
            self._follow(entry, self._record(volume))  # it stays
            raise
        return self._part(entry, self._record(volume))

    def _collapse(self, entry: Entry[Volume]) -> Entry[Volume]:
        """The only replica becomes a volume without DRBD."""
        volume = entry.item
        (keeper,) = volume.nodes
        plain = replace(volume, spec=_spec(volume, 1), replication=None)
        self._asking.update(keeper, plain)
        entry = self._volumes.update(entry, spec=plain.spec, replication=None)
        self._replicas.dissolve(volume)
        return entry


def _spec(volume: Volume, replicas: int) -> VolumeSpec:
    return replace(volume.spec, replicas=replicas)
