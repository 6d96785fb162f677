"""What a change of replicas asks of the agents and the arbiter, and how long it waits for a yes.

Agents have to have seen the last step before they take the next one, which they do within moments.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from cluster.agents import Agents
from cluster.errors import Unavailable
from cluster.membership import Held
from cluster.memberships import Memberships
from cluster.model import Volume
from cluster.pools import PoolLedger
from replication.arbiter_rules import Answer
from replication.record import Connection, Disk, Statement

_REPEAT_SECONDS = 0.1

Rule = Callable[[Held, Mapping[str, Statement]], Answer]


class Decider(Protocol):
    """``recovery.arbiter.Arbiter``."""

    def change(self, volume_id: str, rule: Rule) -> Answer: ...
    def statements(self, volume_id: str) -> Mapping[str, Statement]: ...


class Asking:
    """``patience_seconds``: how long each call repeats its question before it raises Unavailable.

    All may raise NotFound, Conflict and Unavailable: then the outcome is unknown.
    """

    def __init__(
        self,
        memberships: Memberships,
        agents: Agents,
        pools: PoolLedger,
        decider: Decider,
        patience_seconds: float,
    ) -> None:
        self._memberships = memberships
        self._agents = agents
        self._pools = pools
        self._decider = decider
        self._patience_seconds = patience_seconds

    def statements(self, volume_id: str) -> Mapping[str, Statement]:
        """What its nodes have told last, by node; without those that are silent."""
        return self._decider.statements(volume_id)

    def update(self, node: str, volume: Volume) -> None:
        """Let the node keep that record, and bring what is under the volume in line.

        Raises Refused and NoSpace as well.
        """
        until = time.monotonic() + self._patience_seconds
        while True:
            ticket = self._pools.ticket()
            try:
                pool = self._agents.agent(node).update_volume(volume)
            except Unavailable:
                if time.monotonic() > until:
                    raise
                time.sleep(_REPEAT_SECONDS)
                continue
            self._pools.report(node, pool, ticket)
            return

    def grant(self, volume_id: str, rule: Rule) -> None:
        """Have the arbiter write what the rule makes of the membership record."""
        self._until(volume_id, lambda: _refusal(self._decider.change(volume_id, rule)))

    def until_apart(self, volume_id: str, keeper: str) -> None:
        """Until the keeper's DRBD can be given another peer."""
        self._until(volume_id, lambda: self._why_not_apart(volume_id, keeper))

    def until_confirmed(self, volume_id: str) -> None:
        """Until the members have all by themselves, so that another replica can be removed."""
        self._until(volume_id, lambda: self._why_not_confirmed(volume_id))

    def _why_not_confirmed(self, volume_id: str) -> str:
        held = self._memberships.find(volume_id)
        if held is None or held.record.confirmed:
            return ""
        keeper = ", ".join(held.record.members)
        return (
            f"{keeper} has not written out its disk's cache yet, and {held.record.active} was the"
            " last primary: what that one has is kept until then"
        )

    def _why_not_apart(self, volume_id: str, keeper: str) -> str:
        held = self._memberships.find(volume_id)
        stated = self._decider.statements(volume_id).get(keeper)
        if held is None or stated is None or stated.revision != held.revision:
            return f"{keeper} has not told yet that it knows of the change"
        view = stated.view
        if view.disk is not Disk.ABSENT and view.connection is not Connection.STANDALONE:
            return f"{keeper} has not let go of its former peer yet ({view.connection})"
        return ""

    def _until(self, volume_id: str, why_not: Callable[[], str]) -> None:
        """Raises Unavailable with the last reason why not."""
        until = time.monotonic() + self._patience_seconds
        while reason := why_not():
            if time.monotonic() > until:
                raise Unavailable(f"volume {volume_id}: {reason}")
            time.sleep(_REPEAT_SECONDS)


def _refusal(answer: Answer) -> str:
    return "" if answer.granted else answer.reason
