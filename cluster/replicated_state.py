"""How a replicated volume is, and why, in words: from its record and what its nodes answered.

Pure. The controller's health calls, its answers to people and its metrics all judge by this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.agents import PERSON, REBOOT, Health, ReplicaReport, VolumeReport
from cluster.errors import ClusterError, NotFound
from cluster.membership import Membership
from cluster.model import Volume
from cluster.placement import in_words

_USABLE = (Health.OK, Health.DEGRADED)


@dataclass(frozen=True)
class ReplicatedState:
    """``answers``: of each node with a replica, or why there is none.

    ``decision``: what the controller makes of silent nodes, in words, or nothing.
    """

    volume: Volume
    record: Membership | None
    answers: Mapping[str, VolumeReport | ClusterError]
    decision: str = ""

    @property
    def replicas(self) -> tuple[str, ...]:
        return self.record.replicas if self.record is not None else tuple(self.volume.nodes)

    @property
    def members(self) -> tuple[str, ...]:
        return self.record.members if self.record is not None else ()

    @property
    def publisher(self) -> str:
        return self.record.primary if self.record is not None else ""

    def replica(self, node: str) -> ReplicaReport | None:
        """What the node says of its replica; None where it does not answer."""
        answer = self.answers.get(node)
        return answer.replica if isinstance(answer, VolumeReport) else None

    @property
    def frozen(self) -> str:
        """Why writes are held back where the volume is used, or nothing."""
        replica = self.replica(self.publisher)
        return replica.frozen if replica is not None else ""

    @property
    def resync(self) -> ReplicaReport | None:
        """The report of a node that resyncs, preferably one that can tell how far it is."""
        found = [self.replica(node) for node in self.replicas]
        running = [one for one in found if one is not None and one.activity == "resync"]
        return max(running, key=lambda one: one.resync_total_bytes, default=None)


def judge(state: ReplicatedState) -> tuple[Health, str]:
    """One silent replica of two is no loss of access while a member of the set is there."""
    text = "; ".join(_troubles(state))
    if state.record is None:
        return Health.INACCESSIBLE, f"no record says which replicas are complete; {text}".strip(
            "; "
        )
    if state.record.quarantine:
        return Health.INACCESSIBLE, state.record.quarantine
    there = [node for node in state.members if _is_usable(state.answers.get(node))]
    lost = [isinstance(state.answers.get(node), NotFound) for node in state.members]
    if lost and all(lost):
        return Health.DATA_LOSS, text
    user = state.answers.get(state.publisher)
    if isinstance(user, VolumeReport) and user.health not in _USABLE:
        return user.health, text
    if not there or (state.publisher and state.publisher not in there):
        return Health.INACCESSIBLE, text or f"{', '.join(state.members)} cannot be used"
    if text:
        return Health.DEGRADED, text
    return Health.OK, ""


def summary(state: ReplicatedState) -> str:
    """In a few words: ``2/2 in sync``, ``1/2, resync 43 %``, ``frozen: …``."""
    if state.record is None:
        return "membership unknown"
    if state.record.quarantine:
        return "quarantined: the store is older than its nodes"
    if state.frozen:
        return f"frozen: {state.frozen}"
    words = f"{len(state.members)}/{len(state.replicas)}"
    if (resync := state.resync) is not None:
        share = resync.resync_share
        return f"{words}, resync{'' if share is None else f' {share:.0%}'.replace('%', ' %')}"
    away = [node for node in state.replicas if isinstance(state.answers.get(node), ClusterError)]
    if away:
        return f"{words}, {', '.join(away)} away"
    if len(state.members) < len(state.replicas):
        return f"{words}, degraded"
    if judge(state)[0] is not Health.OK:
        return f"{words}, not well"
    return f"{words} in sync"


def explain(state: ReplicatedState) -> str:
    """A paragraph: how the volume is and why, what is being done, and whose decision it awaits."""
    sentences = [_where_it_is(state)]
    if state.frozen:
        sentences.append(
            f"Writes on {state.publisher} wait, and none is acknowledged: {state.frozen}."
        )
    sentences += [_of_replica(state, node) for node in state.replicas]
    if state.decision:
        sentences.append(f"The controller: {state.decision}.")
    sentences += _for_a_person(state)
    return " ".join(one for one in sentences if one)


def _where_it_is(state: ReplicatedState) -> str:
    record = state.record
    if record is None:
        return (
            "No record says which replicas are complete; the volume is published nowhere before "
            "all of its nodes have reported."
        )
    if record.quarantine:
        return f"Nothing is permitted: {record.quarantine}."
    if len(record.replicas) == 1:
        return f"The volume has one replica, on {record.replicas[0]}."
    if len(record.members) == len(record.replicas):
        return f"Every acknowledged write is on {_and(record.members)}."
    return f"Degraded: only {_and(record.members)} has all that was acknowledged."


def _of_replica(state: ReplicatedState, node: str) -> str:
    answer = state.answers.get(node)
    if answer is None:
        return f"{node} has not been asked."
    if isinstance(answer, NotFound):
        return f"{node} does not have its replica any more."
    if isinstance(answer, ClusterError):
        if node in state.members and not _answering_members(state):
            return f"{node} does not answer ({answer}); nothing is served before it is back."
        return (
            f"{node} does not answer ({answer}); when it is back, its replica is brought up to "
            "date by itself."
        )
    if answer.replica is None:
        return f"{node} says nothing of its replica: its agent is of an older version."
    return _of_report(state, node, answer.replica)


def _of_report(state: ReplicatedState, node: str, replica: ReplicaReport) -> str:
    if replica.activity == "verify":
        return f"{node} compares its replica with the other one."
    if replica.in_sync:
        verify = replica.verify
        return _after_verify(node, replica) if verify and verify.out_of_sync_bytes else ""
    if replica.activity == "resync" and replica.disk != "UpToDate":
        words = f"{node} is brought up to date{_progress(replica)}."
    elif replica.activity == "resync":
        return f"{node} sends what the other replica lacks."
    elif node in state.members and len(state.replicas) > 1:
        words = f"{node} is in the set of complete replicas, without a complete peer."
    else:
        words = f"The replica on {node} is {replica.disk}, {replica.connection}."
    return f"{words} Its agent: {replica.doing}." if replica.doing else words


def _after_verify(node: str, replica: ReplicaReport) -> str:
    assert replica.verify is not None
    found = in_words(replica.verify.out_of_sync_bytes)
    if not replica.out_of_sync_bytes:
        return f"The last verify on {node} found {found} that differed; they are resynced."
    return (
        f"The last verify on {node} found {found} that differ. They are resynced only when the "
        "replicas disconnect and connect again; the bytes out of sync must return to 0 after that, "
        "else the replica that does not serve has to be made anew."
    )


def _progress(replica: ReplicaReport) -> str:
    share, left = replica.resync_share, replica.seconds_left
    if share is None:
        return ""
    words = f": {100 * share:.0f} % of {in_words(replica.resync_total_bytes)}"
    if replica.bytes_per_second:
        words += f" at {in_words(replica.bytes_per_second)}/s"
    return words + (f", about {left:.0f} s left" if left is not None else "")


def _for_a_person(state: ReplicatedState) -> list[str]:
    name = state.volume.name
    replicas = {node: state.replica(node) for node in state.replicas}
    rebooting = [node for node, one in replicas.items() if one and one.waits_for == REBOOT]
    words = [f"{node} has to be rebooted by a person." for node in rebooting]
    there = [node for node, one in replicas.items() if one is not None]
    waiting = [node for node, one in replicas.items() if one and one.waits_for == PERSON]
    quarantined = state.record is not None and bool(state.record.quarantine)
    # Whoever is left lacks something, and its agent cannot know whether the others come back.
    stuck = waiting or quarantined or (state.members and not _answering_members(state))
    if "standing down" in state.decision or "both silent" in state.decision:
        able = [node for node in there if node in state.members]
        if able:
            words.append(
                "It waits for a person's decision, or for the nodes to come back: "
                f"`xlss volume fail-over {name} --to {able[0]}` lets {able[0]} go on alone, "
                "and loses nothing that was acknowledged."
            )
    # A disk that has failed comes last: it would have to be well again.
    able = sorted((*waiting, *there), key=lambda node: _is_diskless(replicas[node]))
    if stuck and able:
        node = able[0]
        words.append(
            "It waits for the missing nodes, or for a person's decision: "
            f"`xlss volume force-primary {name} --node {node} --accept-data-loss` makes the "
            f"replica on {node} the volume, and may lose what only the other one has."
        )
    return words


def _is_diskless(replica: ReplicaReport | None) -> bool:
    return replica is not None and replica.disk == "Diskless"


def _troubles(state: ReplicatedState) -> list[str]:
    words = []
    for node in state.replicas:
        answer = state.answers.get(node)
        if isinstance(answer, NotFound):
            words.append(f"node {node} does not have its replica any more")
        elif isinstance(answer, ClusterError):
            words.append(f"node {node} does not answer: {answer}")
        elif answer is not None and answer.health is not Health.OK:
            words.append(f"{node}: {answer.trouble}")
    outside = [node for node in state.replicas if state.members and node not in state.members]
    if outside and not words:
        words.append(f"the replica on {_and(outside)} is not in sync")
    return words


def _answering_members(state: ReplicatedState) -> list[str]:
    return [node for node in state.members if isinstance(state.answers.get(node), VolumeReport)]


def _is_usable(answer: VolumeReport | ClusterError | None) -> bool:
    return isinstance(answer, VolumeReport) and answer.health in _USABLE


def _and(names: tuple[str, ...] | list[str]) -> str:
    return " and ".join(names) or "nobody"
