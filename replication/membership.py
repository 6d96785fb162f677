"""What an agent does next for a replicated volume: a pure function, one action at a time.

The agent's loop reads the record (or knows that it could not), looks at its kernel, calls
``next_action``, carries out that one action, and begins anew; what it decided upon is never older
than one action. The loop remembers one thing only, the permission of its last request (``Yes``),
and drops it when it carries out Connect, when its request fails, and by being restarted.

The smallest state that makes this right:

- in the store, the ``Record``; the arbiter's part is in ``arbiter_rules``;
- on the node, durably and not on the volume's own disk, ``Notes``: the newest record seen, and
  whether the disk has failed;
- in the kernel, DRBD's own: its freeze, its generations, StandAlone.

What carries the proof: *a node of the set that the record trusts has all that was acknowledged.*
It holds because an acknowledgement needs both disks, or a primary that was permitted to serve
alone; that permission takes the other node out of the set in the same write; and a node comes in
only where both stood connected and equal at the very revision that is written over. A permission to
serve alone cannot grow stale: its node is StandAlone, and nobody but its own agent connects again.

How each rule of membership is held, and by which test, is in docs/membership.md.
"""

from __future__ import annotations

from cluster.membership import bare
from replication.actions import Action, Do, Situation, Yes
from replication.record import Connection, Disk, Generations, Notes, Role, Users, View

WHOLE = (Disk.UP_TO_DATE, Disk.CONSISTENT)


def next_action(now: Situation) -> Action:
    """The one action to carry out; WAIT says what for."""
    view, notes = now.view, now.notes
    if now.held is None:
        return _without_arbiter(view)
    record = now.held.record
    reported = any(known.node == view.node for known in record.reports)
    if not reported and (record.quarantine or record.epoch < notes.epoch):
        return Action(Do.REPORT, "the store is older than what its nodes have seen")
    if record.quarantine:
        return Action(Do.WAIT, record.quarantine, person=True)
    if record.epoch > notes.epoch:
        return Action(Do.NOTE, "keep the newest record", Notes(bare(record), notes.disk_failed))
    if view.role is Role.PRIMARY:
        return _as_primary(now)
    if view.disk is Disk.DISKLESS and not notes.disk_failed:
        return _note_failure(now)
    if view.disk is Disk.ABSENT or view.node not in record.replicas:
        return _set_up(now)
    if view.node in record.members:
        return _in_the_set(now)
    return _outside(now)


def surely_target(own: Generations, peer: Generations) -> bool:
    """Whether DRBD would resync this replica from that peer (rule 15).

    Equal generations are not enough: DRBD would resync nothing, and this node may have lost what
    its disk's cache held. The peer's report may be old: its history only grows, up to what DRBD
    forgets, and then the generations are unrelated and DRBD does not connect.
    """
    return own.current in (peer.bitmap, *peer.history) and own.bitmap != peer.current


def _without_arbiter(view: View) -> Action:
    # A frozen primary may meet its peer again: what DRBD then sends once more, both will have.
    if view.suspended and view.connection is Connection.STANDALONE and view.disk is not Disk.ABSENT:
        return Action(Do.CONNECT, "no arbiter answers: the peer may still be there")
    frozen = "I/O is frozen until it does" if view.suspended else "nothing changes until it does"
    return Action(Do.WAIT, f"no arbiter answers: {frozen}")


def _as_primary(now: Situation) -> Action:
    view, record = now.view, now.record
    in_set = view.node in record.members
    if view.disk is Disk.DISKLESS and in_set and not now.notes.disk_failed:
        return _note_failure(now)  # in the set, nothing but a failure makes it diskless
    # Cut off from the peer as well it holds back what is written: only the same data thaws that.
    through_peer = view.disk is Disk.DISKLESS and now.peer_in_set
    may_serve = record.primary == view.node and (in_set or through_peer)
    if not may_serve or _is_to_take_its_disk(now):
        return _stop_serving(now)
    if view.disk is Disk.DISKLESS:
        return _diskless_primary(now)
    peer_whole = view.connected and view.peer_disk is Disk.UP_TO_DATE
    # One without a disk gives nothing, and its end would be a freeze in the middle of a flush.
    peer_useless = view.connected and view.peer_disk is Disk.DISKLESS
    if view.suspended or (now.peer_in_set and not peer_whole) or peer_useless:
        return _go_on_alone(now)
    if view.grant:
        return Action(Do.REMOVE_GRANT, "promoted: the grant has served")
    if view.face_suspended:
        return Action(Do.RESUME_FACE, "the failed replica is out of the set")
    if _is_ahead(now):
        return Action(Do.ASK_CONFIRM, "a new data generation has begun")
    if view.connection is Connection.STANDALONE:
        return _connect_alone(now)
    if _calls_nobody(now):
        return Action(Do.FORCE_DISCONNECT, "the only replica: nothing to connect to")
    return Action(Do.WAIT, "serving" if now.peer_in_set else "serving; the peer has to resync")


