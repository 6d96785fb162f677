"""The kernel in the worlds of ``membership_world``: an abstract DRBD 8.4, written after its source.

What freezes, what thaws, which generation begins when, who becomes the source. Where two outcomes
are possible, the worse one for the data is taken.
"""

from __future__ import annotations

from replication.actions import Do
from replication.record import CONNECTED, Connection, Disk, Role
from tests.unit.membership_world import NAMES, WHOLE, Node, World, is_forsaken, put


class Kernel:
    """What a mutant of the model changes: rules that are held outside ``replication``."""

    cut_by_force = True  # rule 5: False lets the connection be while the arbiter is asked
    freezes = True  # rule 2
    compares_epochs = True  # rule 17


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


def may_lose_power(node: Node) -> bool:
    """Whether that is not a second failure at the same time (the window of rule 11).

    DRBD 8.4 goes on without its disk, until the agent of that primary has noted that.
    """
    unnoted = node.disk is Disk.DISKLESS and not node.notes.disk_failed
    return not (unnoted and node.role is Role.PRIMARY)


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
