"""Where a volume goes: a pure function from a request and what is known of the nodes.

Topology follows CSI 1.13, ``TopologyRequirement``: a volume must be accessible from one of the
requisite topologies; where those are fewer nodes than it has replicas, from all of them, and the
others are where there is room. The preferred ones are tried in their order, then the rest. Among
nodes of equal preference the one with most room wins, and a hash decides a tie, so that the same
request is always answered the same way. Sizes are bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cluster.agents import PoolReport
from cluster.model import (
    ENCRYPTION_BYTES,
    TOPOLOGY_NODE_KEY,
    Layout,
    LayoutKind,
    Provision,
    VolumeSpec,
)

Segments = Mapping[str, str]

# A thin pool that is fuller takes no more volumes: those that are there need what is left.
_THIN_DATA_FULL = 0.95
_THIN_METADATA_FULL = 0.90
_SECTOR = 512
_DATA_PER_BITMAP_SECTOR = _SECTOR * 8 * 4096
_BITMAP_OFFSET = 36 * 1024
_LEAST_METADATA = 1024**2  # drbdmeta refuses devices that are very small


@dataclass(frozen=True)
class PlacementRequest:
    volume_id: str
    size_bytes: int
    spec: VolumeSpec
    requisite: tuple[Segments, ...] = ()  # () is anywhere
    preferred: tuple[Segments, ...] = ()
    # Who has the source: the only ones possible, of two replicas for the first. None without one.
    source_nodes: tuple[str, ...] | None = None
    beside: tuple[str, ...] = ()  # nodes that have a replica already: the others are to be chosen

    @property
    def count(self) -> int:
        """How many nodes are to be chosen."""
        return self.spec.replicas - len(self.beside)


@dataclass(frozen=True)
class NodeView:
    """A node as placement sees it: its pools less what is reserved for creations in flight."""

    name: str
    topology: Segments = field(default_factory=dict)
    pools: tuple[PoolReport, ...] = ()
    trouble: str = ""  # why it cannot be used at all
    replication_address: str = ""  # where it takes replicas; "" is nowhere
    replication_trouble: str = ""  # why nowhere, if it is configured to take some


@dataclass(frozen=True)
class Choice:
    nodes: tuple[str, ...]  # best first
    refused: tuple[str, ...]  # for every other node why, its name first


@dataclass(frozen=True)
class Footprint:
    """What a volume takes from its pool."""

    virtual_bytes: int = 0
    thick_bytes: int = 0
    disk_bytes: int = 0  # the most that it may take from one disk


def place(
    request: PlacementRequest, nodes: Sequence[NodeView], domain_key: str = TOPOLOGY_NODE_KEY
) -> Choice:
    """The nodes that can take the volume. The first ``count`` of them are in different domains.

    A failure domain is the value of the topology segment ``domain_key``. With fewer domains than
    replicas no node is chosen. The disks of all replicas have logical blocks of one size: a smaller
    write would fail on those whose blocks are larger.
    """
    refused: list[str] = []
    ranked: list[tuple[int, int, bytes, NodeView]] = []
    for node in nodes:
        free, reason = _judge(request, node)
        reason = reason or _too_close(request, node, nodes, domain_key)
        if reason:
            refused.append(f"{node.name}{reason}")
        else:
            tie = hashlib.sha256(f"{request.volume_id}/{node.name}".encode()).digest()
            ranked.append((_preference(request, node), -free, tie, node))
    ordered = [node for *_, node in sorted(ranked, key=lambda entry: entry[:3])]
    replicas = request.spec.replicas
    if replicas > 1 and request.source_nodes is not None and not request.beside:
        first = _beside_source(request, ordered, domain_key)
        if ordered and not first:
            refused.append("no node that holds the source can take it")
            return Choice((), tuple(refused))
    else:
        first = _apart(request, ordered, domain_key)
    if first and not any(is_requested(request, _topology(_named(ordered, n))) for n in first):
        refused.append("no node of the requested topology can take it")
        return Choice((), tuple(refused))
    if ordered and len(first) < request.count:
        text = f"{request.count} replicas need as many failure domains: {len(first)} left"
        if len({_pool(request, node).block_bytes for node in ordered}) > 1:
            text += ", as their disks have logical blocks of different sizes"
        refused.append(text)
        return Choice((), tuple(refused))
    others = [node.name for node in ordered if node.name not in first]
    return Choice((*first, *others), tuple(refused))


def _apart(request: PlacementRequest, ordered: Sequence[NodeView], domain_key: str) -> list[str]:
    """The best nodes in different domains, of one block size where there are several of them."""
    replicas = request.count
    if replicas == 1:
        return [node.name for node in ordered[:1]]
    by_block: dict[int, dict[str, str]] = {}  # block size -> domain -> its best node
    for node in ordered:
        domain = _topology(node).get(domain_key, "")
        block_bytes = _pool(request, node).block_bytes
        by_block.setdefault(block_bytes, {}).setdefault(domain, node.name)
    enough = [list(leading.values()) for leading in by_block.values() if len(leading) >= replicas]
    most = max((list(leading.values()) for leading in by_block.values()), key=len, default=[])
    return (enough[0] if enough else most)[:replicas]


def _too_close(
    request: PlacementRequest, node: NodeView, nodes: Sequence[NodeView], domain_key: str
) -> str:
    """Why it goes together with none of the replicas that are there already; "" where it does."""
    for other in nodes:
        if other.name not in request.beside:
            continue
        if other.name == node.name:
            return ": it has a replica already"
        if _topology(other).get(domain_key, "") == _topology(node).get(domain_key, ""):
            return f": in the failure domain of {other.name}"
        theirs = next((pool for pool in other.pools if pool.name == request.spec.pool), None)
        if theirs and 0 < theirs.block_bytes != _pool(request, node).block_bytes > 0:
            return f": its disks have other logical blocks than those of {other.name}"
    return ""


def _beside_source(
    request: PlacementRequest, ordered: Sequence[NodeView], domain_key: str
) -> list[str]:
    """The best pair of nodes, one that has the source first; less than a pair where there is none.

    A pair that has it on both shares its blocks, and needs no first sync.
    """
    sources = request.source_nodes or ()
    holders = [node for node in ordered if node.name in sources]
    rank = {node.name: number for number, node in enumerate(ordered)}
    pairs = [
        (holder, other)
        for holder in holders
        for other in ordered
        if other is not holder
        and _topology(holder).get(domain_key, "") != _topology(other).get(domain_key, "")
        and _pool(request, holder).block_bytes == _pool(request, other).block_bytes
        and any(is_requested(request, _topology(node)) for node in (holder, other))
    ]
    if not pairs:
        return [node.name for node in holders[:1]]
    best = min(
        pairs,
        key=lambda pair: (
            pair[1].name not in sources,
            sum(not is_requested(request, _topology(node)) for node in pair),
            rank[pair[0].name],
            rank[pair[1].name],
        ),
    )
    return [node.name for node in best]


def _pool(request: PlacementRequest, node: NodeView) -> PoolReport:
    """That of the request, which the node has."""
    return next(pool for pool in node.pools if pool.name == request.spec.pool)


def _named(nodes: Sequence[NodeView], name: str) -> NodeView:
    return next(node for node in nodes if node.name == name)


def permits(request: PlacementRequest, node: NodeView) -> bool:
    """Whether topology and source let the volume be on that node, whatever room it has."""
    return not _forbidden(request, node)


def is_requested(request: PlacementRequest, topology: Segments) -> bool:
    """Whether a node of that topology is one that the request names."""
    return not request.requisite or any(matches(topology, term) for term in request.requisite)


def _may_exceed(request: PlacementRequest) -> bool:
    """Whether replicas may be outside of what is requested: it names fewer nodes than replicas."""
    named = {term.get(TOPOLOGY_NODE_KEY, "") for term in request.requisite}
    return "" not in named and len(named) < request.spec.replicas


def matches(topology: Segments, wanted: Segments) -> bool:
    """Whether a node of that topology has all the wanted segments."""
    return all(topology.get(key) == value for key, value in wanted.items())


def room(pool: PoolReport, spec: VolumeSpec) -> tuple[int, str]:
    """The size of the largest volume of that kind the pool can take, and why when that is 0."""
    if spec.provision is Provision.THIN:
        free, reason = _thin_room(pool)
    else:
        free, reason = _thick_room(pool, spec.layout)
    if spec.replicas > 1 and free:
        free, reason = _room_beside_metadata(pool, spec, free)
    free = max(0, free - (ENCRYPTION_BYTES if spec.encrypted else 0))
    # A pool may have a trouble that does not concern this kind of volume: its room tells.
    return free, reason if free else pool.trouble or reason


def metadata_bytes(data_bytes: int) -> int:
    """What DRBD's metadata needs at least beside data of that size (8.4, external, one peer).

    Superblock and activity log, as create-md lays them out, and then the bitmap, with a bit for
    4 KiB: of what it has no whole sector for, DRBD would make no use.
    """
    bitmap = -(-data_bytes // _DATA_PER_BITMAP_SECTOR) * _SECTOR
    return max(_LEAST_METADATA, _BITMAP_OFFSET + bitmap)


def footprint(pool: PoolReport, spec: VolumeSpec, size_bytes: int) -> Footprint:
    """What a volume of that size takes from the pool (lvmthin(7), lvmraid(7)).

    A replica takes a thick logical volume for DRBD's metadata as well.
    """
    size = size_bytes + (ENCRYPTION_BYTES if spec.encrypted else 0)
    data = _data_footprint(pool, spec, size)
    if spec.replicas == 1:
        return data
    metadata = _metadata_room(pool, size)
    return Footprint(data.virtual_bytes, data.thick_bytes + metadata, data.disk_bytes + metadata)


def _data_footprint(pool: PoolReport, spec: VolumeSpec, size: int) -> Footprint:
    extent, copies = pool.extent_bytes, spec.layout.copies
    if spec.provision is Provision.THIN:
        return Footprint(virtual_bytes=_up(size, extent))
    match spec.layout.kind:
        case LayoutKind.RAID1:
            image = _up(size, extent) + extent  # one extent of metadata for each image
            return Footprint(thick_bytes=image * copies, disk_bytes=image)
        case LayoutKind.STRIPED:
            total = _up(size, extent * copies)
            return Footprint(thick_bytes=total, disk_bytes=total // copies)
        case _:
            return Footprint(thick_bytes=_up(size, extent), disk_bytes=_up(size, extent))


def less(pool: PoolReport, taken: Footprint) -> PoolReport:
    """The pool as it would be without that room.

    Each disk loses the most that the volume may take from one: which disks LVM takes is not known.
    """
    thin = pool.thin
    if thin is not None:
        thin = replace(thin, virtual_bytes=thin.virtual_bytes + taken.virtual_bytes)
    return replace(
        pool,
        thick_free_bytes=max(0, pool.thick_free_bytes - taken.thick_bytes),
        disk_free_bytes=tuple(max(0, free - taken.disk_bytes) for free in pool.disk_free_bytes),
        thin=thin,
    )


def in_words(size_bytes: int) -> str:
    """A size for people, rounded down: "3.9 GiB"."""
    for unit, name in ((1024**4, "TiB"), (1024**3, "GiB"), (1024**2, "MiB")):
        if size_bytes >= unit:
            tenths = size_bytes * 10 // unit
            return f"{tenths // 10}.{tenths % 10} {name}"
    return f"{size_bytes} B"


def _judge(request: PlacementRequest, node: NodeView) -> tuple[int, str]:
    """How much room the node has for it, or the reason against the node."""
    if reason := _forbidden(request, node):
        return 0, f": {reason}"
    if node.trouble:
        return 0, f": {node.trouble}"
    if request.spec.replicas > 1 and not node.replication_address:
        why = node.replication_trouble or "no replication_address is configured there"
        return 0, f": it takes no replicas: {why}"
    name = request.spec.pool
    pool = next((pool for pool in node.pools if pool.name == name), None)
    if pool is None:
        return 0, f": no pool {name!r}"
    if request.spec.provision is Provision.THIN and pool.thin is None and not pool.trouble:
        return 0, f": pool {name!r} has no thin pool"
    free, reason = room(pool, request.spec)
    if reason:
        return 0, f"/{name}: {reason}"
    if free < request.size_bytes:
        return 0, f"/{name}: {_shortage(free, request.size_bytes)}"
    return free, ""


def _shortage(free: int, needed: int) -> str:
    words = in_words(free), in_words(needed)
    if words[0] == words[1]:
        words = f"{free} B", f"{needed} B"
    return f"{words[0]} free, {words[1]} needed"


def _forbidden(request: PlacementRequest, node: NodeView) -> str:
    if not is_requested(request, _topology(node)) and not _may_exceed(request):
        return "not in the requested topology"
    bound = request.source_nodes is not None and request.spec.replicas == 1
    if bound and node.name not in (request.source_nodes or ()):
        return "does not hold the source"
    return ""


def _preference(request: PlacementRequest, node: NodeView) -> int:
    topology = _topology(node)
    if not is_requested(request, topology):
        return len(request.preferred) + 1
    return next(
        (rank for rank, term in enumerate(request.preferred) if matches(topology, term)),
        len(request.preferred),
    )


def _topology(node: NodeView) -> Segments:
    return {**node.topology, TOPOLOGY_NODE_KEY: node.name}


def _thin_room(pool: PoolReport) -> tuple[int, str]:
    thin = pool.thin
    if thin is None:
        return 0, "no thin pool"
    if thin.used_bytes >= thin.total_bytes * _THIN_DATA_FULL:
        return 0, f"thin pool is {thin.used_bytes * 100 // max(1, thin.total_bytes)}% full"
    if thin.metadata_used >= _THIN_METADATA_FULL:
        return 0, f"thin pool's metadata is {thin.metadata_used:.0%} full"
    return _down(max(0, thin.virtual_limit_bytes - thin.virtual_bytes), pool.extent_bytes), ""


def _thick_room(pool: PoolReport, layout: Layout) -> tuple[int, str]:
    extent, copies = pool.extent_bytes, layout.copies
    if layout.kind is LayoutKind.LINEAR:
        return _down(pool.thick_free_bytes, extent), ""
    disks = sorted(pool.disk_free_bytes, reverse=True)
    if len(disks) < copies:
        return 0, f"{len(disks)} disks, {layout.kind} needs {copies}"
    # What is free on the smallest of the disks that are needed.
    image = _down(disks[copies - 1], extent)
    return image * copies if layout.kind is LayoutKind.STRIPED else max(0, image - extent), ""


def _metadata_room(pool: PoolReport, data_bytes: int) -> int:
    return _up(metadata_bytes(_up(data_bytes, pool.extent_bytes)), pool.extent_bytes)


def _room_beside_metadata(pool: PoolReport, spec: VolumeSpec, free: int) -> tuple[int, str]:
    """The largest data that fits together with its metadata, where ``free`` fits without."""
    short = "no room for the metadata of a replica"
    if spec.provision is Provision.THIN:
        # The largest metadata that is free, and the data that it is enough for.
        most = _down(pool.thick_free_bytes, pool.extent_bytes)
        sectors = (most - _BITMAP_OFFSET) // _SECTOR if most >= _LEAST_METADATA else 0
        data = min(free, _down(sectors * _DATA_PER_BITMAP_SECTOR, pool.extent_bytes))
    else:
        data = _down(free - _metadata_room(pool, free), pool.extent_bytes)
        # Less data may need an extent less of metadata.
        if (
            data > 0
            and data + pool.extent_bytes + _metadata_room(pool, data + pool.extent_bytes) <= free
        ):
            data += pool.extent_bytes
    return (data, "") if data > 0 else (0, short)


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _down(size: int, unit: int) -> int:
    return size // unit * unit
