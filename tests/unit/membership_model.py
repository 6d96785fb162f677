"""All that membership has to withstand, in the worlds of ``membership_world``.

The agents and the arbiter are the real functions of ``replication``; the kernel is that of
``membership_kernel``. ``progress``, ``faults`` and ``decisions`` give a world's next ones.

Left out, as equal to what is there: a second controller (each answer is one compare-and-swap on
what was read, so two of them are one after the other, or one fails as a lost message does), and
answers that come late (an agent is not scheduled for as long as one likes).
"""

from __future__ import annotations

from collections.abc import Iterator

from cluster.membership import Held
from replication import arbiter_rules, membership
from replication.actions import ASKED, Action, Do, Situation, Yes
from replication.arbiter_rules import Answer
from replication.record import (
    CONNECTED,
    Connection,
    Disk,
    Generations,
    Role,
    Statement,
    Users,
    View,
)
from tests.unit.membership_kernel import (
    Kernel,
    acknowledge,
    can_write,
    disk_fails,
    drbd,
    handshake,
    may_lose_power,
    notice_loss,
    power_off,
    promote,
    reached,
    resynced,
    set_up,
    write_one,
)
from tests.unit.membership_world import (
    NAMES,
    WHOLE,
    World,
    is_chosen,
    is_forsaken,
    put,
    spend,
)

PERMITS = (Do.ASK_ALONE, Do.ASK_CONNECTED, Do.ASK_FILL)
# What is decided, and then carried out much later by an agent that was paused in between.
PAUSED = (
    *(Do.RESUME_IO, Do.CONNECT, Do.PROMOTE, Do.WRITE_GRANT, Do.FORCE_DISCONNECT, Do.ASK_ALONE),
    *(Do.DEMOTE, Do.RESUME_FACE, Do.NOTE, Do.INVALIDATE),
)


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
    if do in ASKED:
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


_SIMPLE = {
    Do.WRITE_GRANT: lambda node: {"grant": node.boot},
    Do.REMOVE_GRANT: lambda node: {"grant": 0},
    Do.SUSPEND_FACE: lambda node: {"face_suspended": True},
    Do.RESUME_FACE: lambda node: {"face_suspended": False},
    Do.OUTDATE: lambda node: {"disk": Disk.OUTDATED, "meta": Disk.OUTDATED},
    Do.DETACH: lambda node: {"disk": Disk.DISKLESS},
    Do.KILL_USERS: lambda node: {"users": False, "pending": 0},
}


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
