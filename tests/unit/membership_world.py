"""Two nodes, their link and the store, as one value: the worlds that membership is searched in."""

from __future__ import annotations

from typing import NamedTuple

from cluster.membership import Boot, Held, Membership
from replication.actions import Action, Do, Yes
from replication.record import Connection, Disk, Notes, Role, Statement

NAMES = ("a", "b")
WHOLE = (Disk.UP_TO_DATE, Disk.CONSISTENT)


class Node(NamedTuple):
    up: bool = True
    boot: int = 1
    # On the disk. Data is a set of writes, as bits; stable: those that survive a loss of power.
    meta: Disk = Disk.UP_TO_DATE
    current: str = "g0"
    bitmap: str = ""
    history: frozenset[str] = frozenset()
    was_primary: bool = False
    data: int = 0
    stable: int = 0
    broken: bool = False
    # In the kernel.
    disk: Disk = Disk.UP_TO_DATE
    role: Role = Role.SECONDARY
    connection: Connection = Connection.CONNECTED
    frozen: bool = False
    new_generation: bool = False  # begins with the thaw
    exposed: str = ""  # of a diskless primary: the generation that its users have seen
    pending: int = 0  # a write that nobody has acknowledged yet
    users: bool = False
    face_suspended: bool = False
    # The agent. The grant is the boot in which it was written.
    grant: int = 0
    notes: Notes = Notes()
    yes: Yes | None = None
    waiting: Do | None = None
    todo: Action | None = None


class Budget(NamedTuple):
    """How often each may still happen."""

    writes: int = 2
    faults: int = 2
    crashes: int = 1  # of agents
    pauses: int = 1
    decisions: int = 1  # of controllers
    rollbacks: int = 0
    replicas: int = 0  # changes to one, or to two
    persons: int = 0  # decisions against what the other replica has


class World(NamedTuple):
    nodes: tuple[Node, Node]
    held: Held
    backup: Held
    link: bool = True
    session: bool = True  # the connection that both know of is alive
    arbiter: tuple[bool, bool] = (True, True)
    asks: tuple[tuple[int, Do, Statement], ...] = ()
    told: tuple[Statement | None, Statement | None] = (None, None)
    acknowledged: int = 0
    written: int = 0
    generations: int = 1
    go_alone: bool = False
    hopeless: bool = False  # the disk of the only replica has failed, or a person chose one
    forsaken: str = ""  # a person has chosen the other replica, whatever this node acknowledged
    budget: Budget = Budget()


def both() -> Membership:
    boots = (Boot("a", "1"), Boot("b", "1"))
    return Membership(NAMES, NAMES, "a", "a", 1, "g0", boots)


def running(budget: Budget, record: Membership | None = None) -> World:
    """``a`` serves, ``b`` has everything."""
    held = Held(record or both(), 1)
    notes = Notes(held.record)
    serving = Node(role=Role.PRIMARY, users=True, was_primary=True, notes=notes)
    return World((serving, Node(notes=notes)), held, held, budget=budget)


def put(world: World, index: int, **changes: object) -> World:
    nodes = list(world.nodes)
    nodes[index] = nodes[index]._replace(**changes)
    return world._replace(nodes=(nodes[0], nodes[1]))


def spend(world: World, what: str) -> World:
    left = getattr(world.budget, what) - 1
    return world._replace(budget=world.budget._replace(**{what: left}))


def is_chosen(world: World, index: int) -> bool:
    record = world.nodes[index].notes.record
    return record is not None and record.forced == NAMES[index]


def is_forsaken(world: World, index: int) -> bool:
    """Whether a person has given up what it acknowledges, until it is in the set again."""
    return world.forsaken == NAMES[index] and NAMES[index] not in world.held.record.members
