"""Two nodes, their kernels, links and agents, and the store: all that membership has to withstand.

The agents and the arbiter are the real functions of ``replication``. The kernel is an abstract
DRBD 8.4, written after its source: what freezes, what thaws, which generation begins when, who
becomes the source. A world is a value; ``progress``, ``faults`` and ``decisions`` give the next
ones. Where two outcomes are possible, the worse one for the data is taken.

Left out, as equal to what is there: a second controller (each answer is one compare-and-swap on
what was read, so two of them are one after the other, or one fails as a lost message does), and
answers that come late (an agent is not scheduled for as long as one likes).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cluster.membership import Boot, Held, Membership
from replication import arbiter_rules, membership
from replication.actions import Action, Do, Situation, Yes
from replication.arbiter_rules import Answer
from replication.record import (
    CONNECTED,
    Connection,
    Disk,
    Generations,
    Notes,
    Role,
    Statement,
    Users,
    View,
)

NAMES = ("a", "b")
PERMITS = (Do.ASK_ALONE, Do.ASK_CONNECTED, Do.ASK_FILL)
ASKS = (*PERMITS, Do.ASK_LEAVE, Do.ASK_CONFIRM, Do.REPORT)
WHOLE = (Disk.UP_TO_DATE, Disk.CONSISTENT)
# What is decided, and then carried out much later by an agent that was paused in between.
PAUSED = (
    *(Do.RESUME_IO, Do.CONNECT, Do.PROMOTE, Do.WRITE_GRANT, Do.FORCE_DISCONNECT, Do.ASK_ALONE),
    *(Do.DEMOTE, Do.RESUME_FACE, Do.NOTE, Do.INVALIDATE),
)


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


class Kernel:
    """What a mutant of the model changes: rules that are held outside ``replication``."""

    cut_by_force = True  # rule 5: False lets the connection be while the arbiter is asked
    freezes = True  # rule 2
    compares_epochs = True  # rule 17


def both() -> Membership:
    boots = (Boot("a", "1"), Boot("b", "1"))
    return Membership(NAMES, NAMES, "a", "a", 1, "g0", boots)


def running(budget: Budget, record: Membership | None = None) -> World:
    """``a`` serves, ``b`` has everything."""
    held = Held(record or both(), 1)
    notes = Notes(held.record)
    serving = Node(role=Role.PRIMARY, users=True, was_primary=True, notes=notes)
    return World((serving, Node(notes=notes)), held, held, budget=budget)


# ---- the kernel ----


def put(world: World, index: int, **changes: object) -> World:
    nodes = list(world.nodes)
    nodes[index] = nodes[index]._replace(**changes)
    return world._replace(nodes=(nodes[0], nodes[1]))


def spend(world: World, what: str) -> World:
    left = getattr(world.budget, what) - 1
    return world._replace(budget=world.budget._replace(**{what: left}))


def fresh(world: World, index: int) -> World:
    """A new generation begins; DRBD does so only when none has begun since the last resync."""
    node = world.nodes[index]
    if node.bitmap:
        return world
    world = world._replace(generations=world.generations + 1)
    return put(world, index, bitmap=node.current, current=f"g{world.generations}")


def acknowledge(world: World, index: int) -> World:
    node = world.nodes[index]
    if node.pending and node.users and not is_forsaken(world, index):
        world = world._replace(acknowledged=world.acknowledged | node.pending)
    return put(world, index, pending=0)


def thaw(world: World, index: int) -> World:
    """drbd_adm_resume_io: the new generation first, then what is pending is acknowledged."""
    node = world.nodes[index]
    if node.new_generation and node.disk is not Disk.DISKLESS:
        world = fresh(world, index)
    world = put(world, index, frozen=False, new_generation=False)
    if node.connection not in CONNECTED:
        if node.disk is Disk.DISKLESS:
            return put(world, index, pending=0)  # an I/O error
        return acknowledge(world, index)
    return world


def notice_loss(world: World, index: int, connection: Connection) -> World:
    """The node's own end of a connection is gone. A primary freezes and asks the fence helper."""
    node = world.nodes[index]
    world = put(world, index, connection=connection)
    if node.role is Role.PRIMARY and node.connection in CONNECTED and Kernel.freezes:
        begins = not node.bitmap and node.disk is Disk.UP_TO_DATE
        world = put(world, index, frozen=True, new_generation=begins)
        if fence_helper(world.nodes[index]) == 7 and node.disk is Disk.UP_TO_DATE:
            world = thaw(world, index)
    elif node.role is Role.PRIMARY and node.connection in CONNECTED:
        world = fresh(world, index)
        world = acknowledge(world, index)
    return world


