"""When a survivor need not wait for the other node: a pure decision (design: "Failover").

A wrong guess about a dead node costs a restart, never data: the other node is taken out of the
set before the survivor acknowledges anything (docs/membership.md, rules 3 and 9). What is guarded
against here is a needless failover, and one that a disturbance of our own would cause everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cluster.membership import Membership
from replication.record import Connection, Role, Statement

SILENT_SECONDS = 3.0
"""A node that has said nothing for so long is silent: three of its heartbeats are missing."""

DOUBTFUL_SECONDS = 1.5
"""Not silent yet, but one heartbeat is missing. Of nodes that are lost at one instant, the last
words are up to a heartbeat apart: the first one to be silent is not to be taken for the only one.
"""

_LINK_SECONDS = 3.0  # for so long both replicas try to connect before the link counts as lost
_SET_UP_SECONDS = 15.0  # for so long a replica may take to be set up


@dataclass(frozen=True)
class Replicated:
    """A volume as a controller knows it: the record, and what its replicas' agents stated last."""

    volume_id: str
    record: Membership
    statements: Mapping[str, Statement]


@dataclass(frozen=True)
class Verdict:
    """``go_alone``: the node that need not wait, "" for none. ``reason``: in words, "" if none."""

    go_alone: str = ""
    reason: str = ""


def isolated(silent: Collection[str], nodes: Collection[str]) -> str:
    """Why a controller had better do nothing: it may be the one who is cut off. "" if it is not.

    One silent node is that node's trouble, however few there are.
    """
    if len(silent) > 1 and 2 * len(silent) >= len(nodes):
        names = ", ".join(sorted(silent))
        return f"{len(silent)} of {len(nodes)} nodes are silent at once ({names}): standing down"
    return ""


def judge(
    volume: Replicated,
    silent: Collection[str],
    nodes: Collection[str],
    *,
    doubtful: Collection[str] = (),
    apart_seconds: float = 0.0,
) -> Verdict:
    """Whether the volume's publisher may go on without the other member.

    Wanted for that: the other agent is silent, and the publisher's own agent, which is not, sees no
    connection between the replicas. A replication link that is alive proves a kernel that is.
    ``doubtful`` nodes may be as silent as the silent ones: by them an isolation of our own is told.
    ``apart_seconds``: for so long the two have had no connection. After a while an agent that is
    not silent, and has told that its node is no primary, need not be waited for either.
    """
    record, node = volume.record, volume.record.primary
    if not node or node not in record.members or record.quarantine:
        return Verdict()
    others = record.others(node)
    lost = [member for member in others if member in silent]
    if not lost:
        if others and not_connected(volume) and apart_seconds >= _patience(volume, others):
            return Verdict(node, f"{node} has no link to {', '.join(others)}, which is no primary")
        return Verdict()
    if node in silent:
        return Verdict("", f"{node} and {', '.join(lost)} are both silent")
    stated = volume.statements.get(node)
    if stated is None:
        return Verdict("", f"{', '.join(lost)} is silent, and {node} has not told what it sees")
    if stated.view.connected:
        words = "its agent is silent, its replication link is alive"
        return Verdict("", f"{', '.join(lost)}: {words}: standing down")
    if reason := isolated({*silent, *doubtful}, nodes):
        return Verdict("", reason)
    return Verdict(node, f"{', '.join(lost)} is silent, and {node} has lost it as well")


def _patience(volume: Replicated, others: Collection[str]) -> float:
    """How long a link that is away is waited for, in seconds; without end for another primary."""
    told = [volume.statements.get(member) for member in others]
    views = [statement.view for statement in told if statement is not None]
    if len(views) < len(others) or any(view.role is not Role.SECONDARY for view in views):
        return math.inf
    trying = all(view.connection is Connection.CONNECTING for view in views)
    return _LINK_SECONDS if trying else _SET_UP_SECONDS


def not_connected(volume: Replicated) -> bool:
    """Whether the publisher's agent has told that it sees no connection, and is no primary yet."""
    stated = volume.statements.get(volume.record.primary)
    return stated is not None and not stated.view.connected and stated.view.role is Role.SECONDARY
