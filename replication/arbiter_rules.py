"""The arbiter's answers: pure functions from a record and a request to what becomes of the record.

Any controller may answer. It reads the record, calls the function, and writes the record of the
answer by compare-and-swap on the revision it read; a conflict or a time-out means "unknown", and
whoever asked reads again. Permission counts only once the write has succeeded.

An agent's request names the revision that the agent had read when it looked at its kernel, and is
refused on any other: a request that was on its way for long decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from cluster.membership import Boot, Held, Membership, Report, bare
from replication.record import Connection, Disk, Role, Statement, View


@dataclass(frozen=True)
class Answer:
    """``record``: what to write, when refused the one that was read; ``reason``: for people."""

    granted: bool
    record: Membership
    reason: str


def serve_alone(held: Held, asked: Statement) -> Answer:
    """A node asks to serve without its peer: a frozen primary, or a survivor (rules 2, 3, 5, 12).

    The peer leaves the set; the epoch rises even when it was out already, so that nothing that was
    stated before can bring it back.
    """
    record, view = held.record, asked.view
    forced = record.forced == view.node
    refusal = _refusal(held, asked) or _may_not_serve(record, view)
    if not refusal and view.connection is not Connection.STANDALONE:
        refusal = "the node has to cut its connection first, so that its peer cannot come back"
    if not refusal and not forced and view.disk not in (Disk.UP_TO_DATE, Disk.CONSISTENT):
        refusal = f"its disk is {view.disk}: only a complete replica may go on alone"
    if refusal:
        return _refuse(record, refusal)
    return _change(record, f"{view.node} serves alone", **_served_by(record, view, (view.node,)))


def serve_connected(held: Held, asked: Statement, peer: Statement | None = None) -> Answer:
    """A node asks to be primary while it is connected: the set stays as it is (rule 1).

    ``peer``: what the other replica's agent has stated. A member that no boot is known of has been
    one since the volume was made; before its first primary nothing was acknowledged, so that the
    boot in which it is then is one that has everything.
    """
    record, view = held.record, asked.view
    refusal = _refusal(held, asked) or _may_not_serve(record, view)
    if not refusal and not view.connected:
        refusal = "it is not connected to its peer: it has to ask to serve alone"
    if not refusal and view.peer_role is Role.PRIMARY:
        refusal = "its peer is still primary: demote that one first"
    if not refusal and view.disk is not Disk.UP_TO_DATE:
        refusal = f"its disk is {view.disk}: wait for the resync"
    if refusal:
        return _refuse(record, refusal)
    if not record.active and not record.boots and peer is not None:
        record = replace(record, boots=(Boot(peer.view.node, peer.view.boot_id),))
    changes = _served_by(record, view, record.members)
    return _change(record, f"{view.node} serves", **changes)


def leave(held: Held, asked: Statement) -> Answer:
    """A node says that its own replica is not to be trusted: its disk failed, or it lost power."""
    record, node = held.record, asked.view.node
    refusal = _refusal(held, asked)
    if not refusal and node not in record.members:
        refusal = "the node is not in the set"
    if not refusal and not record.others(node):
        refusal = (
            f"{node} holds the last replica in the set: repair its disk, or let a person decide "
            "(force-primary)"
        )
    if refusal:
        return _refuse(record, refusal)
    return _change(record, f"{node} is out of the set", **_members(record, record.others(node)))


def fill_anew(held: Held, asked: Statement) -> Answer:
    """A replica outside the set is to be filled anew, which ends what is on it.

    The epoch rises, so that the member reads the record once more and says how complete it is.
    """
    record, node = held.record, asked.view.node
    refusal = _refusal(held, asked)
    if not refusal and node in record.members:
        refusal = f"{node} is in the set: what is on it is the volume"
    if refusal:
        return _refuse(record, refusal)
    return _change(record, f"{node} is to be filled anew")


def confirm(held: Held, asked: Statement) -> Answer:
    """The only member, left over by ``leave``, says that its disk has written out its cache.

    From then on it has all by itself, whatever becomes of its power (rule 16). One that has begun a
    new generation says so in the same way, before it connects: DRBD keeps two former generations,
    and each resync that begins takes the place of one. A promotion by force even begins two, after
    which it carries no trace of the one that it had: there a person has vouched for what it has.
    """
    record, view = held.record, asked.view
    refusal = _refusal(held, asked)
    if not refusal and record.members != (view.node,):
        refusal = f"{view.node} is not the only member of the set"
    vouched = record.forced == view.node or _carries(record, view)
    if not refusal and not (vouched and record.trusts(view.node, view.boot_id)):
        refusal = _may_lack(record, view)
    if not refusal and view.disk not in (Disk.UP_TO_DATE, Disk.CONSISTENT):
        refusal = f"its disk is {view.disk}"
    if refusal:
        return _refuse(record, refusal)
    generation = view.generations.current
    changes = {"active": view.node, "generation": generation}
    # Complete by itself: what a person has forced is the volume, and needs no force any more.
    return _change(record, f"{view.node} has all", forced="", **changes)


def rejoin(held: Held, one: Statement, other: Statement) -> Answer:
    """After a resync: the set becomes both nodes (rule 4).

    Both must have seen, having read the very revision that is written over, that they are connected
    and UpToDate on both sides. Equal generations say that it was the same connection: whoever
    acknowledged alone in between carries a new one.
    """
    record = held.record
    nodes = tuple(sorted((one.view.node, other.view.node)))
    refusal = _refusal(held, one) or _refusal(held, other)
    if not refusal and (len(set(nodes)) != 2 or not set(record.members) & set(nodes)):
        refusal = "two replicas are needed, and one of them in the set"
    for view in (one.view, other.view):
        if not refusal and not _in_sync(view):
            refusal = (
                f"{view.node} is {view.connection} {view.disk}/{view.peer_disk}: "
                "wait for both to be Connected and UpToDate"
            )
        if not refusal and view.node in record.members and not _carries(record, view):
            refusal = f"{view.node} does not carry the volume's data generation: read both again"
        if not refusal and not record.trusts_member(view.node, view.boot_id):
            refusal = f"{view.node} has started anew: it has to leave the set and resync first"
    if not refusal and one.view.generations.current != other.view.generations.current:
        refusal = "the nodes carry different data generations: read both again"
    if refusal:
        return _refuse(record, refusal)
    boots = tuple(sorted((Boot(v.node, v.boot_id) for v in (one.view, other.view)), key=_by_node))
    # A person may have chosen the other one while this one still served: its flushes count.
    serving = [v.node for v in (one.view, other.view) if v.role is Role.PRIMARY]
    return _change(
        record,
        f"{' and '.join(nodes)} are in the set",
        members=tuple(sorted({*record.members, *nodes})),
        active=serving[0] if serving else record.active,
        boots=boots,
        generation=one.view.generations.current,
        forced="",
    )


def publish(record: Membership, node: str) -> Answer:
    """The node may become primary; it still has to ask for that."""
    refusal = record.quarantine
    if not refusal and record.primary not in ("", node):
        refusal = f"the volume is published on {record.primary}: unpublish it there, or fail over"
    if not refusal and node not in record.members:
        refusal = f"{node} is not in the set of complete replicas ({', '.join(record.members)})"
    if refusal:
        return _refuse(record, refusal)
    if record.primary == node:
        return Answer(True, record, f"published on {node} already")
    return _change(record, f"published on {node}", primary=node)


def unpublish(record: Membership, node: str) -> Answer:
    """The node may not be primary any more; its agent demotes it."""
    if record.primary != node:
        return Answer(True, record, f"not published on {node}")
    if record.quarantine:
        return _refuse(record, record.quarantine)
    return _change(record, f"not published on {node} any more", primary="")


def fail_over(record: Membership, to: str) -> Answer:
    """From now on the old primary is refused; the new one asks to serve alone, then promotes.

    Whether the old one is dead is the caller's guess: a wrong one costs a restart, never data.
    """
    refusal = record.quarantine
    if not refusal and to not in record.members:
        refusal = (
            f"{to} is not in the set: wait for {', '.join(record.members)}, or let a person accept "
            "the loss of data (force-primary)"
        )
    if refusal:
        return _refuse(record, refusal)
    if record.primary == to:
        return Answer(True, record, f"published on {to} already")
    return _change(record, f"failed over to {to}", primary=to)


def add_replica(record: Membership, node: str) -> Answer:
    """A replica to be filled; it comes into the set by ``rejoin``."""
    if record.quarantine:
        return _refuse(record, record.quarantine)
    if node in record.replicas:
        return Answer(True, record, f"{node} has a replica already")
    if len(record.replicas) >= 2:
        return _refuse(record, "DRBD 8.4 keeps two replicas: remove one first")
    return _change(
        record, f"{node} gets a replica", replicas=tuple(sorted((*record.replicas, node)))
    )


def remove_replica(held: Held, node: str, keeper: Statement) -> Answer:
    """Give a replica up (rule 7): out of the set first; its agent disconnects when it reads that.

    ``keeper`` stays, and states that it is complete.
    """
    record, view = held.record, keeper.view
    if node not in record.replicas:
        return Answer(True, record, f"{node} has no replica")
    refusal = _refusal(held, keeper)
    if not refusal and (node == view.node or view.node not in record.members):
        refusal = f"{view.node} is not in the set: nothing complete would remain"
    if not refusal and record.primary == node:
        refusal = f"the volume is published on {node}: unpublish it there first"
    if not refusal and view.disk is not Disk.UP_TO_DATE:
        refusal = f"the disk of {view.node} is {view.disk}: nothing complete would remain"
    if not refusal and not (_carries(record, view) and record.trusts(view.node, view.boot_id)):
        refusal = f"{view.node} may lack what {node} has: wait until both are in sync"
    if refusal:
        return _refuse(record, refusal)
    return _change(
        record,
        f"{node} has no replica any more",
        replicas=tuple(other for other in record.replicas if other != node),
        **_members(record, (view.node,)),
    )


def rolled_back(held: Held, told: Iterable[Statement]) -> str:
    """Why nothing may be answered, or nothing: an agent has told of a newer record (rule 17).

    To be called before every other function of this module but ``report``. A controller knows what
    agents told it since it started; when it starts, and when it sees a revision go back, it asks
    all agents that it reaches first. Once the record has been changed after a roll-back, the
    epochs alone tell nothing any more.
    """
    newer = sorted(known.view.node for known in told if known.epoch > held.record.epoch)
    if not newer:
        return ""
    return f"the store is older than what {', '.join(newer)} has seen: waiting for its report"


def report(held: Held, node: str, noted: Membership | None) -> Answer:
    """A node tells the newest record that it has seen (rule 17).

    One newer than the store's quarantines the volume. When all replicas have reported, the newest
    is the record again; two different ones of one epoch are for a person to decide.
    """
    record = held.record
    newer = noted is not None and noted.epoch > record.epoch
    if not record.quarantine and not newer:
        return _refuse(record, "the store holds nothing older than that: read it again")
    reports = {known.node: known for known in record.reports}
    if node in reports and not newer:
        return _refuse(record, "reported already")
    reports[node] = Report(node, noted)
    told = tuple(reports[name] for name in sorted(reports))
    seen = [bare(record), *(known.record for known in told if known.record is not None)]
    newest = max(seen, key=lambda known: known.epoch)
    rivals = [other for other in seen if other.epoch == newest.epoch and other != newest]
    missing = sorted({*record.replicas, *newest.replicas} - set(reports))
    if not missing and not rivals:
        back = replace(newest, epoch=newest.epoch + 1)
        return Answer(True, back, "all replicas have reported: the newest record is back")
    whom = f"waiting for {', '.join(missing)} to report" if missing else "the reports contradict"
    words = f"the store is older than what its nodes have seen: {whom}, or a person decides"
    # The epoch stays: this record is none that anybody may act on or note.
    return Answer(True, replace(record, quarantine=words, reports=told), words)


def force_primary(
    record: Membership, node: str, accept_data_loss: bool, *, at_least: int = 0
) -> Answer:
    """A person's last resort: that replica is the volume, whatever the others had acknowledged.

    ``at_least``: an epoch that no node can have noted, or one that comes back later would have the
    newest record, and what was written since the decision would be lost without a question.
    """
    if node not in record.replicas:
        return _refuse(record, f"{node} has no replica of the volume")
    if not accept_data_loss:
        return _refuse(record, "acknowledged writes may be lost: accept that explicitly")
    forced = replace(bare(record), epoch=max([record.epoch, at_least, *_epochs(record)]))
    return _change(
        forced,
        f"{node} is the volume by a person's decision",
        members=(node,),
        primary=node,
        active=node,
        boots=(),
        generation="",
        forced=node,
    )


def _epochs(record: Membership) -> list[int]:
    return [known.record.epoch for known in record.reports if known.record is not None]


def _refusal(held: Held, asked: Statement) -> str:
    """Why nothing that this node asks for can be granted, or nothing."""
    if held.record.quarantine:
        return held.record.quarantine
    if asked.epoch > held.record.epoch:
        return f"{asked.view.node} has seen a newer record than the store holds: it has to report"
    if asked.revision != held.revision:
        return "the record has changed since the node looked: read it again"
    if asked.view.node not in held.record.replicas:
        return f"{asked.view.node} has no replica of the volume"
    return ""


def _may_not_serve(record: Membership, view: View) -> str:
    node = view.node
    if record.primary != node:
        where = f"on {record.primary}" if record.primary else "nowhere"
        return f"the volume is published {where}, not on {node}"
    if node not in record.members:
        return f"{node} is not in the set ({', '.join(record.members)}): it has to resync first"
    if record.forced == node:
        return ""
    if not _carries(record, view):
        return f"the data of {node} is older than generation {record.generation}"
    if not record.trusts(node, view.boot_id):
        return _may_lack(record, view)
    return ""


def _may_lack(record: Membership, view: View) -> str:
    return (
        f"{view.node} has started anew and may have lost what its disk's cache held: wait for "
        f"{record.active}, the last primary, or let a person decide (force-primary)"
    )


def _carries(record: Membership, view: View) -> bool:
    return not record.generation or view.generations.grown_from(record.generation)


def _in_sync(view: View) -> bool:
    return (
        view.connection is Connection.CONNECTED
        and view.disk is Disk.UP_TO_DATE
        and view.peer_disk is Disk.UP_TO_DATE
    )


def _by_node(boot: Boot) -> str:
    return boot.node


def _members(record: Membership, members: tuple[str, ...]) -> dict[str, object]:
    boots = tuple(boot for boot in record.boots if boot.node in members)
    return {"members": members, "boots": boots}


def _served_by(record: Membership, view: View, members: tuple[str, ...]) -> dict[str, object]:
    kept = [boot for boot in record.boots if boot.node in members and boot.node != view.node]
    return {
        "members": members,
        "active": view.node,
        "boots": tuple(sorted((*kept, Boot(view.node, view.boot_id)), key=_by_node)),
        "generation": view.generations.current,
        # Kept until the node has served: its agent may have to promote again.
        "forced": record.forced if view.role is not Role.PRIMARY else "",
    }


def _change(record: Membership, reason: str, /, **changes: object) -> Answer:
    changed = replace(record, **changes, epoch=record.epoch + 1)  # type: ignore[arg-type]
    return Answer(True, changed, reason)


def _refuse(record: Membership, reason: str) -> Answer:
    return Answer(False, record, reason)
