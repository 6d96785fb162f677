"""The cluster store: one protocol, several implementations, one conformance suite.

A record is a JSON object under a kind and a key. Every record has a revision: a positive integer
that rises with every write to the store, whatever record it is. Compare-and-swap on it is the only
way to change a record, and the only thing that decisions of safety rest on.

Implementations: ``cluster/sqlite_store.py``. Their common suite: ``tests/unit/test_store.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from cluster.errors import ClusterError

JsonObject = Mapping[str, Any]


class RecordKind(StrEnum):
    VOLUME = "volume"
    SNAPSHOT = "snapshot"
    GROUP = "group"
    MEMBERSHIP = "membership"
    REPLICATION_SLOT = "replication-slot"  # who has a minor and a port: cluster/replicas.py


@dataclass(frozen=True)
class Record:
    kind: RecordKind
    key: str
    revision: int
    value: JsonObject


@dataclass(frozen=True)
class Event:
    """A change: ``record`` is what was written, or, when ``deleted``, what was there last.

    ``record.revision`` is that of the change, also for a deletion: watching goes on from there.
    """

    record: Record
    deleted: bool


class RevisionExpired(ClusterError):
    """The watched revision is too old to continue from: list again, then watch from there."""


class Store(Protocol):
    """All calls may raise Unavailable; then the outcome is unknown until it is read afresh."""

    def get(self, kind: RecordKind, key: str) -> Record:
        """Raises NotFound."""
        ...

    def list(
        self, kind: RecordKind, *, after: str = "", limit: int = 0
    ) -> tuple[list[Record], int]:
        """Records in the order of their keys, from behind ``after``, at most ``limit`` (0: all).

        Also returns the store's revision of which this list is a consistent picture.
        """
        ...

    def create(self, kind: RecordKind, key: str, value: JsonObject) -> Record:
        """Raises AlreadyExists when the key is taken."""
        ...

    def update(self, kind: RecordKind, key: str, value: JsonObject, revision: int) -> Record:
        """Replace the record at that revision. Raises Conflict when it has another, NotFound."""
        ...

    def delete(self, kind: RecordKind, key: str, revision: int) -> None:
        """Delete the record at that revision. Raises Conflict when it has another, NotFound."""
        ...

    def watch(
        self, kind: RecordKind, revision: int, *, timeout: float | None = None
    ) -> Iterator[Event]:
        """Changes behind that revision, in order, none twice and none left out.

        Ends after ``timeout`` seconds without an event (None: never). Raises RevisionExpired when
        the changes since then are no longer known, or the store has never come that far: both
        when it is first advanced and when a slow reader has fallen behind.
        """
        ...

    def close(self) -> None: ...
