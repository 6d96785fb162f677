"""The arbiter of replicated volumes: any controller, over the store (docs/membership.md).

It answers what agents ask by the rules of replication/arbiter_rules.py, each answer one
compare-and-swap, and it takes replicas back into the set when both sides have stated what that
needs. What it knows of them is in followed.py, and decides nothing by itself: a controller that
starts anew waits for what nodes have seen before it answers (rule 17).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from cluster.errors import ClusterError, Conflict, NotFound, Refused
from cluster.membership import Held, Membership
from cluster.memberships import Memberships
from cluster.store import Store
from node_agent.arbiter import Answer
from recovery.followed import Followed
from replication import arbiter_rules
from replication.actions import Do
from replication.record import Statement

_log = logging.getLogger(__name__)

_ATTEMPTS = 5
_GATHER_AGAIN_SECONDS = 0.05
_RULES: dict[Do, Callable[[Held, Statement], arbiter_rules.Answer]] = {
    Do.ASK_ALONE: arbiter_rules.serve_alone,
    Do.ASK_CONNECTED: arbiter_rules.serve_connected,
    Do.ASK_LEAVE: arbiter_rules.leave,
    Do.ASK_FILL: arbiter_rules.fill_anew,
    Do.ASK_CONFIRM: arbiter_rules.confirm,
}
QUESTIONS = frozenset((*_RULES, Do.REPORT))
"""All that an agent may ask."""


class Arbiter:
    """Thread safe. ``secret`` gives what the replicas of a volume share.

    ``gather_seconds``: for so long after the start, a volume is only decided on when all of its
    replicas have told what they have seen.
    """

    def __init__(
        self, store: Store, secret: Callable[[str], str], *, gather_seconds: float = 3.0
    ) -> None:
        self._memberships = Memberships(store)
        self.followed = Followed(store, secret, gather_seconds=gather_seconds)
        """What is known of the volumes, and what agents are told."""
        self._refused: dict[str, str] = {}  # why a replica that has told so is not taken back
        self._answers: Counter[tuple[str, str]] = Counter()
        self._count_lock = threading.Lock()

    def start(self) -> None:
        """Begin to follow the store. Raises Unavailable, DataLoss."""
        self.followed.start()

    def stop(self) -> None:
        """End the following and all subscriptions. Before the store is closed."""
        self.followed.stop()

    # What agents ask and tell

    def ask(
        self, what: Do, volume_id: str, statement: Statement, noted: Membership | None = None
    ) -> Answer:
        """Decide, and write what was decided; ``noted`` is for REPORT.

        Raises NotFound (no such volume), Refused (no such question, or the volume does not concern
        the node), Unavailable and Conflict: then the outcome is unknown.
        """
        if what not in QUESTIONS:
            raise Refused(f"{what} is no question to an arbiter")
        try:
            answer = self._answer(what, volume_id, statement, noted)
        except ClusterError as error:
            self._count(what, type(error).__name__)
            raise
        self._count(what, "granted" if answer.granted else "refused")
        return answer

    def _count(self, what: Do, outcome: str) -> None:
        with self._count_lock:
            self._answers[what.value, outcome] += 1

    def _answer(
        self, what: Do, volume_id: str, statement: Statement, noted: Membership | None
    ) -> Answer:
        rule = _RULES.get(what)
        self.followed.hear(volume_id, statement)
        for _ in range(_ATTEMPTS):
            held = self._memberships.find(volume_id)
            if held is None:
                raise NotFound(f"volume {volume_id} has no membership record")
            self._require_concerned(volume_id, held.record, statement.view.node)
            if rule is None:
                answer = arbiter_rules.report(held, statement.view.node, noted)
            elif reason := self._not_yet(volume_id, held):
                return Answer(False, held, reason)
            elif what is Do.ASK_CONNECTED:
                peer = self.followed.peer(volume_id, statement.view.node)
                answer = arbiter_rules.serve_connected(held, statement, peer)
            else:
                answer = rule(held, statement)
            if answer.record == held.record:
                return Answer(answer.granted, held, answer.reason)
            try:
                written = self._write(volume_id, answer.record, held.revision)
            except Conflict:
                continue
            _log.info("volume %s: %s", volume_id, answer.reason)
            return Answer(answer.granted, written, answer.reason)
        raise Conflict(f"the membership of volume {volume_id} changes all the time: ask again")

    def tell(self, node: str, statements: dict[str, Statement]) -> None:
        """What the node sees, by volume; without any, that it lives."""
        self.followed.hear_of(node)
        for volume_id, statement in statements.items():
            self.followed.hear(volume_id, statement)
            self._take_back(volume_id)

    # What the recovery needs

    def decide(
        self,
        volume_id: str,
        rule: Callable[[Membership], arbiter_rules.Answer],
        *,
        whatever_was_seen: bool = False,
    ) -> str:
        """Write what a person has decided; returns what came of it, in words.

        ``whatever_was_seen``: also where nodes have seen a newer record than the store's. Raises
        NotFound, Refused with the rule's reason, and Conflict: the outcome is unknown.
        """
        for _ in range(_ATTEMPTS):
            held = self._memberships.find(volume_id)
            if held is None:
                raise NotFound(f"volume {volume_id} has no membership record")
            reason = "" if whatever_was_seen else self._not_yet(volume_id, held)
            answer = rule(held.record)
            if reason or not answer.granted:
                raise Refused(f"volume {volume_id}: {reason or answer.reason}")
            if answer.record == held.record:
                return answer.reason
            try:
                self._write(volume_id, answer.record, held.revision)
            except Conflict:
                continue
            _log.warning("volume %s, by a person's decision: %s", volume_id, answer.reason)
            return answer.reason
        raise Conflict(f"the membership of volume {volume_id} changes all the time: try again")

    def answers(self) -> dict[tuple[str, str], int]:
        """How many were given since the start, by question and outcome."""
        with self._count_lock:
            return dict(self._answers)

    def change(
        self,
        volume_id: str,
        rule: Callable[[Held, Mapping[str, Statement]], arbiter_rules.Answer],
    ) -> arbiter_rules.Answer:
        """Write what a rule makes of the record and of what its nodes that are there have stated.

        Raises NotFound, Unavailable and Conflict: then the outcome is unknown.
        """
        for _ in range(_ATTEMPTS):
            held = self._memberships.find(volume_id)
            if held is None:
                raise NotFound(f"volume {volume_id} has no membership record")
            if reason := self._not_yet(volume_id, held):
                return arbiter_rules.Answer(False, held.record, reason)
            answer = rule(held, self.statements(volume_id))
            if answer.granted and answer.record != held.record:
                try:
                    self._write(volume_id, answer.record, held.revision)
                except Conflict:
                    continue
                _log.info("volume %s: %s", volume_id, answer.reason)
            return answer
        raise Conflict(f"the membership of volume {volume_id} changes all the time: repeat")

    def statements(self, volume_id: str) -> Mapping[str, Statement]:
        """What its nodes have told last, by node; without those that are silent now."""
        silent = self.followed.silent()
        stated = self.followed.statements(volume_id)
        return {node: one for node, one in stated.items() if node not in silent}

    # Deciding

    def _require_concerned(self, volume_id: str, record: Membership, node: str) -> None:
        """Raises Refused for a node that neither has nor had a replica, whatever it reports."""
        concerned = self.followed.concerned(volume_id)
        if node not in (record.replicas if concerned is None else concerned):
            raise Refused(f"{node} has no replica of volume {volume_id}")

    def not_yet(self, volume_id: str, held: Held) -> str:
        """Why nothing is decided on this record now, or nothing (rule 17).

        Right after the start it waits for a moment for what the nodes have seen.
        """
        while self.followed.gathered(volume_id, held.record.replicas) is None:
            time.sleep(_GATHER_AGAIN_SECONDS)
        return self._not_yet(volume_id, held)

    def _not_yet(self, volume_id: str, held: Held) -> str:
        """As ``not_yet``, at once."""
        told = self.followed.gathered(volume_id, held.record.replicas)
        if told is None:
            return "the controller has just started, and waits for what the nodes have seen"
        return arbiter_rules.rolled_back(held, told)

    def _take_back(self, volume_id: str) -> None:
        """A replica that is complete again comes back into the set (rule 4)."""
        held, told = self.followed.find(volume_id)
        if held is None:
            self._refused.pop(volume_id, None)
            return
        stated = [told[node] for node in held.record.replicas if node in told]
        if len(stated) != 2:
            return
        if set(held.record.members) == set(held.record.replicas) or self._not_yet(volume_id, held):
            return
        answer = arbiter_rules.rejoin(held, *stated)
        if self._refused.get(volume_id) != answer.reason:
            self._refused[volume_id] = answer.reason
            if not answer.granted:
                _log.info("volume %s: its set stays as it is: %s", volume_id, answer.reason)
        if answer.granted:
            try:
                self._write(volume_id, answer.record, held.revision)
            except (Conflict, NotFound):
                return  # something else was decided: both will state what they see after that
            _log.info("volume %s: %s", volume_id, answer.reason)

    def _write(self, volume_id: str, record: Membership, revision: int) -> Held:
        written = self._memberships.write(volume_id, record, revision)
        self.followed.learn(volume_id, written)
        return written
