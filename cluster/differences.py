"""What the store and the nodes do not agree about, as people see it (docs/operations.md)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cluster.model import Snapshot, Volume


class DifferenceKind(StrEnum):
    UNREACHABLE = "unreachable"  # a node that did not answer: nothing is known of it
    ORPHAN = "orphan"  # ours by its tags, but no record knows it there
    FOREIGN = "foreign"  # in our volume group, and not ours
    MISSING = "missing"  # a record without its logical volume
    INCOMPLETE = "incomplete"  # a record that is ready, a logical volume that is half-made
    SIZE = "size"
    LIMITS = "limits"
    HALF_MADE = "half-made"  # a creation that nobody goes on with
    DELETING = "deleting"  # a deletion that nobody goes on with
    LEFTOVER = "leftover"  # parts of a volume on a node that it is not on
    CONFLICT = "conflict"  # two that claim to be the same (only when a store is rebuilt)
    UNREADABLE = "unreadable"  # its tags do not say what it is (likewise)
    NO_MEMBERSHIP = "no-membership"  # a replicated volume of which nobody knows who is complete
    OWNERLESS = "ownerless"  # what a volume that is gone had in the store
    UNCONFIRMED = "unconfirmed"  # a group that may not have been cut at one instant (likewise)


@dataclass(frozen=True)
class Difference:
    """``object_id`` is an identifier or, for what is not ours, a name."""

    kind: DifferenceKind
    node: str
    object_id: str
    text: str
    mended: bool = False


def removed(identifier: str, what: str) -> Difference:
    """What the store had of a volume that is gone."""
    return Difference(DifferenceKind.OWNERLESS, "", identifier, f"{what}: removed", mended=True)


def orphan(node: str, what: str, identifier: str) -> Difference:
    text = f"{what} {identifier} is tagged as ours, but no record has it there"
    return Difference(DifferenceKind.ORPHAN, node, identifier, text)


def not_configured(node: str, what: str, item: Volume | Snapshot) -> Difference:
    text = f"{what} {item.id} ({item.name}) is on {node}, which is no node of the configuration"
    return Difference(DifferenceKind.MISSING, node, item.id, text)