def fence_helper(node: Node) -> int:
    """What replication/fence_helper, a script that the kernel runs, answers: of this boot only."""
    return 7 if node.grant and node.grant == node.boot else 1


def cut(world: World, index: int, connection: Connection) -> World:
    """This node ends the connection; the other one notices later."""
    return notice_loss(world._replace(session=False), index, connection)


def direction(own: Node, peer: Node) -> int | None:
    """1: this node is the source, -1: the target, 0: equal, None: DRBD refuses to connect.

    drbd_uuid_compare and drbd_sync_handshake, version 8.4.
    """
    if Disk.INCONSISTENT in (own.disk, peer.disk) and own.disk is not peer.disk:
        return -1 if own.disk is Disk.INCONSISTENT else 1
    if own.current == peer.current:
        # The flag counts for a node that stopped while primary, not for one that is primary.
        own_crashed = own.was_primary and own.role is not Role.PRIMARY
        peer_crashed = peer.was_primary and peer.role is not Role.PRIMARY
        return int(own_crashed) - int(peer_crashed)
    if own.current == peer.bitmap or own.current in peer.history:
        return -1
    if peer.current == own.bitmap or peer.current in own.history:
        return 1
    return None


def handshake(world: World) -> World:
    first, second = world.nodes
    alone = put(
        put(world, 0, connection=Connection.STANDALONE), 1, connection=Connection.STANDALONE
    )
    if first.role is Role.PRIMARY and second.role is Role.PRIMARY:
        return alone
    for node, peer in ((first, second), (second, first)):
        # "Can only connect to data with current UUID"
        diskless = node.disk is Disk.DISKLESS and node.role is Role.PRIMARY
        if diskless and peer.disk is not Disk.DISKLESS and node.exposed != peer.current:
            return alone
    if Disk.DISKLESS in (first.disk, second.disk):
        return _connected(world, 0)
    who = direction(first, second)
    if who is None:
        return alone
    if who and world.nodes[1 if who > 0 else 0].role is Role.PRIMARY:
        return alone  # a primary cannot become the target
    for index, node in enumerate(world.nodes):
        peer = world.nodes[1 - index]
        # "Aborting Connect, can not thaw IO with an only Consistent peer": and acknowledges.
        rebooted = who == 0 and peer.disk is Disk.CONSISTENT
        if rebooted and node.frozen and node.new_generation:
            world = acknowledge(fresh(world, index), index)
            return put(world, index, new_generation=False)
    return _connected(world, who)


def _connected(world: World, who: int) -> World:
    world = world._replace(session=True)
    whole = any(node.disk in WHOLE for node in world.nodes)
    for index in (0, 1):
        node = world.nodes[index]
        # What is pending is sent again, and acknowledged when the peer has it.
        data = node.disk in WHOLE or world.nodes[1 - index].disk in WHOLE
        world = put(world, index, frozen=node.frozen and not data, new_generation=False)
        disk = node.disk
        if disk is Disk.CONSISTENT or (disk is Disk.OUTDATED and who == 0 and whole):
            disk = Disk.UP_TO_DATE
        meta = disk if disk is not Disk.DISKLESS else node.meta
        world = put(world, index, connection=Connection.CONNECTED, disk=disk, meta=meta)
    if not who:
        return world
    source, target = (0, 1) if who > 0 else (1, 0)
    if not world.nodes[source].bitmap:
        world = world._replace(generations=world.generations + 1)
        world = put(world, source, bitmap=f"g{world.generations}")
    world = put(
        world,
        target,
        connection=Connection.SYNC_TARGET,
        disk=Disk.INCONSISTENT,
        meta=Disk.INCONSISTENT,
        current=world.nodes[source].bitmap,
        bitmap="",
        data=0,  # half of one, half of the other: good for nothing before the end
        stable=0,
    )
    return put(world, source, connection=Connection.SYNC_SOURCE)