def _is_ahead(now: Situation) -> bool:
    """Whether the only member carries a later generation than the record names."""
    current = now.view.generations.current
    return not now.peer_in_set and now.view.disk in WHOLE and current != now.record.generation


def _for_a_person(reason: str) -> Action:
    text = f"{reason}: wait for the other node, or let a person decide (force-primary)"
    return Action(Do.WAIT, text, person=True)


def _note_failure(now: Situation) -> Action:
    return Action(Do.NOTE, "keep that the disk failed", Notes(now.notes.record, True))


def _diskless_primary(now: Situation) -> Action:
    view, record = now.view, now.record
    if view.suspended or not view.connected:
        if now.peer_in_set and view.connection is Connection.STANDALONE:
            return Action(Do.CONNECT, "frozen: its own disk failed, the peer may still be there")
        whole = now.peer is None or now.peer.view.disk in (Disk.ABSENT, *WHOLE)
        if now.peer_in_set and not view.connected and whole:
            return Action(Do.WAIT, "frozen: its own disk failed, and its peer is not there")
        return _for_a_person("frozen: no complete replica is left")
    if view.node in record.members and not now.peer_in_set:
        return _for_a_person("the disk of the last replica failed")
    if view.node in record.members:
        return Action(Do.ASK_LEAVE, "its own disk failed: only the peer has what is written now")
    if view.face_suspended:
        return Action(Do.RESUME_FACE, "the peer is complete")
    return Action(Do.WAIT, "serving through the peer: its own disk failed and has to be replaced")


def _go_on_alone(now: Situation) -> Action:
    """A primary whose peer, or the peer's disk, is lost (rules 5 and 11)."""
    view = now.view
    if not view.suspended and not view.face_suspended:
        return Action(Do.SUSPEND_FACE, "the peer's disk is lost: no write before it is out")
    if view.connection is not Connection.STANDALONE:
        return Action(Do.FORCE_DISCONNECT, "the peer must not come back while the arbiter decides")
    if not _may_alone(now):
        return Action(Do.ASK_ALONE, "frozen: the peer has to be out of the set first")
    return _resume(now)


def _stop_serving(now: Situation) -> Action:
    """A primary that may be none: its users go first, so that nobody hears of a write (rule 10).

    A frozen one that is still in the set keeps its disk. While its peer is in the set as well, that
    one takes it out, or comes back, or the volume is published here again. The only member goes
    on: what is pending reaches the one disk that counts, and nobody hears of it.
    """
    view = now.view
    alone = view.connection is Connection.STANDALONE
    in_set = view.node in now.record.members
    if view.users is Users.STUCK:
        return Action(Do.REPORT_REBOOT, "its processes cannot be killed: the node needs a reboot")
    if view.users is not Users.NONE:
        return Action(Do.KILL_USERS, "the volume is not this node's any more")
    if view.suspended and view.disk is not Disk.DISKLESS:
        if not in_set:
            return Action(Do.DETACH, "what is pending must not reach the disk")
        if now.peer_in_set and alone:
            return Action(Do.CONNECT, "frozen and to be demoted: the peer may still be there")
        if now.peer_in_set:
            return Action(Do.WAIT, "frozen and to be demoted: waiting for the other node")
        if not alone:
            return Action(Do.FORCE_DISCONNECT, "the peer comes back as a target, once it is read")
    if view.suspended or view.face_suspended:
        return _resume(now)
    if view.disk is Disk.DISKLESS:
        return Action(Do.TAKE_DOWN, "not this node's any more")
    return Action(Do.DEMOTE, "not this node's any more")


def _resume(now: Situation) -> Action:
    """The one place that lets a frozen device go on (rule 6)."""
    view = now.view
    harmless = view.disk is Disk.DISKLESS or now.record.members == (view.node,)
    nobody_hears = view.users is Users.NONE and harmless
    if view.suspended and (_may_alone(now) or nobody_hears):
        return Action(Do.RESUME_IO, "permitted to serve alone" if not nobody_hears else "unused")
    if view.suspended:
        return Action(Do.WAIT, "frozen, and not permitted to go on")
    return Action(Do.RESUME_FACE, "the failed replica is out of the set")


def _may_alone(now: Situation) -> bool:
    return (
        now.yes == Yes(now.record.epoch, Do.ASK_ALONE)
        and now.view.connection is Connection.STANDALONE
        and now.notes.epoch == now.record.epoch
    )


