"""The store's records as typed entries: what the workflows read and write."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from cluster.errors import AlreadyExists, Conflict, InvalidArgument, NotFound, Refused
from cluster.identifiers import is_key, key_of_id
from cluster.model import Group, Phase, Snapshot, Volume, from_object, to_object
from cluster.store import Record, RecordKind, Store

_T = TypeVar("_T", Volume, Snapshot, Group)
_BATCH = 256


@dataclass(frozen=True)
class Entry(Generic[_T]):
    """A record as it was read or written; ``revision`` is what compare-and-swap goes by."""

    item: _T
    revision: int

    @property
    def key(self) -> str:
        return key_of_id(self.item.id)


class Table(Generic[_T]):
    """All records of one kind."""

    def __init__(self, store: Store, kind: RecordKind, cls: type[_T]) -> None:
        self._store = store
        self._kind = kind
        self._cls: type[_T] = cls

    def find(self, key: str) -> Entry[_T] | None:
        """The record under that key. Raises Refused for one of a newer version of XLSS."""
        try:
            entry = self._entry(self._store.get(self._kind, key))
        except NotFound:
            return None
        if entry.item.phase is Phase.UNKNOWN:
            raise Refused(f"{self._kind} {entry.item.id} was written by a newer version")
        return entry

    def find_id(self, identifier: str) -> Entry[_T] | None:
        """The record of exactly that incarnation."""
        entry = self.find(key_of_id(identifier))
        return entry if entry is not None and entry.item.id == identifier else None

    def ready(self, identifier: str) -> Entry[_T]:
        """The record of an object that may be used. Raises NotFound."""
        entry = self.find_id(identifier)
        if entry is None or entry.item.phase is not Phase.READY:
            raise NotFound(f"no {self._kind} {identifier}")
        return entry

    def create(self, item: _T) -> Entry[_T]:
        """Raises Conflict when somebody else has just claimed the name."""
        try:
            return self._entry(self._store.create(self._kind, key_of_id(item.id), to_object(item)))
        except AlreadyExists as error:
            raise Conflict(str(error)) from error

    def update(self, entry: Entry[_T], **changes: Any) -> Entry[_T]:
        """Compare-and-swap. Raises Conflict, and NotFound when it was deleted meanwhile."""
        item = replace(entry.item, **changes)
        return self._entry(
            self._store.update(self._kind, entry.key, to_object(item), entry.revision)
        )

    def delete(self, entry: Entry[_T]) -> None:
        """Raises Conflict, and NotFound when it was deleted meanwhile."""
        self._store.delete(self._kind, entry.key, entry.revision)

    def list(self, *, after: str = "", limit: int = 0) -> tuple[builtins.list[Entry[_T]], int]:
        """As ``Store.list``."""
        records, revision = self._store.list(self._kind, after=after, limit=limit)
        return [self._entry(record) for record in records], revision

    def page(
        self, token: str, limit: int, wanted: Callable[[_T], bool] = lambda _: True
    ) -> tuple[builtins.list[_T], str]:
        """At most ``limit`` (0: all) objects that are ready, and the token of the next page.

        The token is the key of the last one, and empty when nothing is left, so that a page
        goes on rightly whatever was created and deleted in between. Raises InvalidArgument for a
        token that is none.
        """
        if token and not is_key(token):
            raise InvalidArgument(f"{token[:64]!r} is not a token of an earlier page")
        found: builtins.list[_T] = []
        while True:
            entries, _ = self.list(after=token, limit=_BATCH)
            for entry in entries:
                if entry.item.phase is Phase.READY and wanted(entry.item):
                    if limit and len(found) == limit:
                        return found, key_of_id(found[-1].id)
                    found.append(entry.item)
            if len(entries) < _BATCH:
                return found, ""
            token = entries[-1].key

    def _entry(self, record: Record) -> Entry[_T]:
        return Entry(from_object(self._cls, record.value), record.revision)


def volume_table(store: Store) -> Table[Volume]:
    return Table(store, RecordKind.VOLUME, Volume)


def snapshot_table(store: Store) -> Table[Snapshot]:
    return Table(store, RecordKind.SNAPSHOT, Snapshot)


def group_table(store: Store) -> Table[Group]:
    return Table(store, RecordKind.GROUP, Group)