def resynced(world: World) -> World:
    source = 0 if world.nodes[0].connection is Connection.SYNC_SOURCE else 1
    origin = world.nodes[source]
    history = origin.history | ({origin.bitmap} - {""})
    done = {"bitmap": "", "history": history, "connection": Connection.CONNECTED}
    up_to_date = Disk.UP_TO_DATE
    world = put(world, source, **done)
    if origin.role is not Role.PRIMARY:
        world = put(world, source, was_primary=False)
    return put(
        world,
        1 - source,
        **done,
        current=origin.current,
        data=origin.data,
        stable=origin.data,
        was_primary=False,
        disk=up_to_date,
        meta=up_to_date,
    )


def disk_fails(world: World, index: int) -> World:
    node, peer = world.nodes[index], world.nodes[1 - index]
    world = put(world, index, broken=True)
    known = (world.held.record, node.notes.record)
    only = any(record is not None and record.replicas == (NAMES[index],) for record in known)
    world = world._replace(hopeless=world.hopeless or only)
    if node.disk in (Disk.ABSENT, Disk.DISKLESS):
        return world
    talking = node.connection in CONNECTED and world.session
    world = put(world, index, disk=Disk.DISKLESS, new_generation=False)
    # Disks empty their caches within seconds: a second failure comes later than that.
    world = put(world, 1 - index, stable=peer.data)
    if talking and Connection.SYNC_SOURCE in (node.connection, peer.connection):
        for each in (0, 1):
            world = put(world, each, connection=Connection.CONNECTED)
    if talking and Role.PRIMARY in (node.role, peer.role) and peer.disk is Disk.UP_TO_DATE:
        world = fresh(world, 1 - index)
        if peer.role is Role.PRIMARY:
            world = acknowledge(world, 1 - index)
    seen = world.nodes[1 - index if talking else index].current
    world = put(world, index, exposed=seen)
    if node.role is Role.PRIMARY and not (talking and peer.disk is Disk.UP_TO_DATE):
        world = put(world, index, frozen=True)
    if peer.role is Role.PRIMARY and talking and peer.disk is not Disk.UP_TO_DATE:
        world = put(world, 1 - index, frozen=True)  # no data is left within reach
    return world


def power_off(world: World, index: int) -> World:
    node = world.nodes[index]
    world = world._replace(session=False)
    world = put(world, index, up=False, disk=Disk.ABSENT, role=Role.SECONDARY, data=node.stable)
    world = put(world, index, connection=Connection.STANDALONE, frozen=False, pending=0)
    world = put(world, index, new_generation=False, users=False, face_suspended=False)
    return put(world, index, yes=None, waiting=None, todo=None)


# ---- the agent ----


def view_of(world: World, index: int) -> View:
    node, peer = world.nodes[index], world.nodes[1 - index]
    connected = node.connection in CONNECTED
    peer_disk, peer_role = Disk.UNKNOWN, Role.UNKNOWN
    if connected:  # of a dead connection it shows what it saw last
        peer_disk = peer.disk if world.session else Disk.UP_TO_DATE
        peer_role = peer.role if world.session else Role.SECONDARY
    history = tuple(sorted(node.history))
    return View(
        NAMES[index],
        str(node.boot),
        node.role,
        peer_role,
        node.disk,
        peer_disk,
        node.connection,
        node.frozen,
        node.face_suspended,
        Users.ALIVE if node.users else Users.NONE,
        node.grant == node.boot,
        Generations(node.current, node.bitmap, history, node.was_primary),
    )