def _connect_alone(now: Situation) -> Action:
    """The only member meets the other again when that one is surely no primary (rule 9)."""
    if now.view.grant:
        return Action(Do.REMOVE_GRANT, "no grant outlives StandAlone")
    if now.record.replicas == (now.view.node,):
        return Action(Do.WAIT, "the only replica: nothing to connect to")
    if not now.peer_in_set:
        if _equal_outside(now):
            reason = "the other replica is out of the set: it has to resync"
            return Action(Do.NEW_GENERATION, reason)
        if now.peer is None or not _peer_has_read(now, Role.SECONDARY):
            reason = "alone: the other node has not reported yet that it is no primary"
            return Action(Do.WAIT, reason)
        if not now.peer.view.has_disk:
            return Action(Do.WAIT, "alone: the other node has no disk for it yet")
    return Action(Do.CONNECT, "the peer is no primary")


def _calls_nobody(now: Situation) -> bool:
    """Whether a primary's DRBD still tries to connect to a replica that was given up.

    The next one has another address, which is taken while StandAlone only. One that is still
    connected is left alone: it takes itself down, without a freeze here.
    """
    only = now.record.replicas == (now.view.node,)
    return only and now.view.connection is Connection.CONNECTING


def _equal_outside(now: Situation) -> bool:
    """Whether a replica outside the set carries the generation of this one, the only member."""
    return (
        not now.peer_in_set
        and _peer_has_read(now)
        and now.peer is not None
        and now.peer.view.has_disk
        and now.peer.view.generations.current == now.view.generations.current
    )


def _peer_has_read(now: Situation, role: Role | None = None) -> bool:
    """Whether the peer's agent has reported since the set last changed, and is not frozen."""
    assert now.held is not None
    return (
        now.peer is not None
        and now.peer.revision >= now.held.revision
        and not (now.peer.view.suspended and now.peer.view.role is Role.PRIMARY)
        and (role is None or now.peer.view.role is role)
    )


def _set_up(now: Situation) -> Action:
    view = now.view
    if view.node not in now.record.replicas:
        if view.disk is not Disk.ABSENT:
            return Action(Do.TAKE_DOWN, "this node has no replica of the volume any more")
        return Action(Do.WAIT, "this node has no replica of the volume")
    if _is_to_take_its_disk(now):
        return _take_disk(now)
    if now.notes.disk_failed:
        if view.node not in now.record.members:
            return _fill_anew(now, "the disk had failed")
        if now.peer_in_set:
            return Action(Do.ASK_LEAVE, "the disk had failed")
        return _for_a_person("the disk of the last replica had failed")
    return Action(Do.ATTACH, "set up, not connected yet")


def _fill_anew(now: Situation, why: str) -> Action:
    """Whatever befell this replica, it may be the last copy until the member says that it is whole.

    What that one said before may be true no more: a disk that fails is written on through the peer.
    So it is asked to read a new record first, and to say it again.
    """
    known = now.peer if _peer_has_read(now) else None
    if known is None:
        return Action(Do.WAIT, f"{why}: the other node has to say that it is complete")
    if known.view.disk not in WHOLE or not now.record.trusts(known.view.node, known.view.boot_id):
        return _for_a_person(f"{why}, and the other replica is not complete")
    if now.yes != Yes(now.record.epoch, Do.ASK_FILL):
        return Action(Do.ASK_FILL, f"{why}: to be filled anew")
    return Action(Do.INVALIDATE, f"{why}: it is filled anew")


def _in_the_set(now: Situation) -> Action:
    view, record = now.view, now.record
    if _is_to_take_its_disk(now):
        return _take_disk(now)
    if now.notes.disk_failed or view.disk is Disk.DISKLESS:
        if now.peer_in_set:
            return Action(Do.ASK_LEAVE, "the disk failed")
        return _for_a_person("the disk of the last replica failed")
    if not record.trusts(view.node, view.boot_id):
        if now.peer_in_set:
            return Action(Do.ASK_LEAVE, "started anew: its disk's cache may have lost writes")
        return _for_a_person("started anew as the last replica")
    if record.replicas == (view.node,) and view.connection is not Connection.STANDALONE:
        # The one that left may still be primary: nothing may come from it after the confirmation.
        return Action(Do.FORCE_DISCONNECT, "the only replica: nothing to connect to")
    if not now.peer_in_set and not record.confirmed and view.disk in WHOLE:
        return Action(Do.ASK_CONFIRM, "the only replica: all has to be on its disk")
    return _promote(now) if record.primary == view.node else _unpublished(now)


