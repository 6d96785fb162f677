"""The arbiter of replicated volumes: any controller, over the store (docs/membership.md).

It answers what agents ask by the rules of replication/arbiter_rules.py, each answer one
compare-and-swap; it hands each agent the records of its volumes and what the agents of the other
replicas have stated; and it takes replicas back into the set when both sides have stated what that
needs. What it keeps in memory decides nothing by itself: a controller that starts anew waits for
what nodes have seen before it answers (rule 17).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType

from cluster.errors import ClusterError, Conflict, NotFound, Refused
from cluster.membership import Held, Membership
from cluster.memberships import Memberships
from cluster.model import Replication, Volume
from cluster.records import volume_table
from cluster.store import RevisionExpired, Store
from node_agent.arbiter import Answer, Assignment
from recovery.failover import SILENT_SECONDS, Replicated
from replication import arbiter_rules
from replication.membership import Do
from replication.record import Statement

_log = logging.getLogger(__name__)

_ATTEMPTS = 5
_WATCH_SECONDS = 0.25
# An agent that lost its controller notices in 5 s, tries again each 2 s, then beats each second.
_FIRST_WORD_SECONDS = 10.0
_RULES: dict[Do, Callable[[Held, Statement], arbiter_rules.Answer]] = {
    Do.ASK_ALONE: arbiter_rules.serve_alone,
    Do.ASK_CONNECTED: arbiter_rules.serve_connected,
    Do.ASK_LEAVE: arbiter_rules.leave,
    Do.ASK_CONFIRM: arbiter_rules.confirm,
}
QUESTIONS = frozenset((*_RULES, Do.REPORT))
"""All that an agent may ask."""


@dataclass(frozen=True)
class _Known:
    held: Held
    replication: Replication
    leftovers: tuple[str, ...] = ()

    @property
    def nodes(self) -> frozenset[str]:
        """All that have to know of the volume: also those that had a replica until now.

        And, in a quarantine, those that have one by what the others have noted.
        """
        record = self.held.record
        noted = [told.record.replicas for told in record.reports if told.record is not None]
        places = (place.node for place in self.replication.places)
        told = (node for nodes in noted for node in nodes)
        return frozenset((*record.replicas, *places, *self.leftovers, *told))


class Arbiter:
    """Thread safe. ``secret`` gives what the replicas of a volume share.

    ``gather_seconds``: for so long after the start, a volume is only decided on when all of its
    replicas have told what they have seen.
    """

    def __init__(
        self, store: Store, secret: Callable[[str], str], *, gather_seconds: float = 3.0
    ) -> None:
        self._memberships = Memberships(store)
        self._volumes = volume_table(store)
        self._secret = secret
        self._gather_seconds = gather_seconds
        self._changed = threading.Condition()
        self._known: dict[str, _Known] = {}
        self._statements: dict[tuple[str, str], Statement] = {}
        self._go_alone: dict[str, tuple[str, int]] = {}  # node, and the revision it is good for
        self._words: dict[str, str] = {}
        self._heard: dict[str, float] = {}
        self._refused: dict[str, str] = {}  # why a replica that has told so is not taken back
        self._answers: Counter[tuple[str, str]] = Counter()
        self._failovers = 0
        self._subscriptions: dict[str, Subscription] = {}
        self._revision = 0
        self._began = time.monotonic()
        self._decides_at = self._began + gather_seconds
        self._stopped = False
        self._thread = threading.Thread(target=self._follow, name="arbiter", daemon=True)

    def start(self) -> None:
        """Begin to follow the store. Raises Unavailable, DataLoss."""
        self._read_all()
        self._thread.start()

    def stop(self) -> None:
        """End the following and all subscriptions. Before the store is closed."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

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
        with self._changed:
            self._answers[what.value, outcome] += 1

    def _answer(
        self, what: Do, volume_id: str, statement: Statement, noted: Membership | None
    ) -> Answer:
        rule = _RULES.get(what)
        self._hear(volume_id, statement)
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
                with self._changed:
                    known = self._known.get(volume_id)
                    node = statement.view.node
                    peer = self._peer(volume_id, known, node) if known is not None else None
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
        with self._changed:
            self._heard[node] = time.monotonic()
        for volume_id, statement in statements.items():
            self._hear(volume_id, statement)
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

    def known(self, volume_id: str) -> tuple[Membership | None, dict[str, Statement]]:
        """The record, and what the agents of its replicas stated last."""
        with self._changed:
            known = self._known.get(volume_id)
            return (
                (None, {}) if known is None else (known.held.record, self._stated(volume_id, known))
            )

    def records(self) -> dict[str, Membership]:
        """Of all volumes, as they are known."""
        with self._changed:
            return {volume_id: known.held.record for volume_id, known in self._known.items()}

    def answers(self) -> dict[tuple[str, str], int]:
        """How many were given since the start, by question and outcome."""
        with self._changed:
            return dict(self._answers)

    @property
    def failovers(self) -> int:
        """How often a survivor was told that it need not wait, since the start."""
        with self._changed:
            return self._failovers

    def tell_words(self, words: dict[str, str]) -> None:
        """What is made of silent nodes, by volume: handed on to their nodes, for people."""
        with self._changed:
            changed = {
                one
                for one in words.keys() | self._words.keys()
                if words.get(one) != self._words.get(one)
            }
            self._words = dict(words)
            for volume_id in changed:
                if (known := self._known.get(volume_id)) is not None:
                    self._hand_out(volume_id, known.nodes)

    def word(self, volume_id: str) -> str:
        """What was told last; "" for nothing."""
        with self._changed:
            return self._words.get(volume_id, "")

    def let_go_alone(self, volume_id: str, node: str) -> None:
        """The node, on which the volume is published, need not wait for the other replica."""
        with self._changed:
            known = self._known.get(volume_id)
            wanted = (node, known.held.revision) if known is not None else None
            if known is None or self._go_alone.get(volume_id) == wanted:
                return
            if known.held.record.primary == node:
                self._failovers += 1
                self._go_alone[volume_id] = (node, known.held.revision)
                self._hand_out(volume_id, (node,))

    def change(
        self,
        volume_id: str,
        rule: Callable[[Held, Mapping[str, Statement]], arbiter_rules.Answer],
    ) -> arbiter_rules.Answer:
        """Write what a rule makes of the record and of what its nodes have stated.

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
        """What its nodes have told last, by node."""
        with self._changed:
            known = self._known.get(volume_id)
            return self._stated(volume_id, known) if known is not None else {}

    def silent(self) -> frozenset[str]:
        """Nodes that have not spoken lately.

        Those with a replica that have not at all count once every agent that lives would have
        found this controller: one of them may have died before it started.
        """
        now = time.monotonic()
        with self._changed:
            silent = {n for n, at in self._heard.items() if now - at > SILENT_SECONDS}
            if now - self._began > _FIRST_WORD_SECONDS:
                for known in self._known.values():
                    silent |= known.nodes - self._heard.keys()
            return frozenset(silent)

    def heard(self) -> frozenset[str]:
        """Nodes that have spoken since the start."""
        with self._changed:
            return frozenset(self._heard)

    def unsettled(self, silent: Collection[str]) -> list[Replicated]:
        """The volumes with a silent member, or published where there is no connection."""
        nodes = frozenset(silent)
        with self._changed:
            return [
                Replicated(volume_id, known.held.record, self._stated(volume_id, known))
                for volume_id, known in self._known.items()
                if not nodes.isdisjoint(known.held.record.members)
                or self._is_apart(volume_id, known.held.record)
            ]

    def _is_apart(self, volume_id: str, record: Membership) -> bool:
        stated = self._statements.get((volume_id, record.primary))
        return len(record.members) > 1 and stated is not None and not stated.view.connected

    # What agents are told

    def subscribe(self, node: str) -> Subscription:
        """All assignments of the node from now on. An older subscription of it ends."""
        with self._changed:
            mine = [volume_id for volume_id, known in self._known.items() if node in known.nodes]
            subscription = Subscription(self, node, mine)
            self._subscriptions[node] = subscription
            self._heard[node] = time.monotonic()
            self._changed.notify_all()
            return subscription

    def _wait(
        self, subscription: Subscription, seconds: float
    ) -> tuple[list[Assignment], list[str]] | None:
        until = time.monotonic() + seconds
        with self._changed:
            while not subscription.due and self._is_live(subscription):
                left = until - time.monotonic()
                if left <= 0:
                    return [], []
                self._changed.wait(left)
            if not self._is_live(subscription):
                return None
            due, subscription.due = list(subscription.due), {}
            found = {one: self._known[one] for one in due if one in self._known}
            node = subscription.node
            mine = {one: known for one, known in found.items() if node in known.nodes}
            assignments = [self._assignment(one, known, node) for one, known in mine.items()]
            return assignments, [one for one in due if one not in mine]

    def _is_live(self, subscription: Subscription) -> bool:
        return not self._stopped and self._subscriptions.get(subscription.node) is subscription

    def _end(self, subscription: Subscription) -> None:
        with self._changed:
            if self._subscriptions.get(subscription.node) is subscription:
                del self._subscriptions[subscription.node]
                self._changed.notify_all()

    def _assignment(self, volume_id: str, known: _Known, node: str) -> Assignment:
        return Assignment(
            volume_id,
            known.held,
            known.replication,
            self._secret(volume_id),
            self._peer(volume_id, known, node),
            self._go_alone.get(volume_id) == (node, known.held.revision),
            self._words.get(volume_id, ""),
        )

    def _stated(self, volume_id: str, known: _Known) -> dict[str, Statement]:
        found = {node: self._statements.get((volume_id, node)) for node in known.nodes}
        return {node: statement for node, statement in found.items() if statement is not None}

    def _peer(self, volume_id: str, known: _Known, node: str) -> Statement | None:
        """Of the other replica; what one that was given up tells concerns nobody."""
        others = (other for other in known.held.record.replicas if other != node)
        stated = (self._statements.get((volume_id, other)) for other in others)
        return next((one for one in stated if one is not None), None)

    def _hand_out(self, volume_id: str, nodes: Collection[str]) -> None:
        """Under the lock."""
        for node in nodes:
            if (subscription := self._subscriptions.get(node)) is not None:
                subscription.due[volume_id] = None
        self._changed.notify_all()

    # Deciding

    def _hear(self, volume_id: str, statement: Statement) -> None:
        node = statement.view.node
        with self._changed:
            self._heard[node] = time.monotonic()
            known = self._known.get(volume_id)
            if known is None or node not in known.nodes:
                return
            if self._statements.get((volume_id, node)) != statement:
                self._statements[volume_id, node] = statement
                self._hand_out(volume_id, known.nodes - {node})

    def _require_concerned(self, volume_id: str, record: Membership, node: str) -> None:
        """Raises Refused for a node that neither has nor had a replica, whatever it reports."""
        with self._changed:
            known = self._known.get(volume_id)
        if node not in (known.nodes if known is not None else record.replicas):
            raise Refused(f"{node} has no replica of volume {volume_id}")

    def _not_yet(self, volume_id: str, held: Held) -> str:
        """Why nothing is decided on this record now, or nothing (rule 17)."""
        replicas = held.record.replicas
        with self._changed:
            told = [self._statements.get((volume_id, node)) for node in replicas]
            early = time.monotonic() < self._decides_at and None in told
        if early:
            return "the controller has just started, and waits for what the nodes have seen"
        return arbiter_rules.rolled_back(held, [one for one in told if one is not None])

    def _take_back(self, volume_id: str) -> None:
        """A replica that is complete again comes back into the set (rule 4)."""
        with self._changed:
            known = self._known.get(volume_id)
            replicas = known.held.record.replicas if known is not None else ()
            found = [self._statements.get((volume_id, node)) for node in replicas]
            stated = [one for one in found if one is not None]
        if known is None or len(stated) != 2:
            return
        held = known.held
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
        self._learn(volume_id, written)
        return written

    # Following the store

    def _follow(self) -> None:
        while True:
            try:
                for change in self._memberships.watch(self._revision, timeout=_WATCH_SECONDS):
                    self._learn(change.volume_id, change.held)
                    self._revision = change.revision
            except RevisionExpired:
                self._try_to_read_all()
            except ClusterError as error:
                _log.warning("the memberships cannot be followed: %s", error)
                self._try_to_read_all()
            with self._changed:
                if self._stopped:
                    return

    def _try_to_read_all(self) -> None:
        try:
            self._read_all()
        except ClusterError as error:
            _log.warning("the memberships cannot be read: %s", error)
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, _WATCH_SECONDS)

    def _read_all(self) -> None:
        found, revision = self._memberships.list()
        if revision < self._revision:
            _log.error("the store has gone back from revision %d to %d", self._revision, revision)
            with self._changed:
                self._statements.clear()
                self._decides_at = time.monotonic() + self._gather_seconds
        present = dict(found)
        with self._changed:
            gone = self._known.keys() - present.keys()
        for volume_id in gone:
            self._learn(volume_id, None)
        for volume_id, held in present.items():
            self._learn(volume_id, held, fresh=True)
        self._revision = revision

    def _learn(self, volume_id: str, held: Held | None, *, fresh: bool = False) -> None:
        """``fresh``: whatever was known, this is what the store holds."""
        # Afresh: a replica that was replaced is in the volume's record before it is in this one.
        volume = self._volume(volume_id) if held is not None else None
        replication = volume.replication if volume is not None else None
        leftovers = volume.leftovers if volume is not None else ()
        with self._changed:
            known = self._known.get(volume_id)
            if known is not None and held is not None:
                # The watch brings what was written here a moment ago once more, and older ones.
                older = held.revision < known.held.revision and not fresh
                now = (held, replication, leftovers)
                if older or now == (known.held, known.replication, known.leftovers):
                    return
            nodes = known.nodes if known is not None else frozenset()
            if held is None or replication is None:
                self._known.pop(volume_id, None)
                self._go_alone.pop(volume_id, None)
                for node in nodes:
                    self._statements.pop((volume_id, node), None)
            else:
                self._known[volume_id] = _Known(held, replication, leftovers)
                nodes |= self._known[volume_id].nodes
            self._hand_out(volume_id, nodes)

    def _volume(self, volume_id: str) -> Volume | None:
        entry = self._volumes.find_id(volume_id)
        return entry.item if entry is not None else None


class Subscription:
    """What one node is told. Use it as a context, and read it from one thread."""

    def __init__(self, arbiter: Arbiter, node: str, due: Collection[str]) -> None:
        self.node = node
        self.due: dict[str, None] = dict.fromkeys(due)  # the arbiter's, under its lock
        self._arbiter = arbiter

    def changes(self, seconds: float) -> Iterator[tuple[list[Assignment], list[str]]]:
        """Assignments that are new or changed, and volumes that are gone; at first all of them.

        Only the newest of a volume counts, however slowly they are read. Nothing of either after
        each ``seconds`` without a change. Ends with the arbiter, or with a newer subscription.
        """
        while (found := self._arbiter._wait(self, seconds)) is not None:
            yield found

    def end(self) -> None:
        """Its changes end at once. From any thread."""
        self._arbiter._end(self)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()
