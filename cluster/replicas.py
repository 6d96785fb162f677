"""What a replicated volume has in the store besides its own record: numbers and membership.

DRBD's minor and port belong to one volume in the whole cluster, since a replica may come to any
node. Each pair of them is a *slot*, and a slot is one record of the store: creating it is what
makes it unique, whoever else is looking for one. The search begins at a place that follows from the
volume's identifier, so that it costs the same with one volume and with thousands.

The volume's record names the slot before the slot is claimed, and is deleted after it is given
back. So a slot whose volume has no record, or one with another slot, belongs to nobody.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress

from cluster.errors import AlreadyExists, NoSpace, NotFound
from cluster.membership import Membership
from cluster.memberships import Memberships
from cluster.model import ReplicaPlace, Replication, Volume
from cluster.store import RecordKind, Store

FIRST_MINOR = 1000
# Above what a node of Kubernetes listens at itself (kubelet and its like end at 10259, and our own
# agent has 9810), below the ports of its services (30000).
FIRST_PORT = 11_000
SLOTS = 19_000  # as many replicated volumes


class Slots:
    """Pairs of a minor and a port, each claimed by one volume."""

    def __init__(self, store: Store, count: int = SLOTS) -> None:
        self._store = store
        self._count = count

    def first(self, volume_id: str) -> int:
        """Where the search for that volume begins."""
        return int.from_bytes(hashlib.sha256(volume_id.encode()).digest()[:8]) % self._count

    def candidates(self, volume_id: str, first: int) -> Iterator[int]:
        """All slots from ``first`` on that nobody else has claimed, when they are come to."""
        for step in range(self._count):
            number = (first + step) % self._count
            if self.owner(number) in ("", volume_id):
                yield number

    def owner(self, number: int) -> str:
        """The volume that has claimed it, or "" ."""
        try:
            return str(self._store.get(RecordKind.REPLICATION_SLOT, _key(number)).value["volume"])
        except NotFound:
            return ""

    def claim(self, number: int, volume_id: str) -> bool:
        """Whether it is that volume's from now on, or was before."""
        try:
            self._store.create(RecordKind.REPLICATION_SLOT, _key(number), {"volume": volume_id})
        except AlreadyExists:
            return self.owner(number) == volume_id
        return True

    def free(self, number: int, volume_id: str) -> None:
        """Give it back, unless it is another volume's. Raises Conflict."""
        try:
            record = self._store.get(RecordKind.REPLICATION_SLOT, _key(number))
        except NotFound:
            return
        if record.value["volume"] == volume_id:
            with suppress(NotFound):  # somebody else has just done so
                self._store.delete(RecordKind.REPLICATION_SLOT, record.key, record.revision)

    def list(self) -> dict[int, str]:
        """The volumes that have claimed one, by slot."""
        records, _ = self._store.list(RecordKind.REPLICATION_SLOT)
        return {int(record.key): str(record.value["volume"]) for record in records}


class ReplicaRecords:
    """The caller holds the volume's lock."""

    def __init__(self, store: Store) -> None:
        self.slots = Slots(store)
        self.memberships = Memberships(store)

    def plan(
        self, volume: Volume, places: Sequence[tuple[str, str]], *, equal: bool
    ) -> Replication:
        """For replicas on these nodes, at these addresses; the slot is not claimed yet.

        ``equal``: as ``Replication``. Raises NoSpace when all slots are taken.
        """
        first = self.slots.first(volume.id)
        if volume.replication is not None:  # it may have a slot already, or just missed that one
            first = volume.replication.minor - FIRST_MINOR
        number = next(self.slots.candidates(volume.id, first), None)
        if number is None:
            raise NoSpace("all DRBD minors and ports of the cluster are taken")
        return Replication(
            minor=FIRST_MINOR + number,
            port=FIRST_PORT + number,
            generation=_new_generation(),
            equal=equal,
            places=tuple(
                ReplicaPlace(node, node_id, address)
                for node_id, (node, address) in enumerate(places)
            ),
        )

    def claim(self, volume: Volume) -> bool:
        """Whether the slot that the stored record names is the volume's."""
        assert volume.replication is not None
        return self.slots.claim(volume.replication.minor - FIRST_MINOR, volume.id)

    def establish(self, volume: Volume) -> None:
        """The membership record that the volume begins with, unless it has one."""
        if self.memberships.find(volume.id) is None:
            self.memberships.create(volume.id, first_membership(volume))

    def dissolve(self, volume: Volume) -> None:
        """When no replica is left: no membership, and the slot is free. Raises Conflict."""
        self.memberships.delete(volume.id)
        if volume.replication is not None:
            self.slots.free(volume.replication.minor - FIRST_MINOR, volume.id)


def holds_slot(volume: Volume, number: int) -> bool:
    """Whether its record names that slot."""
    replication = volume.replication
    return replication is not None and replication.minor - FIRST_MINOR == number


def first_membership(volume: Volume) -> Membership:
    """Members are the replicas that begin complete."""
    assert volume.replication is not None
    return Membership(
        members=tuple(sorted(volume.replication.complete)),
        replicas=tuple(sorted(place.node for place in volume.replication.places)),
        generation=volume.replication.generation,
    )


def unknown_membership(volume: Volume) -> Membership:
    """For a store that is rebuilt: nobody is a member before all replicas have reported.

    Older than whatever its nodes have noted. Where none has noted anything, a person decides.
    """
    assert volume.replication is not None
    return Membership(
        members=(),
        replicas=tuple(sorted(place.node for place in volume.replication.places)),
        epoch=0,
        quarantine="the store was rebuilt: waiting for all replicas to report",
    )


def _new_generation() -> str:
    """Random, as DRBD's own: the lowest bit says "primary", and small values have a meaning."""
    while True:
        number = secrets.randbits(64) & ~1
        if number > 4:
            return f"{number:016x}"


def _key(number: int) -> str:
    return f"{number:08d}"
