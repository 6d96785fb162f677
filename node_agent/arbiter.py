"""The arbiter as an agent sees it: what it is told of its replicated volumes, and what it asks.

``node_agent/arbiter_client.py`` implements it over gRPC. The arbiter is any controller; its answer
is a record that was written by compare-and-swap, and an error means "unknown": ask again after
the next assignment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cluster.membership import Held, Membership
from cluster.model import Replication
from replication.actions import Do
from replication.record import Statement


@dataclass(frozen=True)
class Assignment:
    """One replicated volume of which this node has, is to have, or had a replica."""

    volume_id: str
    held: Held
    replication: Replication
    secret: str = field(repr=False)  # shared by its replicas; kept in memory only
    peer: Statement | None = None  # what the other replica's agent has told last
    go_alone: bool = False  # the controller has decided that the peer need not be waited for
    word: str = ""  # what the controller makes of silent nodes, for people


@dataclass(frozen=True)
class Answer:
    granted: bool
    held: Held  # the record as it is now
    reason: str


class Arbiter(Protocol):
    """Thread safe."""

    def assignments(self) -> Mapping[str, Assignment] | None:
        """The newest, by volume; None while no arbiter answers."""
        ...

    def ask(
        self, what: Do, volume_id: str, statement: Statement, noted: Membership | None = None
    ) -> Answer:
        """``what`` is one of the ASK actions, or REPORT with the newest record that was noted.

        Raises the errors of cluster/errors.py.
        """
        ...

    def tell(self, volume_id: str, statement: Statement) -> None:
        """Hand on what this node sees; never waits, and only the newest of a volume counts.

        Telling the same once more costs nothing.
        """
        ...

    def notify(self, changed: Callable[[], None]) -> None:
        """Call that, which must not wait, whenever ``assignments`` has become another."""
        ...
