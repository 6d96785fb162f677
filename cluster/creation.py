"""Making a volume, and removing it: steps that can be cut off and repeated at any point.

The record is written before anything is made, and names the node; it is CREATING until the node
has said that the volume is complete. A node on which parts may have been left when another was
chosen is kept in ``leftovers`` until it has confirmed that nothing is there. A record in CREATING
without nodes stands for a creation that failed, and only for its leftovers.

Replicas are made at the same time, and all or none: one that does not fit takes the other back
before other nodes are tried. So a node never has a replica of an earlier attempt with other peers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial

from cluster.agents import Agents, PoolReport, ask_all
from cluster.clones import CloneCuts
from cluster.errors import (
    AlreadyExists,
    Busy,
    ClusterError,
    Conflict,
    InvalidArgument,
    NoSpace,
    NotFound,
    OutOfRange,
    Refused,
    Unavailable,
    Unsupported,
)
from cluster.identifiers import Kind, key_of_name, new_id
from cluster.locks import ObjectLocks
from cluster.model import (
    IoLimits,
    LayoutKind,
    Phase,
    Provision,
    Snapshot,
    Source,
    SourceKind,
    Volume,
    VolumeSpec,
)
from cluster.placement import PlacementRequest, in_words
from cluster.pools import PoolLedger
from cluster.records import Entry, snapshot_table, volume_table
from cluster.removal import VolumeRemover
from cluster.replicas import ReplicaRecords
from cluster.store import Store


@dataclass(frozen=True)
class CreateRequest:
    """What a volume is to be. Sizes are bytes."""

    name: str
    spec: VolumeSpec
    limits: IoLimits
    required_bytes: int  # at least 1
    limit_bytes: int  # 0: none
    source: Source | None
    requisite: tuple[Mapping[str, str], ...]  # topology segments; () is anywhere
    preferred: tuple[Mapping[str, str], ...]


class VolumeMaker:
    """The caller holds the volume's lock."""

    def __init__(self, store: Store, agents: Agents, pools: PoolLedger, locks: ObjectLocks) -> None:
        self._volumes = volume_table(store)
        self._snapshots = snapshot_table(store)
        self._agents = agents
        self._pools = pools
        self._replicas = ReplicaRecords(store)
        self._cuts = CloneCuts(store, agents, locks)
        self._remover = VolumeRemover(store, agents, self._cuts)

    def make(self, request: CreateRequest) -> Volume:
        """The volume of that name, whatever an earlier call has left of it.

        Raises AlreadyExists when there is one that is not what is asked for; NoSpace, OutOfRange,
        NotFound (source) and InvalidArgument (source does not fit) when it cannot be made: then
        nothing of it remains; Unavailable and Busy when the call is to be repeated.
        """
        entry = self._volumes.find(key_of_name(Kind.VOLUME, request.name))
        if entry is not None and entry.item.phase is Phase.DELETING:
            left = self._remover.remove(entry)
            if left:
                raise Unavailable(
                    f"a former volume {entry.item.id} of that name is left on {', '.join(left)}:"
                    " repeat when that is back, or take another name"
                )
            entry = None
        if entry is None:
            volume = self._new_volume(request)
            if not self._cuts.needed(volume):
                return self._place(None, volume, request, {})
            entry = self._volumes.create(volume)
        self._require_same(entry.item, request)
        made = entry.item if entry.item.phase is Phase.READY else self._go_on(entry, request)
        self._cuts.drop(made)
        return made

    def remove_leftovers(self, entry: Entry[Volume]) -> Entry[Volume]:
        """Remove half-made parts on other nodes than the volume's own, where they answer.

        Nodes that did not answer lately are not asked: nobody has to wait for them here.
        """
        left = self._clear(entry.item)
        return (
            entry if left == entry.item.leftovers else self._volumes.update(entry, leftovers=left)
        )

    def _clear(self, volume: Volume) -> tuple[str, ...]:
        """The leftovers that remain."""
        # A replica that is on its way out is in both until the membership record is without it.
        kept = {*self._pools.troubled(), *volume.nodes}
        asked = tuple(node for node in volume.leftovers if node not in kept)
        failures = self._remover.delete_on(volume, asked)
        return tuple(node for node in volume.leftovers if node in kept or node in failures)

    def _new_volume(self, request: CreateRequest) -> Volume:
        spec = request.spec
        _require_supported(request)
        if spec.provision is Provision.UNKNOWN or spec.layout.kind is LayoutKind.UNKNOWN:
            raise InvalidArgument("the kind of provision or layout is not known")
        size = request.required_bytes
        if request.source is not None:
            source = self._find_source(request.source)
            _require_fit(source.spec, spec)
            size = max(size, source.size_bytes)
            if request.limit_bytes and size > request.limit_bytes:
                raise OutOfRange(
                    f"the source has {in_words(size)}, more than the limit of"
                    f" {in_words(request.limit_bytes)}"
                )
        return Volume(
            id=new_id(Kind.VOLUME, request.name),
            name=request.name,
            size_bytes=size,
            spec=spec,
            phase=Phase.CREATING,
            limits=request.limits,
            source=request.source,
            limit_bytes=request.limit_bytes,
            created_at=time.time(),
        )

    def _source_of(self, volume: Volume) -> Volume | Snapshot | None:
        """What its replicas are made of. Raises NotFound."""
        if volume.source is None:
            return None
        return self._cuts.find(volume) or self._find_source(volume.source)

    def _find_source(self, source: Source) -> Volume | Snapshot:
        """Raises NotFound."""
        if source.kind is SourceKind.SNAPSHOT:
            return self._snapshots.ready(source.id).item
        return self._volumes.ready(source.id).item

    def _require_same(self, volume: Volume, request: CreateRequest) -> None:
        wrong = ""
        if volume.spec != request.spec:
            wrong = "other parameters or capabilities"
        elif volume.source != request.source:
            wrong = "another source"
        elif volume.size_bytes < request.required_bytes or (
            0 < request.limit_bytes < volume.size_bytes
        ):
            wrong = f"a size of {volume.size_bytes} bytes"
        elif volume.phase is Phase.READY and not any(
            self._pools.permitted(node, request.requisite) for node in volume.nodes
        ):
            wrong = "another topology"
        if wrong:
            raise AlreadyExists(f"volume {request.name!r} exists already, with {wrong}")

    def _go_on(self, entry: Entry[Volume], request: CreateRequest) -> Volume:
        """Go on where an earlier call left off: on the same nodes, unless one is down."""
        refused: dict[str, str] = {}
        if self._cuts.needed(entry.item):
            entry = self._cut_anew(entry, refused)
        with self._cuts.kept(entry.item):
            return self._go_on_with(entry, request, refused)

    def _cut_anew(self, entry: Entry[Volume], refused: dict[str, str]) -> Entry[Volume]:
        """Another cut to make the clone of, where nothing is left of what was made of the last."""
        try:
            return self._cuts.renew(self._withdraw(entry, refused))
        except (Unavailable, Busy, Conflict):
            raise
        except ClusterError:
            current = self._volumes.find(entry.key)  # it names the cut by now
            if current is not None:
                self._give_up(current)
            raise

    def _go_on_with(
        self, entry: Entry[Volume], request: CreateRequest, refused: dict[str, str]
    ) -> Volume:
        nodes = entry.item.nodes
        permitted = any(self._pools.permitted(node, request.requisite) for node in nodes)
        if permitted and all(node in self._agents.names() for node in nodes):
            ticket = self._pools.ticket()
            reported = {node: partial(self._pools.report, node, ticket=ticket) for node in nodes}
            try:
                made = self._make_on(entry, reported, refused)
            except Unavailable as error:
                unfit = self._unfit(entry.item, error)
                if not unfit:
                    raise  # it is busy with it, as with a long copy
                refused |= unfit
                made = None
            if made is not None:
                return made
        return self._place(entry, entry.item, request, refused)

    def _unfit(self, volume: Volume, error: Unavailable) -> dict[str, str]:
        """Those of its nodes that cannot go on with it, by what they tell now, and why."""
        replicated = volume.spec.replicas > 1
        self._pools.refresh(volume.nodes, whole=replicated)
        unfit, troubled = {}, self._pools.troubled()
        for node in volume.nodes:
            if node in troubled:
                unfit[node] = f"agent unreachable ({error})"
            elif replicated and (trouble := self._pools.replication_trouble(node)):
                unfit[node] = f"it takes no replicas: {trouble}"
        return unfit

    def _place(
        self,
        entry: Entry[Volume] | None,
        volume: Volume,
        request: CreateRequest,
        refused: dict[str, str],
    ) -> Volume:
        """Choose nodes and make it there; where one turns out to be too full, on others."""
        while True:
            if entry is not None and (entry.item.spec.replicas > 1 or entry.item.cut):
                entry = self._withdraw(entry, refused)
                volume = entry.item
            try:
                placement = self._placement(volume, request)
                reservations = self._pools.reserve(placement, refused)
            except (NoSpace, OutOfRange, NotFound):
                if entry is not None:
                    self._give_up(entry)
                raise
            with ExitStack() as held:
                for reservation in reservations:
                    held.enter_context(reservation)
                reported = {each.node: each.report for each in reservations}
                places = [(each.node, each.replication_address) for each in reservations]
                entry = self._intend(entry, volume, places)
                made = self._make_on(entry, reported, refused)
                if made is not None:
                    return made

    def _withdraw(self, entry: Entry[Volume], refused: dict[str, str]) -> Entry[Volume]:
        """Take back what an attempt has left of the replicas; refuse the nodes that still have it.

        A replica of an earlier attempt must not be adopted: it has another peer and generation.
        """
        volume = entry.item
        places = tuple(dict.fromkeys((*volume.nodes, *volume.leftovers)))
        failures = self._remover.delete_on(volume, places)
        self._replicas.memberships.delete(volume.id)
        for node in failures:
            refused[node] = f"half-made parts of it remain there ({failures[node]})"
        left = tuple(failures)
        if not volume.nodes and volume.leftovers == left:
            return entry
        return self._volumes.update(entry, nodes=(), leftovers=left)

    def _placement(self, volume: Volume, request: CreateRequest) -> PlacementRequest:
        source = self._source_of(volume)
        source_nodes = None if source is None else source.nodes
        return PlacementRequest(
            volume.id,
            volume.size_bytes,
            volume.spec,
            request.requisite,
            request.preferred,
            source_nodes,
        )

    def _intend(
        self, entry: Entry[Volume] | None, volume: Volume, places: Sequence[tuple[str, str]]
    ) -> Entry[Volume]:
        """Write down where it is to be, before anything is made there.

        ``places`` are the nodes, each with its address for replication.
        """
        nodes = tuple(node for node, _ in places)
        changes: dict[str, object] = {"nodes": nodes}
        if volume.spec.replicas > 1:
            known = volume if entry is None else entry.item
            equal = known.begins_equal(nodes, self._source_of(known))
            changes["replication"] = self._replicas.plan(known, places, equal=equal)
        if entry is None:
            return self._volumes.create(replace(volume, **changes))  # type: ignore[arg-type]
        before = dict.fromkeys((*entry.item.leftovers, *entry.item.nodes))
        changes["leftovers"] = tuple(other for other in before if other not in nodes)
        return self._volumes.update(entry, **changes)

    def _make_on(
        self,
        entry: Entry[Volume],
        reported: Mapping[str, Callable[[PoolReport], None]],
        refused: dict[str, str],
    ) -> Volume | None:
        """Make it on the nodes of its record.

        None when one of them cannot take it: ``refused`` then says why. What the others have made
        is still there.
        """
        if entry.item.spec.replicas > 1:
            entry = self._claim(entry)
        answers = ask_all(
            self._agents, entry.item.nodes, lambda _, agent: agent.create_volume(entry.item)
        )
        sizes: list[int] = []
        again: ClusterError | None = None
        for node, answer in answers.items():
            if not isinstance(answer, ClusterError):
                report, pool = answer
                reported[node](pool)
                sizes.append(report.size_bytes)
            elif isinstance(answer, NoSpace):
                refused[node] = str(answer)
            elif isinstance(answer, (Unavailable, Busy)):
                again = answer  # it is busy with it, as with a long copy
            else:
                self._give_up(entry)  # no repetition will help, and maybe none will come
                raise answer
        if refused.keys() & answers.keys():
            return None
        if again is not None:
            raise again
        left = self._clear(entry.item)
        ready = self._volumes.update(
            entry, phase=Phase.READY, size_bytes=min(sizes), leftovers=left
        )
        return ready.item

    def _claim(self, entry: Entry[Volume]) -> Entry[Volume]:
        """Claim the slot that the record names, or another one; then the membership record."""
        while not self._replicas.claim(entry.item):
            replication = entry.item.replication
            assert replication is not None
            places = [(place.node, place.address) for place in replication.places]
            planned = self._replicas.plan(entry.item, places, equal=replication.equal)
            entry = self._volumes.update(entry, replication=planned)
        self._replicas.establish(entry.item)
        return entry

    def _give_up(self, entry: Entry[Volume]) -> None:
        """Remove what was made. What cannot be reached is left to the reconcile loop."""
        with suppress(Unavailable, Refused):
            self._remover.remove(entry)


def _require_supported(request: CreateRequest) -> None:
    """Raises Unsupported."""
    spec = request.spec
    if spec.replicas not in (1, 2):
        raise Unsupported(f"{spec.replicas} replicas: only 1 or 2 are supported")
    if spec.replicas == 2 and spec.layout.kind is not LayoutKind.LINEAR:
        raise Unsupported(f"layout {spec.layout.kind} is not supported with 2 replicas yet")


def _require_fit(source: VolumeSpec, spec: VolumeSpec) -> None:
    """Raises InvalidArgument: CSI 1.13, CreateVolume, "Source incompatible or not supported"."""
    for what, theirs, ours in (
        ("access type", source.access, spec.access),
        ("file system", source.filesystem, spec.filesystem),
        ("encryption", source.encrypted, spec.encrypted),
    ):
        if theirs != ours:
            raise InvalidArgument(f"the source has {what} {str(theirs)!r}, not {str(ours)!r}")
