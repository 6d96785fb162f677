"""The membership records of replicated volumes in the store."""

from __future__ import annotations

import builtins
from contextlib import suppress

from cluster.errors import NotFound
from cluster.membership import Held, Membership
from cluster.model import from_object, to_object
from cluster.store import Record, RecordKind, Store


class Memberships:
    """Under the volume's whole identifier: a later volume of the same name has its own."""

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
        """Compare-and-swap. Raises Conflict and NotFound."""
        value = to_object(record)
        return _held(self._store.update(RecordKind.MEMBERSHIP, volume_id, value, revision))

    def delete(self, volume_id: str) -> None:
        """One that is not there is success. Raises Conflict when it changes at this moment."""
        held = self.find(volume_id)
        if held is None:
            return
        with suppress(NotFound):  # somebody else has just done so
            self._store.delete(RecordKind.MEMBERSHIP, volume_id, held.revision)

    def list(self) -> builtins.list[tuple[str, Held]]:
        """All, with the volumes' identifiers."""
        records, _ = self._store.list(RecordKind.MEMBERSHIP)
        return [(record.key, _held(record)) for record in records]


def _held(record: Record) -> Held:
    return Held(from_object(Membership, record.value), record.revision)
