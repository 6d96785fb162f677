"""The workflows of volumes. Each may be cut off at any point and repeated.

Every call may raise Busy (another one works on the same volume), Conflict and Unavailable: then it
is to be repeated. Sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Protocol

from cluster.agents import Agents, Health, VolumeReport, ask_all
from cluster.clones import CloneCuts
from cluster.creation import CreateRequest, VolumeMaker
from cluster.errors import (
    AlreadyExists,
    ClusterError,
    Conflict,
    NotFound,
    OutOfRange,
    Refused,
    Unavailable,
    Unsupported,
)
from cluster.identifiers import Kind, key_of_id, key_of_name, require_id
from cluster.locks import ObjectLocks
from cluster.membership import Held, Membership
from cluster.memberships import Memberships
from cluster.model import TOPOLOGY_NODE_KEY, IoLimits, Phase, Publication, Volume, VolumeSpec
from cluster.placement import in_words
from cluster.pools import PoolLedger
from cluster.records import volume_table
from cluster.removal import VolumeRemover
from cluster.replicated_state import ReplicatedState, judge
from cluster.store import Store

__all__ = ["CreateRequest", "MembershipRules", "Volumes"]

_ATTEMPTS = 5  # to change a membership record that others change at the same time


class Ruling(Protocol):
    """``record`` is what to write: when refused, the one that was read."""

    @property
    def granted(self) -> bool: ...
    @property
    def record(self) -> Membership: ...
    @property
    def reason(self) -> str: ...


class MembershipRules(Protocol):
    """Pure functions; ``replication.arbiter_rules`` has them."""

    def publish(self, record: Membership, node: str) -> Ruling: ...
    def unpublish(self, record: Membership, node: str) -> Ruling: ...


class Volumes:
    """``rules``: without them, replicated volumes are not published.

    ``not_yet``: why no membership record may be changed now, after what nodes have told of it.
    """

    def __init__(
        self,
        store: Store,
        agents: Agents,
        pools: PoolLedger,
        locks: ObjectLocks,
        rules: MembershipRules | None = None,
        not_yet: Callable[[str, Held], str] = lambda volume_id, held: "",
    ) -> None:
        self._memberships = Memberships(store)
        self._rules = rules
        self._not_yet = not_yet
        self._table = volume_table(store)
        self._agents = agents
        self._pools = pools
        self._locks = locks
        self._maker = VolumeMaker(store, agents, pools, locks)
        self._remover = VolumeRemover(store, agents, CloneCuts(store, agents, locks))

    def create(self, request: CreateRequest) -> Volume:
        """As ``VolumeMaker.make``; idempotent by name."""
        with self._locks.hold(key_of_name(Kind.VOLUME, request.name), purpose="creation"):
            return self._maker.make(request)

    def delete(self, volume_id: str) -> None:
        """A volume that is not there is success. Raises Refused while it is in use."""
        try:
            require_id(Kind.VOLUME, volume_id, "volume_id")
        except NotFound:
            return
        with self._locks.hold(key_of_id(volume_id), purpose="deletion"):
            entry = self._table.find_id(volume_id)
            if entry is None:
                return
            if entry.item.published:
                raise Refused(f"volume {volume_id} is published on {_places(entry.item)}")
            self._remover.remove(entry)

    def get(self, volume_id: str) -> Volume:
        """Raises NotFound, also for a volume that is half-made or being deleted."""
        return self._table.ready(require_id(Kind.VOLUME, volume_id, "volume_id")).item

    def list(self, *, after: str = "", limit: int = 0) -> tuple[list[Volume], str]:
        """A page of volumes and the token of the next one: see ``Table.page``."""
        return self._table.page(after, limit)

    def publish(self, volume_id: str, node: str, readonly: bool, access_mode: str) -> Volume:
        """Let one node use the volume.

        Raises NotFound (volume or node), Refused when another node has it or the volume is not on
        that node, AlreadyExists when that node has it in another way.
        """
        require_id(Kind.VOLUME, volume_id, "volume_id")
        with self._locks.hold(key_of_id(volume_id), purpose="publication"):
            entry = self._table.ready(volume_id)
            volume = entry.item
            if node not in self._agents.names():
                raise NotFound(f"no node {node!r}")
            wanted = Publication(node, readonly, access_mode)
            if wanted in volume.published:
                if volume.replication is not None:  # a restored store may have lost that alone
                    self._rule(volume, lambda rules, record: rules.publish(record, node))
                return volume
            if node not in volume.nodes:
                raise Refused(f"volume {volume_id} is on {', '.join(volume.nodes)}, not on {node}")
            for present in volume.published:
                if present.node != node:
                    raise Refused(f"volume {volume_id} is published on {present.node}")
                if present.access_mode:  # a rebuilt store does not know in which mode it was
                    raise AlreadyExists(
                        f"volume {volume_id} is published on {node} as {present.access_mode}"
                        f"{' (read-only)' if present.readonly else ''}"
                    )
            if volume.replication is not None:
                # First: only the membership record says that the node may. A call that is cut off
                # here is repeated, or taken back by ``unpublish``, which looks at both.
                self._rule(volume, lambda rules, record: rules.publish(record, node))
            return self._table.update(entry, published=(wanted,)).item

    def unpublish(self, volume_id: str, node: str) -> None:
        """``node`` "" is all. A volume that is not there or not published is success."""
        try:
            require_id(Kind.VOLUME, volume_id, "volume_id")
        except NotFound:
            return
        with self._locks.hold(key_of_id(volume_id), purpose="unpublication"):
            entry = self._table.find_id(volume_id)
            if entry is None:
                return
            if entry.item.replication is not None and entry.item.phase is Phase.READY:
                # First: a volume that looks unpublished must not be primary any more.
                self._unrule(entry.item, node)
            kept = tuple(p for p in entry.item.published if node and p.node != node)
            if kept != entry.item.published:
                self._table.update(entry, published=kept)

    def _unrule(self, volume: Volume, node: str) -> None:
        """The node ("": any) may not be primary any more."""
        held = self._memberships.find(volume.id)
        primary = held.record.primary if held is not None else ""
        if primary and node in ("", primary):
            self._rule(volume, lambda rules, record: rules.unpublish(record, primary))

    def _rule(
        self, volume: Volume, decide: Callable[[MembershipRules, Membership], Ruling]
    ) -> None:
        """Write what the rules make of the membership record.

        Raises Refused with their reason, Unavailable where nodes have told of a newer record, and
        Conflict when others change it all the time.
        """
        if self._rules is None:
            raise Unsupported(f"volume {volume.id} is replicated, and this controller has no rules")
        for _ in range(_ATTEMPTS):
            held = self._memberships.find(volume.id)
            if held is None:
                raise Refused(
                    f"volume {volume.id} has no membership record: which of its replicas is"
                    " complete is not known until its nodes have reported"
                )
            if reason := self._not_yet(volume.id, held):
                raise Unavailable(f"volume {volume.id}: {reason}")
            ruling = decide(self._rules, held.record)
            if not ruling.granted:
                raise Refused(f"volume {volume.id}: {ruling.reason}")
            if ruling.record == held.record:
                return
            try:
                self._memberships.write(volume.id, ruling.record, held.revision)
            except Conflict:
                continue
            return
        raise Conflict(f"the membership record of volume {volume.id} changes all the time")

    def expand(self, volume_id: str, required_bytes: int, limit_bytes: int) -> int:
        """Returns the size that it has then. Raises NotFound, OutOfRange, NoSpace.

        The agent is asked even when the record is large enough: a former call may have been cut
        off after the logical volume had grown and before the devices over it had.
        """
        require_id(Kind.VOLUME, volume_id, "volume_id")
        with self._locks.hold(key_of_id(volume_id), purpose="expansion"):
            entry = self._table.ready(volume_id)
            size = max(required_bytes, entry.item.size_bytes)
            if 0 < limit_bytes < size:
                raise OutOfRange(
                    f"volume {volume_id} would have {in_words(size)}, more than the limit of"
                    f" {in_words(limit_bytes)}"
                )
            if entry.item.replication is not None:
                self._require_all(entry.item)
            sizes = []
            # Where it is used comes last: DRBD's device grows by what all replicas have by then.
            used = {publication.node for publication in entry.item.published}
            for node in sorted(entry.item.nodes, key=used.__contains__):
                ticket = self._pools.ticket()
                grown, pool = self._agents.agent(node).expand_volume(volume_id, size, limit_bytes)
                self._pools.report(node, pool, ticket)
                sizes.append(grown)
            size = min(sizes)  # what all replicas have is the size of the volume
            if size > entry.item.size_bytes:
                entry = self._table.update(entry, size_bytes=size)
            if entry.item.replication is not None:
                self._tell_all(entry.item)
            return entry.item.size_bytes

    def _tell_all(self, volume: Volume) -> None:
        """That size all replicas have: one whose peer is away may be used with it from now on."""
        for node in volume.nodes:
            ticket = self._pools.ticket()
            self._pools.report(node, self._agents.agent(node).update_volume(volume), ticket)

    def _require_all(self, volume: Volume) -> None:
        """Raises Unavailable when a replica does not answer: then none must grow."""
        answers = ask_all(self._agents, volume.nodes, lambda _, agent: agent.get_volume(volume.id))
        for node, answer in answers.items():
            if isinstance(answer, ClusterError):
                raise Unavailable(
                    f"volume {volume.id} can grow only while all its replicas are there;"
                    f" that on {node} is not: {answer}"
                )

    def modify(self, volume_id: str, change: Callable[[IoLimits], IoLimits]) -> None:
        """``change`` makes the new limits out of the present ones; what it raises is passed on.

        Raises NotFound. The reconcile loop brings a node that cannot be reached up to date.
        """
        require_id(Kind.VOLUME, volume_id, "volume_id")
        with self._locks.hold(key_of_id(volume_id), purpose="modification"):
            entry = self._table.ready(volume_id)
            limits = change(entry.item.limits)
            if entry.item.limits != limits:
                entry = self._table.update(entry, limits=limits)
            answers = ask_all(
                self._agents,
                entry.item.nodes,
                lambda _, agent: agent.set_limits(volume_id, limits),
            )
            for node, answer in answers.items():
                # A replica that is still to be added is made with the limits of the record.
                added = isinstance(answer, NotFound) and self._is_being_added(entry.item, node)
                if isinstance(answer, ClusterError) and not added:
                    raise answer

    def _is_being_added(self, volume: Volume, node: str) -> bool:
        held = self._memberships.find(volume.id)
        return held is not None and node not in held.record.replicas

    def capacity(
        self, spec: VolumeSpec, segments: Mapping[str, str] | None
    ) -> tuple[int, int, int]:
        """As ``PoolLedger.capacity``."""
        return self._pools.capacity(spec, segments)

    def health(self, volume_id: str) -> tuple[Health, str]:
        """How the volume is, and what is wrong in words. Raises NotFound."""
        volume = self.get(volume_id)
        answers = ask_all(self._agents, volume.nodes, lambda _, agent: agent.get_volume(volume_id))
        return self._judge(volume, answers)

    def ailing(self, volumes: Iterable[Volume]) -> Iterator[tuple[Volume, Health, str]]:
        """Those that are not well, as ``health``; each of their nodes is asked once."""
        asked = tuple(volumes)
        inventories = ask_all(
            self._agents,
            {node for volume in asked for node in volume.nodes},
            lambda _, agent: {report.id: report for report in agent.inventory().volumes},
        )
        for volume in asked:
            answers: dict[str, VolumeReport | ClusterError] = {}
            for node in volume.nodes:
                answer = inventories[node]
                if not isinstance(answer, ClusterError):
                    answers[node] = answer.get(volume.id) or NotFound(f"no volume {volume.id}")
                else:
                    answers[node] = answer
            health, text = self._judge(volume, answers)
            if health is not Health.OK:
                with suppress(NotFound):  # deleted since it was listed
                    yield self.get(volume.id), health, text

    def _judge(
        self, volume: Volume, answers: Mapping[str, VolumeReport | ClusterError]
    ) -> tuple[Health, str]:
        if volume.replication is not None:
            held = self._memberships.find(volume.id)
            record = held.record if held is not None else None
            return judge(ReplicatedState(volume, record, answers))
        for node, answer in answers.items():
            if node not in self._agents.names():
                return Health.INACCESSIBLE, f"node {node} is not configured"
            if isinstance(answer, NotFound):
                return Health.DATA_LOSS, f"node {node} does not have it any more"
            if isinstance(answer, ClusterError):
                return Health.INACCESSIBLE, f"node {node} does not answer: {answer}"
            if answer.health is not Health.OK:
                return answer.health, answer.trouble
        return Health.OK, ""

    def topology(self, volume: Volume) -> tuple[Mapping[str, str], ...]:
        """From where it can be used (CSI, ``Volume.accessible_topology``)."""
        return tuple({TOPOLOGY_NODE_KEY: node} for node in volume.nodes)


def _places(volume: Volume) -> str:
    return ", ".join(publication.node for publication in volume.published)