def situation(world: World, index: int) -> Situation:
    node = world.nodes[index]
    reachable = world.arbiter[index]
    return Situation(
        view_of(world, index),
        node.notes,
        world.held if reachable else None,
        node.yes,
        world.told[1 - index] if reachable else None,
        world.go_alone and world.held.record.primary == NAMES[index],
    )


def decide(world: World, index: int) -> Action:
    return membership.next_action(situation(world, index))


def carry_out(world: World, index: int, action: Action) -> World | None:
    """None: refused by the kernel, or impossible; the agent begins anew."""
    node = world.nodes[index]
    do = action.do
    if do in ASKS:
        world = put(world, index, stable=node.data, waiting=do)
        stated = Statement(view_of(world, index), world.held.revision, node.notes.epoch)
        return world._replace(asks=(*world.asks, (index, do, stated)))
    if do in (Do.PROMOTE, Do.PROMOTE_BY_FORCE):
        return promote(world, index, by_force=do is Do.PROMOTE_BY_FORCE)
    if do in (Do.ATTACH, Do.INVALIDATE):
        return set_up(world, index, anew=do is Do.INVALIDATE)
    if do in _SIMPLE:
        return put(world, index, **_SIMPLE[do](node))
    if do is Do.NOTE:
        assert action.notes is not None
        if node.notes.disk_failed and not action.notes.disk_failed and is_chosen(world, index):
            # What went to the other disk meanwhile is what the person has given up.
            world = world._replace(acknowledged=world.acknowledged & node.data)
        return put(world, index, notes=action.notes)
    return drbd(world, index, do)


def drbd(world: World, index: int, do: Do) -> World | None:
    node = world.nodes[index]
    if do is Do.CONNECT:
        standing = node.connection is Connection.STANDALONE and node.disk is not Disk.ABSENT
        world = put(world, index, yes=None)
        return put(world, index, connection=Connection.CONNECTING) if standing else None
    if do is Do.FORCE_DISCONNECT:
        return cut(world, index, Connection.STANDALONE) if Kernel.cut_by_force else None
    if do is Do.NEW_GENERATION:
        if node.connection is not Connection.STANDALONE or node.disk is Disk.DISKLESS:
            return None
        world = put(world, index, bitmap="", history=node.history | ({node.bitmap} - {""}))
        return fresh(world, index)
    if do is Do.RESUME_IO:
        return thaw(world, index)
    if do is Do.DEMOTE:
        if node.connection in CONNECTED and world.session:  # an idle connection sends its barrier
            world = put(world, 1 - index, stable=world.nodes[1 - index].data)
        return put(world, index, role=Role.SECONDARY, was_primary=False)
    assert do is Do.TAKE_DOWN, do
    world = cut(world, index, Connection.STANDALONE)
    return put(world, index, disk=Disk.ABSENT, role=Role.SECONDARY, frozen=False, pending=0)


_SIMPLE = {
    Do.WRITE_GRANT: lambda node: {"grant": node.boot},
    Do.REMOVE_GRANT: lambda node: {"grant": 0},
    Do.SUSPEND_FACE: lambda node: {"face_suspended": True},
    Do.RESUME_FACE: lambda node: {"face_suspended": False},
    Do.OUTDATE: lambda node: {"disk": Disk.OUTDATED, "meta": Disk.OUTDATED},
    Do.DETACH: lambda node: {"disk": Disk.DISKLESS},
    Do.KILL_USERS: lambda node: {"users": False, "pending": 0},
}


def promote(world: World, index: int, by_force: bool) -> World | None:
    node, peer = world.nodes[index], world.nodes[1 - index]
    connected = node.connection in CONNECTED
    if connected and (not world.session or peer.role is Role.PRIMARY):
        return None
    fenced = fence_helper(node) in (4, 7)
    if not connected and not (fenced and (by_force or node.disk in WHOLE)):
        return None  # "Refusing to be Primary while peer is not outdated"
    if node.disk is Disk.ABSENT:
        return None
    if not connected:
        world = fresh(world, index)
        world = put(world, index, disk=Disk.UP_TO_DATE, meta=Disk.UP_TO_DATE)
    return put(world, index, role=Role.PRIMARY, users=True, was_primary=True)


