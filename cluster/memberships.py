"""The membership records in the store, as typed values: what the arbiter reads and writes.

A record lies under the key of its volume and names the volume's whole identifier, so that a late
request for a deleted volume does not touch the record of a new one of the same name.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from dataclasses import dataclass

from cluster.errors import AlreadyExists, Conflict, DataLoss, NotFound
from cluster.identifiers import key_of_id
from cluster.membership import Held, Membership
from cluster.model import from_object, to_object
from cluster.store import JsonObject, Record, RecordKind, Store


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
        """The record of exactly that incarnation. Raises DataLoss when it cannot be read."""
        try:
            volume, held = _read(self._store.get(RecordKind.MEMBERSHIP, key_of_id(volume_id)))
        except NotFound:
            return None
        return held if volume == volume_id else None

    def create(self, volume_id: str, record: Membership) -> Held:
        """Raises Conflict when there is one under the name already, of this volume or another."""
        value = _value(volume_id, record)
        try:
            made = self._store.create(RecordKind.MEMBERSHIP, key_of_id(volume_id), value)
        except AlreadyExists as error:
            raise Conflict(str(error)) from error
        return Held(record, made.revision)

    def write(self, volume_id: str, record: Membership, revision: int) -> Held:
        """Compare-and-swap. Raises Conflict, and NotFound when it was deleted meanwhile.

        Revisions are the store's own, so that one can never be that of another incarnation.
        """
        value = _value(volume_id, record)
        key = key_of_id(volume_id)
        return Held(
            record, self._store.update(RecordKind.MEMBERSHIP, key, value, revision).revision
        )

    def delete(self, volume_id: str) -> None:
        """Delete the record of exactly that incarnation; none there is success.

        Raises Conflict when it is changed at the same time.
        """
        held = self.find(volume_id)
        if held is None:
            return
        try:
            self._store.delete(RecordKind.MEMBERSHIP, key_of_id(volume_id), held.revision)
        except NotFound:
            return

    def list(self) -> tuple[builtins.list[tuple[str, Held]], int]:
        """All records with their volumes, and the store's revision that they are a picture of."""
        records, revision = self._store.list(RecordKind.MEMBERSHIP)
        return [_read(record) for record in records], revision

    def watch(self, revision: int, *, timeout: float | None = None) -> Iterator[Change]:
        """Changes behind that revision, as ``Store.watch``. Raises RevisionExpired."""
        for event in self._store.watch(RecordKind.MEMBERSHIP, revision, timeout=timeout):
            volume_id, held = _read(event.record)
            yield Change(volume_id, None if event.deleted else held, event.record.revision)


def _value(volume_id: str, record: Membership) -> JsonObject:
    return {"volume_id": volume_id, "membership": to_object(record)}


def _read(record: Record) -> tuple[str, Held]:
    volume_id = record.value.get("volume_id")
    if not isinstance(volume_id, str):
        raise DataLoss(f"{record.kind} {record.key} names no volume")
    held = Held(from_object(Membership, record.value.get("membership")), record.revision)
    return volume_id, held
