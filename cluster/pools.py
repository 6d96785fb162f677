"""What is known of every node's pools, and what is reserved in them for creations in flight.

A report counts what was there when the agent made it, and nobody can tell whether a creation that
was in flight then is in it. So a reservation is taken off every report that was asked for before
the creation ended, and a request that does not fit is refused only on a report that was asked for
after the request came, without any reservation. Until then it waits for those in flight.

Order is kept by *tickets*, a count that rises with everything that is asked and everything that
ends: a report with a ticket above that of a creation's end has the creation in it.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType

from cluster.agents import Agents, Inventory, PoolReport
from cluster.capacity import capacity, refusal, why
from cluster.errors import ClusterError, Unavailable
from cluster.model import TOPOLOGY_NODE_KEY, VolumeSpec
from cluster.placement import (
    Footprint,
    NodeView,
    PlacementRequest,
    Segments,
    footprint,
    less,
    permits,
    place,
)

_NOTHING: Mapping[str, str] = MappingProxyType({})
# Whoever needs a node's answer waits so long for it, and then goes on without: see ``_Node.hangs``.
_PATIENCE_SECONDS = 10.0


@dataclass
class _Node:
    topology: Segments | None = None  # None until the node has told it
    pools: dict[str, tuple[int, PoolReport]] = field(default_factory=dict)  # with its ticket
    ticket: int = 0  # of the last time that it was asked for all pools
    whole_ticket: int = 0  # of the last time that it was asked for its inventory
    trouble: str = "not asked yet"
    replication_address: str = ""
    replication_trouble: str = ""
    asked: Future[None] | None = None  # while it is being asked, by one thread for everybody
    hangs: bool = False  # being asked for so long that it is no use to wait for the answer
    doubted: int = 0  # ticket of the last call to it that failed

    def asked_at(self, whole: bool) -> int:
        return self.whole_ticket if whole else self.ticket


class Reservation:
    """Room on one node, from ``PoolLedger.reserve`` until the end of the ``with`` block."""

    def __init__(
        self,
        ledger: PoolLedger,
        node: str,
        pool: str,
        taken: Footprint,
        ticket: int,
        replication_address: str,
    ) -> None:
        self.node = node
        self.pool = pool
        self.replication_address = replication_address  # by which the node was chosen
        self.taken = taken
        self.ended = 0  # ticket of the end; 0 while in flight
        self._ledger = ledger
        self._ticket = ticket

    def report(self, pool: PoolReport) -> None:
        """The agent's answer to the creation: the pool with the volume in it."""
        self._ledger.report(self.node, pool, self._ticket, self)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ledger.end(self)


