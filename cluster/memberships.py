"""The membership records of replicated volumes in the store, as typed values.

Under the volume's whole identifier: a later volume of the same name has its own, and a late request
for a deleted one finds nothing.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from cluster.errors import NotFound
from cluster.membership import Held, Membership
from cluster.model import from_object, to_object
from cluster.store import Record, RecordKind, Store


@dataclass(frozen=True)
class Change:
    """What became of a volume's record. ``held`` is None when it was deleted."""

    volume_id: str
    held: Held | None
    revision: int  # that of the change; watching goes on from there


class Memberships:
    """The records of one store. Thread safe; every call may raise Unavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, volume_id: str) -> Held | None:
        """Raises DataLoss for a record that cannot be read."""
        try:
            return _held(self._store.get(RecordKind.MEMBERSHIP, volume_id))
        except NotFound:
            return None

    def create(self, volume_id: str, record: Membership) -> Held:
        """Raises AlreadyExists."""
        return _held(self._store.create(RecordKind.MEMBERSHIP, volume_id, to_object(record)))

    def write(self, volume_id: str, record: Membership, revision: int) -> Held:
        """Compare-and-swap. Raises Conflict, and NotFound when it was deleted meanwhile."""
        value = to_object(record)
        return _held(self._store.update(RecordKind.MEMBERSHIP, volume_id, value, revision))

    def delete(self, volume_id: str) -> None:
        """One that is not there is success. Raises Conflict when it changes at this moment."""
        held = self.find(volume_id)
        if held is None:
            return
        with suppress(NotFound):  # somebody else has just done so
            self._store.delete(RecordKind.MEMBERSHIP, volume_id, held.revision)

    def list(self) -> tuple[builtins.list[tuple[str, Held]], int]:
        """All with their volumes, and the store's revision that they are a picture of."""
        records, revision = self._store.list(RecordKind.MEMBERSHIP)
        return [(record.key, _held(record)) for record in records], revision

    def watch(self, revision: int, *, timeout: float | None = None) -> Iterator[Change]:
        """Changes behind that revision, as ``Store.watch``. Raises RevisionExpired."""
        for event in self._store.watch(RecordKind.MEMBERSHIP, revision, timeout=timeout):
            record = event.record
            yield Change(record.key, None if event.deleted else _held(record), record.revision)


def _held(record: Record) -> Held:
    return Held(from_object(Membership, record.value), record.revision)