def set_up(world: World, index: int, anew: bool) -> World | None:
    node = world.nodes[index]
    if node.broken:
        return None
    if anew:
        world = cut(world, index, Connection.STANDALONE)
        blank = {"current": "", "bitmap": "", "history": frozenset(), "was_primary": False}
        world = put(world, index, role=Role.SECONDARY, frozen=False, pending=0)
        return put(world, index, meta=Disk.INCONSISTENT, disk=Disk.INCONSISTENT, **blank)
    disk = Disk.CONSISTENT if node.meta is Disk.UP_TO_DATE else node.meta
    return put(world, index, disk=disk, connection=Connection.STANDALONE)


# ---- the arbiter and the controllers ----


def answer(world: World, position: int, heard: bool) -> World:
    index, do, asked = world.asks[position]
    world = world._replace(asks=world.asks[:position] + world.asks[position + 1 :])
    held = world.held
    result = {
        Do.ASK_ALONE: lambda: arbiter_rules.serve_alone(held, asked),
        Do.ASK_CONNECTED: lambda: arbiter_rules.serve_connected(held, asked, world.told[1 - index]),
        Do.ASK_LEAVE: lambda: arbiter_rules.leave(held, asked),
        Do.ASK_FILL: lambda: arbiter_rules.fill_anew(held, asked),
        Do.ASK_CONFIRM: lambda: arbiter_rules.confirm(held, asked),
        Do.REPORT: lambda: arbiter_rules.report(
            held, NAMES[index], world.nodes[index].notes.record
        ),
    }[do]()
    if do is not Do.REPORT and rolled_back(world):
        result = Answer(False, held.record, "the store has been rolled back")
    world = write(world, result)
    if not heard or world.nodes[index].waiting is not do:
        return world
    yes = Yes(result.record.epoch, do) if result.granted and do in PERMITS else None
    return put(world, index, waiting=None, yes=yes)


def write(world: World, result: Answer) -> World:
    if not result.granted or result.record == world.held.record:
        return world
    return world._replace(held=Held(result.record, world.held.revision + 1))


def tell(world: World, index: int) -> World:
    told = Statement(view_of(world, index), world.held.revision, world.nodes[index].notes.epoch)
    return world._replace(told=(told, world.told[1]) if index == 0 else (world.told[0], told))


def rolled_back(world: World) -> bool:
    told = [known for known in world.told if known is not None]
    return Kernel.compares_epochs and bool(arbiter_rules.rolled_back(world.held, told))


# ---- what may happen ----


def progress(world: World) -> Iterator[tuple[str, World]]:
    """What goes on by itself."""
    for index in (0, 1):
        if world.nodes[index].up:
            yield from _kernel(world, index)
            yield from _agent(world, index)
    first, second = world.nodes
    trying = first.connection is second.connection is Connection.CONNECTING
    if world.link and trying:
        yield "handshake", handshake(world)
    if world.session and Connection.SYNC_SOURCE in (first.connection, second.connection):
        yield "resynced", resynced(world)
    for position, (index, do, _) in enumerate(world.asks):
        if world.arbiter[index] or world.nodes[index].waiting is not do:
            yield f"arbiter answers {NAMES[index]} {do}", answer(world, position, True)
    one, other = world.told
    if one is not None and other is not None and not rolled_back(world):
        result = arbiter_rules.rejoin(world.held, one, other)
        needed = set(result.record.members) != set(world.held.record.members)
        if result.granted and needed:
            yield "rejoin", write(world, result)


