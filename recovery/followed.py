"""What the arbiter knows: the store's memberships, followed, and what the agents have told.

It hands each agent the records of its volumes and what the agents of the other replicas have
stated. Nothing here decides anything; what is only kept in memory is gathered anew by a controller
that starts (docs/membership.md, rule 17).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType

from cluster.errors import ClusterError
from cluster.membership import Held, Membership
from cluster.memberships import Memberships
from cluster.model import Replication
from cluster.records import volume_table
from cluster.store import RevisionExpired, Store
from node_agent.arbiter import Assignment
from recovery.failover import SILENT_SECONDS, Replicated
from replication.record import Statement

_log = logging.getLogger(__name__)

_WATCH_SECONDS = 0.25
# An agent that lost its controller notices in 5 s, tries again each 2 s, then beats each second.
_FIRST_WORD_SECONDS = 10.0

Told = tuple[list[Assignment], list[str]]
"""Assignments that are new or changed, and volumes that are gone."""


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


class Followed:
    """Thread safe. ``secret`` gives what the replicas of a volume share.

    ``gather_seconds``: for so long after the start, what a node has seen may still be missing.
    """

    def __init__(
        self, store: Store, secret: Callable[[str], str], *, gather_seconds: float
    ) -> None:
        self._memberships = Memberships(store)
        self._volumes = volume_table(store)
        self._secret = secret
        self._gather_seconds = gather_seconds
        self._changed = threading.Condition()
        self._known: dict[str, _Known] = {}
        self._with_replicas: frozenset[str] | None = None  # nodes of all known; None: not made yet
        self._statements: dict[tuple[str, str], Statement] = {}
        self._go_alone: dict[str, tuple[str, int]] = {}  # node, and the revision it is good for
        self._words: dict[str, str] = {}
        self._heard: dict[str, float] = {}
        self._failovers = 0
        self._subscriptions: dict[str, Subscription] = {}
        self._revision = 0
        self._began = time.monotonic()
        self._gathered_at = self._began + gather_seconds
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
            for subscription in self._subscriptions.values():
                subscription.end()
            self._changed.notify_all()
        self._thread.join()

    # What agents tell

    def hear_of(self, node: str) -> None:
        """It lives."""
        with self._changed:
            self._heard[node] = time.monotonic()

    def hear(self, volume_id: str, statement: Statement) -> None:
        """What a node sees of a volume; nobody is told what one without a replica says."""
        node = statement.view.node
        with self._changed:
            self._heard[node] = time.monotonic()
            known = self._known.get(volume_id)
            if known is None or node not in known.nodes:
                return
            if self._statements.get((volume_id, node)) != statement:
                self._statements[volume_id, node] = statement
                self._hand_out(volume_id, known.nodes - {node})

    def silent(self, seconds: float = SILENT_SECONDS) -> frozenset[str]:
        """Nodes that have not spoken for so long.

        Those with a replica that have not at all count once every agent that lives would have
        found this controller: one of them may have died before it started.
        """
        now = time.monotonic()
        with self._changed:
            silent = {n for n, at in self._heard.items() if now - at > seconds}
            if now - self._began > _FIRST_WORD_SECONDS:
                if self._with_replicas is None:
                    found = (known.nodes for known in self._known.values())
                    self._with_replicas = frozenset().union(*found)
                silent |= self._with_replicas - self._heard.keys()
            return frozenset(silent)

    # What is known of a volume

    def find(self, volume_id: str) -> tuple[Held | None, dict[str, Statement]]:
        """The record, and what the agents of its replicas stated last, by node."""
        with self._changed:
            known = self._known.get(volume_id)
            return (None, {}) if known is None else (known.held, self._stated(volume_id, known))

    def statements(self, volume_id: str) -> Mapping[str, Statement]:
        """What its nodes have told last, by node."""
        return self.find(volume_id)[1]

    def gathered(self, volume_id: str, nodes: Collection[str]) -> list[Statement] | None:
        """What these nodes have told of it; None while one that has not may be about to."""
        with self._changed:
            found = [self._statements.get((volume_id, node)) for node in nodes]
            if time.monotonic() < self._gathered_at and None in found:
                return None
        return [one for one in found if one is not None]

    def peer(self, volume_id: str, node: str) -> Statement | None:
        """What the other replica's agent stated last."""
        with self._changed:
            known = self._known.get(volume_id)
            return self._peer(volume_id, known, node) if known is not None else None

    def concerned(self, volume_id: str) -> frozenset[str] | None:
        """All nodes that have to know of the volume; None where it is not known."""
        with self._changed:
            known = self._known.get(volume_id)
            return known.nodes if known is not None else None

    def records(self) -> dict[str, Membership]:
        """Of all volumes, as they are known."""
        with self._changed:
            return {volume_id: known.held.record for volume_id, known in self._known.items()}

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

    # What is decided of silent nodes

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

    @property
    def failovers(self) -> int:
        """How often a survivor was told that it need not wait, since the start."""
        with self._changed:
            return self._failovers

    # What agents are told

    def subscribe(self, node: str) -> Subscription:
        """All assignments of the node from now on. An older subscription of it ends."""
        with self._changed:
            mine = [volume_id for volume_id, known in self._known.items() if node in known.nodes]
            subscription = Subscription(mine, self._changed, lambda due: self._told(node, due))
            if (older := self._subscriptions.get(node)) is not None:
                older.end()
            if self._stopped:
                subscription.end()
            self._subscriptions[node] = subscription
            self._heard[node] = time.monotonic()
            return subscription

    def _told(self, node: str, due: Collection[str]) -> Told:
        """Under the lock."""
        found = {one: self._known[one] for one in due if one in self._known}
        mine = {one: known for one, known in found.items() if node in known.nodes}
        assignments = [self._assignment(one, known, node) for one, known in mine.items()]
        return assignments, [one for one in due if one not in mine]

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
                subscription.add(volume_id)

    # Following the store

    def learn(self, volume_id: str, held: Held | None, *, fresh: bool = False) -> None:
        """The store has this record of it, or none any more; ``fresh``: whatever was known.

        Raises Unavailable and DataLoss when the store fails.
        """
        # Afresh: a replica that was replaced is in the volume's record before it is in this one.
        entry = self._volumes.find_id(volume_id) if held is not None else None
        volume = entry.item if entry is not None else None
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
            self._with_replicas = None
            if held is None or replication is None:
                self._known.pop(volume_id, None)
                self._go_alone.pop(volume_id, None)
                for node in nodes:
                    self._statements.pop((volume_id, node), None)
            else:
                self._known[volume_id] = _Known(held, replication, leftovers)
                nodes |= self._known[volume_id].nodes
            self._hand_out(volume_id, nodes)

    def _follow(self) -> None:
        while True:
            try:
                for change in self._memberships.watch(self._revision, timeout=_WATCH_SECONDS):
                    self.learn(change.volume_id, change.held)
                    self._revision = change.revision
            except RevisionExpired:
                self._try_to_read_all()
            except ClusterError as error:
                _log.warning("the memberships cannot be followed: %s", error)
                self._try_to_read_all()
            except Exception:
                # Whatever it is: without this thread no node hears of anything any more.
                _log.exception("the memberships cannot be followed")
                self._try_to_read_all()
            with self._changed:
                if self._stopped:
                    return

    def _try_to_read_all(self) -> None:
        try:
            self._read_all()
        except Exception as error:
            _log.warning("the memberships cannot be read: %r", error)
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, _WATCH_SECONDS)

    def _read_all(self) -> None:
        found, revision = self._memberships.list()
        if revision < self._revision:
            _log.error("the store has gone back from revision %d to %d", self._revision, revision)
            with self._changed:
                self._statements.clear()
                self._gathered_at = time.monotonic() + self._gather_seconds
        present = dict(found)
        with self._changed:
            gone = self._known.keys() - present.keys()
        for volume_id in gone:
            self.learn(volume_id, None)
        for volume_id, held in present.items():
            self.learn(volume_id, held, fresh=True)
        self._revision = revision


class Subscription:
    """What one node is told. Use it as a context, and read it from one thread."""

    def __init__(
        self,
        due: Collection[str],
        changed: threading.Condition,
        told: Callable[[Collection[str]], Told],
    ) -> None:
        """``changed`` is the lock of what ``told`` reads, and is held when it is called."""
        self._due: dict[str, None] = dict.fromkeys(due)
        self._changed = changed
        self._told = told
        self._ended = False

    def changes(self, seconds: float) -> Iterator[Told]:
        """Assignments that are new or changed, and volumes that are gone; at first all of them.

        Only the newest of a volume counts, however slowly they are read. Nothing of either after
        each ``seconds`` without a change. Ends with the arbiter, or with a newer subscription.
        """
        while (found := self._next(seconds)) is not None:
            yield found

    def add(self, volume_id: str) -> None:
        """Something about it is to be told."""
        with self._changed:
            if not self._ended:
                self._due[volume_id] = None
                self._changed.notify_all()

    def end(self) -> None:
        """Its changes end at once. From any thread."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _next(self, seconds: float) -> Told | None:
        with self._changed:
            self._changed.wait_for(lambda: self._due or self._ended, seconds)
            if self._ended:
                return None
            due, self._due = self._due, {}
            return self._told(due)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()
