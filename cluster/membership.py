"""What the store holds of a replicated volume for membership (docs/membership.md).

Plain values, which travel as JSON (``cluster.model.to_object``, ``from_object``). A record changes
only by compare-and-swap on its revision, and its epoch rises with every change and every
permission.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Boot:
    """The boot of a node in which it was last known to have all that was acknowledged."""

    node: str
    boot_id: str


@dataclass(frozen=True)
class Membership:
    members: tuple[str, ...]  # the in-sync set, sorted
    replicas: tuple[str, ...]  # all nodes with a replica, sorted; those outside the set rejoin
    primary: str = ""  # the publish record: the one node that may be primary, or none
    active: str = ""  # who was last permitted to be primary; stays after the unpublishing
    epoch: int = 1
    generation: str = ""  # data generation that members carry, or have grown from
    boots: tuple[Boot, ...] = ()
    quarantine: str = ""  # why nothing is permitted before all replicas have reported
    reports: tuple[Report, ...] = ()  # those that did, during a quarantine
    forced: str = ""  # a person accepted data loss: this node may be promoted as it is

    def boot_of(self, node: str) -> str:
        return next((boot.boot_id for boot in self.boots if boot.node == node), "")

    def others(self, node: str) -> tuple[str, ...]:
        """The members besides that node."""
        return tuple(member for member in self.members if member != node)

    def trusts(self, node: str, boot_id: str) -> bool:
        """Whether a loss of power cannot have taken from that member what the other still has.

        The last primary flushed its own disk whenever its users asked for that; the other side may
        have lost what it had acknowledged, in its disk's cache (rule 16).
        """
        return self.active in ("", node) or self.boot_of(node) == boot_id

    @property
    def confirmed(self) -> bool:
        """Whether the members have all by themselves, whatever becomes of their power (rule 16)."""
        return self.active in ("", *self.members)

    def trusts_member(self, node: str, boot_id: str) -> bool:
        """As ``trusts``; of a node outside the set nothing is believed that could be wrong."""
        return node not in self.members or self.trusts(node, boot_id)


@dataclass(frozen=True)
class Report:
    """The newest record that a replica's node has seen, reported during a quarantine."""

    node: str
    record: Membership | None


@dataclass(frozen=True)
class Held:
    """A record as it was read; ``revision`` is what compare-and-swap goes by."""

    record: Membership
    revision: int


def bare(record: Membership) -> Membership:
    """The record as it is noted: without what a quarantine collects."""
    return replace(record, quarantine="", reports=())


def newest_epoch() -> int:
    """One above all that a node can have noted: each change of a record adds one.

    Microseconds since 1970; no record changes as often as that, whatever store it was in.
    """
    return time.time_ns() // 1000