def _kernel(world: World, index: int) -> Iterator[tuple[str, World]]:
    node, peer, name = world.nodes[index], world.nodes[1 - index], NAMES[index]
    if node.connection in CONNECTED and not world.session:
        yield f"{name} notices the loss", notice_loss(world, index, Connection.CONNECTING)
    rightful = world.arbiter[index] and world.held.record.primary == name
    idle = node.role is Role.PRIMARY and rightful and not node.users and not node.frozen
    if idle and decide(world, index).do is Do.WAIT:  # its agent says that it serves
        yield f"{name} users start", put(world, index, users=True)
    if node.pending and not node.frozen and node.connection in CONNECTED and world.session:
        if peer.disk is not Disk.DISKLESS:
            data, stable = peer.data | node.pending, peer.stable
            if node.disk is Disk.DISKLESS:  # flushes of the users go to the peer, then
                stable |= node.pending
            world = put(world, 1 - index, data=data, stable=stable)
        yield f"{name} write acknowledged", acknowledge(world, index)
    elif can_write(world, index) and world.budget.writes:
        yield f"{name} writes", write_one(spend(world, "writes"), index)


def can_write(world: World, index: int) -> bool:
    node = world.nodes[index]
    serving = node.role is Role.PRIMARY and node.users and not node.frozen
    return serving and reached(world, index) and not node.face_suspended and not node.pending


def reached(world: World, index: int) -> bool:
    """Whether the node has a disk, its own or its peer's."""
    node, peer = world.nodes[index], world.nodes[1 - index]
    through_peer = node.connection in CONNECTED and peer.disk is not Disk.DISKLESS
    return node.disk is not Disk.DISKLESS or through_peer


def write_one(world: World, index: int) -> World:
    node, peer = world.nodes[index], world.nodes[1 - index]
    bit = 1 << world.written
    world = world._replace(written=world.written + 1)
    world = put(world, index, pending=bit)
    if node.disk is not Disk.DISKLESS:
        world = put(world, index, data=node.data | bit, stable=node.stable | bit)
        if node.connection not in CONNECTED or (peer.disk is Disk.DISKLESS and world.session):
            world = acknowledge(world, index)
    return world


def _agent(world: World, index: int) -> Iterator[tuple[str, World]]:
    node, name = world.nodes[index], NAMES[index]
    if world.arbiter[index]:
        after = tell(world, index)
        if after.told != world.told:
            yield f"{name} tells", after
    if node.waiting is not None:
        return
    if node.todo is not None:
        after = carry_out(put(world, index, todo=None), index, node.todo)
        yield f"{name} at last does {node.todo.do}", after or put(world, index, todo=None)
        return
    action = decide(world, index)
    if action.do in (Do.WAIT, Do.REPORT_REBOOT):
        return
    done = carry_out(world, index, action)
    if done is not None and done != world:
        yield f"{name} {action.do}", done
    if world.budget.pauses and action.do in PAUSED:
        yield f"{name} pauses before {action.do}", put(spend(world, "pauses"), index, todo=action)


def faults(world: World) -> Iterator[tuple[str, World]]:
    for index, name in enumerate(NAMES):
        node = world.nodes[index]
        if not node.up:
            on = put(world, index, up=True, boot=node.boot + 1)
            yield f"{name} power on", on
        elif world.budget.crashes and (node.yes or node.waiting or node.todo):
            gone = {"yes": None, "waiting": None, "todo": None}
            yield f"{name} agent restarts", put(spend(world, "crashes"), index, **gone)
        if not world.arbiter[index]:
            yield f"{name} reaches the arbiter", _reach(world, index, True)
        if node.broken:
            yield f"{name} disk repaired", put(world, index, broken=False)
    if not world.link:
        yield "link back", world._replace(link=True)
    if world.budget.faults:
        yield from _new_faults(spend(world, "faults"))
    yield from _rollback(world)


def _rollback(world: World) -> Iterator[tuple[str, World]]:
    if world.budget.rollbacks and all(world.arbiter) and world.held != world.backup:
        newer = [node.notes.epoch > world.backup.record.epoch for node in world.nodes if node.up]
        if any(newer):
            after = spend(world, "rollbacks")._replace(held=world.backup)
            for index, node in enumerate(world.nodes):
                if node.up:  # the controllers start anew, and ask first
                    after = tell(after, index)
            yield "store rolled back", after


def _reach(world: World, index: int, reached: bool) -> World:
    pair = (reached, world.arbiter[1]) if index == 0 else (world.arbiter[0], reached)
    return world._replace(arbiter=pair)