class PoolLedger:
    """Thread safe. ``wait_seconds``: how long a request waits for creations in flight to end.

    ``patience_seconds``: how long for the answer of a node that may matter to it. ``domain_key``:
    the topology segment whose value is a failure domain; replicas are in different ones.
    """

    def __init__(
        self,
        agents: Agents,
        *,
        wait_seconds: float = 30.0,
        patience_seconds: float = _PATIENCE_SECONDS,
        domain_key: str = TOPOLOGY_NODE_KEY,
    ) -> None:
        self._domain_key = domain_key
        self._agents = agents
        self._wait_seconds = wait_seconds
        self._patience_seconds = patience_seconds
        self._changed = threading.Condition()
        self._nodes = {name: _Node() for name in agents.names()}
        self._reservations: list[Reservation] = []
        self._last_ticket = 0

    def ticket(self) -> int:
        """To be taken before an agent is asked for what is then given to ``report``."""
        with self._changed:
            self._last_ticket += 1
            return self._last_ticket

    def reserve(
        self, request: PlacementRequest, refused: Mapping[str, str] = _NOTHING
    ) -> tuple[Reservation, ...]:
        """Choose the best nodes, one for each new replica, and hold room on all of them together.

        ``refused`` are nodes that are out of question, with the reason. Raises NoSpace with the
        reason for each node, OutOfRange when no pool could ever have that size, and Unavailable
        when no permitted node answers or creations in flight do not end in time.
        """
        came = self.ticket()
        deadline = time.monotonic() + self._wait_seconds
        self._refresh(lambda: self._never_asked(request))
        while True:
            with self._changed:
                choice = place(request, self._views(refused), self._domain_key)
                if choice.nodes:
                    chosen = choice.nodes[: request.count]
                    return tuple(self._hold(name, request) for name in chosen)
                outdated = self._asked_before(came, request)
                if not outdated:
                    exact = place(request, self._views(refused, reserved=False), self._domain_key)
                    if not exact.nodes:
                        raise refusal(request, exact, self._views(_NOTHING), refused)
                    if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                        raise Unavailable(f"other creations are under way: {why(choice)}")
            if outdated:
                self._refresh(lambda: self._asked_before(came, request))

    def report(
        self, node: str, pool: PoolReport, ticket: int, reservation: Reservation | None = None
    ) -> None:
        """A pool as an agent answered it, with the ticket that was taken before it was asked.

        The report has what ``reservation`` was for in it, so that is no longer taken off.
        """
        with self._changed:
            if self._apply(node, pool, ticket) and reservation in self._reservations:
                self._reservations.remove(reservation)
            self._changed.notify_all()

    def observe(self, node: str, inventory: Inventory | ClusterError, ticket: int) -> None:
        """A whole inventory, or why there is none; the ticket was taken before it was asked for."""
        with self._changed:
            if isinstance(inventory, ClusterError):
                self._apply_all(node, inventory, ticket)
                return
            if inventory.node != node:
                wrong = Unavailable(f"it answers as node {inventory.node!r}")
                self._apply_all(node, wrong, ticket)
                return
            known = self._nodes[node]
            known.topology = dict(inventory.topology)
            if ticket >= known.ticket:
                known.replication_address = inventory.replication_address
                known.replication_trouble = inventory.replication_trouble
            self._apply_all(node, inventory.pools, ticket)

    def end(self, reservation: Reservation) -> None:
        """The creation is over, whatever became of it."""
        with self._changed:
            self._last_ticket += 1
            reservation.ended = self._last_ticket
            self._changed.notify_all()

    def refresh(self, nodes: Iterable[str] | None = None, *, whole: bool = False) -> None:
        """Ask these nodes (None: all) how their pools are now; ``whole``: and all that they tell.

        What a node tells besides its pools is otherwise only asked again where it has a trouble.
        """
        came = self.ticket()
        wanted = set(self._nodes if nodes is None else nodes)

        def outdated() -> list[str]:
            known = {name: self._nodes[name] for name in wanted}
            return [n for n, node in known.items() if node.asked_at(whole) < came]

        self._refresh(outdated, whole=whole)

    def views(self) -> tuple[NodeView, ...]:
        """What is known of all nodes, less the reservations."""
        with self._changed:
            return tuple(self._views(_NOTHING))

    def troubled(self) -> tuple[str, ...]:
        """The nodes that did not answer when they were last asked, or are in doubt since."""
        with self._changed:
            return tuple(
                name
                for name, node in self._nodes.items()
                if node.doubted > node.ticket or (node.trouble and (node.ticket or node.hangs))
            )

    def doubt(self, node: str) -> None:
        """A call to it failed. It is given volumes as before, but is to be asked how it is."""
        with self._changed:
            self._nodes[node].doubted = self.ticket()

    def capacity(self, spec: VolumeSpec, segments: Segments | None) -> tuple[int, int, int]:
        """Bytes available in all, the largest and the smallest size of one volume.

        On the nodes that match the segments (None: all), as last known, less the reservations. Of
        two replicas, each is on a node of its own: what pairs of nodes can take. Where the segments
        are those of one node, it has one of them.
        """
        request = PlacementRequest("", 1, spec, () if segments is None else (segments,))
        self._refresh(lambda: self._never_asked(request))
        return capacity(request, self.views())

    def replication_address(self, node: str) -> str:
        """Where the node takes replicas, as last told; "" is nowhere."""
        with self._changed:
            return self._nodes.get(node, _Node()).replication_address

    def replication_trouble(self, node: str) -> str:
        """Why it takes none, as last told, if it is configured to; "" for nothing."""
        with self._changed:
            return self._nodes.get(node, _Node()).replication_trouble

    def permitted(self, node: str, requisite: tuple[Segments, ...]) -> bool:
        """Whether the node is, or may be, in one of the topologies; () is any."""
        with self._changed:
            known = self._nodes.get(node, _Node()).topology
        if known is None:  # not even asked: only its name is certain
            names = [term.get(TOPOLOGY_NODE_KEY, node) for term in requisite]
            return not names or node in names
        request = PlacementRequest("", 0, VolumeSpec(""), requisite)
        return permits(request, NodeView(node, known))

    def _views(self, refused: Mapping[str, str], *, reserved: bool = True) -> list[NodeView]:
        views = []
        for name, node in self._nodes.items():
            pools = {key: pool for key, (_, pool) in node.pools.items()}
            for held in self._reservations if reserved else ():
                if held.node == name and held.pool in pools:
                    pools[held.pool] = less(pools[held.pool], held.taken)
            trouble = refused.get(name, node.trouble)
            views.append(
                NodeView(
                    name,
                    node.topology or {},
                    tuple(pools.values()),
                    trouble,
                    node.replication_address,
                    node.replication_trouble,
                )
            )
        return views

    def _hold(self, name: str, request: PlacementRequest) -> Reservation:
        node = self._nodes[name]
        _, pool = node.pools[request.spec.pool]
        taken = footprint(pool, request.spec, request.size_bytes)
        address = node.replication_address
        held = Reservation(self, name, pool.name, taken, self.ticket(), address)
        self._reservations.append(held)
        return held

    def _never_asked(self, request: PlacementRequest) -> list[str]:
        return [
            name
            for name, node in self._nodes.items()
            if not node.ticket and self.permitted(name, request.requisite)
        ]

    def _asked_before(self, ticket: int, request: PlacementRequest) -> list[str]:
        """The nodes that matter and were last asked before the ticket, or before a creation ended.

        The latter only where an answer would settle it.
        """
        ended = {held.node for held in self._reservations if held.ended}
        return [
            name
            for name, node in self._nodes.items()
            if not node.hangs
            and (node.topology is None or permits(request, NodeView(name, node.topology)))
            and (node.ticket < ticket or (name in ended and not node.trouble))
        ]

    def _refresh(self, outdated: Callable[[], list[str]], *, whole: bool = False) -> None:
        """Return when no node is outdated any more, but for those that hang."""
        end = time.monotonic() + self._patience_seconds
        while True:
            with self._changed:
                names = [name for name in outdated() if not self._nodes[name].hangs]
                asked = {name: self._ask(name, whole) for name in names}
            if not asked:
                return
            wait(asked.values(), timeout=max(0.0, end - time.monotonic()))
            for name, answered in asked.items():
                if answered.done():
                    answered.result()
                else:
                    self._do_without(name, answered)

    def _ask(self, name: str, whole: bool) -> Future[None]:
        """Ask the node, unless that is being done; the lock is held.

        In a thread of its own, so that a node that hangs costs none of those who ask for others.
        """
        node = self._nodes[name]
        if node.asked is None:
            node.asked = answered = Future[None]()
            whole = whole or node.topology is None or bool(node.replication_trouble)
            work = (self._ask_now, name, self.ticket(), whole, answered)
            # The caller's context holds the request's id for the logs.
            context = contextvars.copy_context()
            threading.Thread(target=context.run, args=work, name=f"ask-{name}", daemon=True).start()
        return node.asked

    def _ask_now(self, name: str, ticket: int, whole: bool, answered: Future[None]) -> None:
        node = self._nodes[name]
        failure: BaseException | None = None
        answer: Inventory | tuple[PoolReport, ...] | ClusterError | None = None
        try:
            agent = self._agents.agent(name)
            answer = agent.inventory() if whole else agent.pools(fresh=True)
        except ClusterError as error:
            answer = error
        except BaseException as error:  # for those who wait for the answer
            failure = error
        with self._changed:
            node.asked, node.hangs = None, False
            if whole:
                node.whole_ticket = ticket
            if isinstance(answer, tuple):
                self._apply_all(name, answer, ticket)
            elif answer is not None:
                self.observe(name, answer, ticket)
        if failure is None:
            answered.set_result(None)
        else:
            answered.set_exception(failure)

    def _do_without(self, name: str, answered: Future[None]) -> None:
        with self._changed:
            node = self._nodes[name]
            if node.asked is answered:
                node.hangs = True
                node.trouble = f"agent does not answer within {self._patience_seconds:g} s"
                self._changed.notify_all()

    def _apply_all(
        self, name: str, answer: tuple[PoolReport, ...] | ClusterError, ticket: int
    ) -> None:
        node = self._nodes[name]
        if ticket < node.ticket:
            return
        node.ticket = ticket
        if isinstance(answer, ClusterError):
            node.trouble = f"agent unreachable ({answer})"
            return
        node.trouble = ""
        for pool in answer:
            self._apply(name, pool, ticket)
        reported = {pool.name for pool in answer}
        node.pools = {key: known for key, known in node.pools.items() if key in reported}
        self._settle(ticket, lambda held: held.node == name)
        self._changed.notify_all()

    def _apply(self, name: str, pool: PoolReport, ticket: int) -> bool:
        """Whether the report is newer than the one that is known."""
        node = self._nodes[name]
        known, _ = node.pools.get(pool.name, (0, None))
        if ticket < known:
            return False
        node.pools[pool.name] = (ticket, pool)
        self._settle(ticket, lambda held: (held.node, held.pool) == (name, pool.name))
        return True

    def _settle(self, ticket: int, concerned: Callable[[Reservation], bool]) -> None:
        """Forget the reservations whose creation had ended when that was asked for."""
        self._reservations = [
            held for held in self._reservations if not (concerned(held) and 0 < held.ended < ticket)
        ]