def _is_to_take_its_disk(now: Situation) -> bool:
    """A person has chosen this replica though its disk had failed: what is on it is the volume."""
    failed = now.notes.disk_failed or now.view.disk is Disk.DISKLESS
    return failed and now.record.forced == now.view.node


def _take_disk(now: Situation) -> Action:
    if now.view.disk is Disk.DISKLESS:
        return Action(Do.TAKE_DOWN, "a person has chosen what is on its disk: it is set up anew")
    reason = "a person has chosen what is on its disk"
    return Action(Do.NOTE, reason, Notes(now.notes.record, False))


def _unpublished(now: Situation) -> Action:
    view = now.view
    if _is_ahead(now):
        return Action(Do.ASK_CONFIRM, "a new data generation has begun")
    if view.connection is Connection.STANDALONE:
        return _connect_alone(now)
    if view.grant:
        return Action(Do.REMOVE_GRANT, "not this node's volume")
    if now.record.forced == view.node and view.disk not in WHOLE:
        text = "chosen by a person: it is the volume as soon as it is published here"
        return Action(Do.WAIT, text, person=True)
    if view.connection is Connection.CONNECTING and _equal_outside(now):
        return Action(Do.FORCE_DISCONNECT, "to begin a new generation first")
    return Action(Do.WAIT, "in the set")


def _promote(now: Situation) -> Action:
    view, record = now.view, now.record
    if view.connected and not now.go_alone and record.forced != view.node:
        return _promote_connected(now)
    if record.forced != view.node and view.disk not in WHOLE:
        if view.connection is Connection.STANDALONE:
            return _connect_alone(now)
        return _for_a_person(f"its disk is {view.disk}, and its source is not there")
    if now.peer_in_set and not now.go_alone:
        if view.connection is Connection.STANDALONE:
            return _connect_alone(now)
        return Action(Do.WAIT, "waiting for the other node, or for a controller's failover")
    return _promote_alone(now)


def _promote_connected(now: Situation) -> Action:
    view = now.view
    if view.grant:
        return Action(Do.REMOVE_GRANT, "a grant is for promotion without the peer")
    if view.peer_role is Role.PRIMARY:
        return Action(Do.WAIT, "the other node is still primary: it has to be demoted")
    if view.disk is not Disk.UP_TO_DATE:
        return Action(Do.WAIT, f"its disk is {view.disk}: it has to resync")
    if now.yes == Yes(now.record.epoch, Do.ASK_CONNECTED):
        return Action(Do.PROMOTE, "permitted, connected")
    return Action(Do.ASK_CONNECTED, "published here")


def _promote_alone(now: Situation) -> Action:
    """A survivor (rules 3 and 9), or the only member."""
    view, record = now.view, now.record
    if view.connection is not Connection.STANDALONE:
        return Action(Do.FORCE_DISCONNECT, "the old primary must not come back in between")
    if not _may_alone(now):
        return Action(Do.ASK_ALONE, "published here, the peer is not there")
    if not view.grant:
        return Action(Do.WRITE_GRANT, "permitted to serve alone")
    by_force = record.forced == view.node
    return Action(Do.PROMOTE_BY_FORCE if by_force else Do.PROMOTE, "permitted to serve alone")


def _outside(now: Situation) -> Action:
    """A replica outside the set: it can only become the target of a resync (rule 15)."""
    view = now.view
    if view.grant:
        return Action(Do.REMOVE_GRANT, "not in the set")
    # In a handshake the generations are already those of the resync that is about to begin.
    busy = view.connected or view.connection is Connection.UNKNOWN
    if busy and not now.notes.disk_failed:
        return Action(Do.WAIT, f"coming back: {view.connection}, {view.disk}")
    if now.notes.disk_failed:
        if view.disk is not Disk.INCONSISTENT:
            return _fill_anew(now, "the disk had failed")
        return Action(Do.NOTE, "the disk is filled anew", Notes(now.notes.record, False))
    if view.disk in WHOLE:
        return Action(Do.OUTDATE, "out of the set: it may lack what was written since")
    if now.peer is None or not _peer_has_read(now) or now.peer.view.disk not in WHOLE:
        return Action(Do.WAIT, "out of the set: waiting for the complete replica and its agent")
    peer = now.peer.view.generations
    if view.disk is not Disk.INCONSISTENT and view.generations.current == peer.current:
        return Action(Do.WAIT, "out of the set: the complete replica begins a new generation first")
    if view.disk is not Disk.INCONSISTENT and not surely_target(view.generations, peer):
        return _fill_anew(now, "it might become the source")
    if view.connection is Connection.STANDALONE:
        return Action(Do.CONNECT, "the peer's data is newer: resync")
    return Action(Do.WAIT, "out of the set: waiting for the complete replica to connect")