def may_lose_power(node: Node) -> bool:
    """Whether that is not a second failure at the same time (the window of rule 11).

    DRBD 8.4 goes on without its disk, until the agent of that primary has noted that.
    """
    unnoted = node.disk is Disk.DISKLESS and not node.notes.disk_failed
    return not (unnoted and node.role is Role.PRIMARY)


def _new_faults(world: World) -> Iterator[tuple[str, World]]:
    for index, name in enumerate(NAMES):
        node = world.nodes[index]
        if node.up and may_lose_power(node):
            yield f"{name} power off", power_off(world, index)
        if node.up and not node.broken:
            yield f"{name} disk fails", disk_fails(world, index)
        if world.arbiter[index]:
            yield f"{name} loses the arbiter", _reach(world, index, False)
        if node.waiting is not None:
            yield f"{name} gives up waiting", put(world, index, waiting=None)
    if world.link:
        yield "link cut", world._replace(link=False, session=False)
    for position, (index, do, _) in enumerate(world.asks):
        yield f"answer to {NAMES[index]} {do} lost", answer(world, position, False)


def decisions(world: World) -> Iterator[tuple[str, World]]:
    if not world.budget.decisions or rolled_back(world):
        return
    record = world.held.record
    left = spend(world, "decisions")
    for name in NAMES:
        if record.primary not in ("", name):
            failed_over = write(left, arbiter_rules.fail_over(record, name))
            yield f"fail over to {name}", failed_over._replace(go_alone=True)
        if record.primary == "":
            published = write(left, arbiter_rules.publish(record, name))
            yield f"publish on {name}", published._replace(go_alone=False)
        if record.primary == name:
            yield f"unpublish {name}", write(left, arbiter_rules.unpublish(record, name))


# ---- what must hold ----


def violation(world: World) -> str:
    """What is wrong in this state, or nothing."""
    acting = [i for i in (0, 1) if acknowledges(world, i) and not is_forsaken(world, i)]
    if len(acting) == 2:
        return "both sides acknowledge"
    for index in acting:
        node = world.nodes[index]
        source = node if node.disk is not Disk.DISKLESS else world.nodes[1 - index]
        if world.acknowledged & ~source.data:
            return f"{NAMES[index]} serves without what was acknowledged"
    if not world.hopeless and not any(has_all(world, index) for index in (0, 1)):
        return "what was acknowledged is on no complete disk"
    record = world.held.record
    newest = max(node.notes.epoch for node in world.nodes)
    if record.quarantine or newest > record.epoch:
        return ""  # nothing is permitted on such a record
    whole = [promotable(world, index) for index in (0, 1)]
    for index in (0, 1):
        if whole[index] and world.acknowledged & ~world.nodes[index].data:
            return f"{NAMES[index]} may be promoted without what was acknowledged"
    return ""


def acknowledges(world: World, index: int) -> bool:
    node = world.nodes[index]
    if node.role is not Role.PRIMARY or not node.users or node.frozen or not node.up:
        return False
    return reached(world, index) and (node.connection not in CONNECTED or world.session)


def is_chosen(world: World, index: int) -> bool:
    record = world.nodes[index].notes.record
    return record is not None and record.forced == NAMES[index]


def is_forsaken(world: World, index: int) -> bool:
    """Whether a person has given up what it acknowledges, until it is in the set again."""
    return world.forsaken == NAMES[index] and NAMES[index] not in world.held.record.members


def has_all(world: World, index: int) -> bool:
    """Whether its disk holds the volume, be it for a person to choose it once it is repaired."""
    node = world.nodes[index]
    return node.meta is not Disk.INCONSISTENT and not world.acknowledged & ~node.data


def promotable(world: World, index: int) -> bool:
    """Whether the arbiter would let this replica serve now, or once its node is on again."""
    node, record = world.nodes[index], world.held.record
    boot = node.boot if node.up else node.boot + 1
    if NAMES[index] not in record.members or not record.trusts(NAMES[index], str(boot)):
        return False
    state = node.disk if node.disk is not Disk.ABSENT else node.meta
    return state in WHOLE and not node.notes.disk_failed
