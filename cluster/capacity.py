"""What the nodes have room for in all, and why a request is refused. Sizes are bytes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cluster.agents import PoolReport
from cluster.errors import ClusterError, NoSpace, OutOfRange, Unavailable
from cluster.model import TOPOLOGY_NODE_KEY, Provision, VolumeSpec
from cluster.placement import (
    Choice,
    NodeView,
    PlacementRequest,
    in_words,
    is_requested,
    permits,
    room,
)
from cluster.spelling import nearest


def capacity(request: PlacementRequest, nodes: Sequence[NodeView]) -> tuple[int, int, int]:
    """Bytes available in all, the largest and the smallest size of one such volume.

    Of two replicas, each is on a node of its own: what pairs of nodes can take. Where the topology
    is that of one node, it has one of them.
    """
    spec = request.spec
    found = [
        (pool, is_requested(request, {**node.topology, TOPOLOGY_NODE_KEY: node.name}))
        for node in nodes
        if permits(request, node) and not node.trouble
        if spec.replicas == 1 or node.replication_address
        for pool in node.pools
        if pool.name == spec.pool
    ]
    pools = [pool for pool, _ in found]
    sizes = sorted((room(pool, spec)[0] for pool in pools), reverse=True)
    total, largest = sum(sizes), max(sizes, default=0)
    if spec.replicas > 1:
        # Every volume takes from two pools: the largest helps no further than all the others.
        total = min(total // 2, total - largest)
        largest = sizes[1] if len(sizes) > 1 else 0
        own = [room(pool, spec)[0] for pool, requested in found if requested]
        total, largest = min(total, sum(own)), min(largest, max(own, default=0))
    return total, largest, max((pool.extent_bytes for pool in pools), default=0)


def refusal(
    request: PlacementRequest,
    choice: Choice,
    nodes: Sequence[NodeView],
    given_up: Collection[str],
) -> ClusterError:
    """The error for a request that no node was chosen for.

    ``given_up``: nodes that the caller does not want, whatever they have.
    """
    permitted = [node for node in nodes if permits(request, node)]
    # Where the caller has given a node up, waiting for that one is not what it wants.
    if permitted and all(node.trouble and node.name not in given_up for node in permitted):
        return Unavailable(f"no permitted node answers: {why(choice)}")
    pools = [pool for node in nodes for pool in node.pools if pool.name == request.spec.pool]
    largest = max((_total(pool, request.spec) for pool in pools), default=0)
    if 0 < largest < request.size_bytes and not any(node.trouble for node in nodes):
        return OutOfRange(
            f"{in_words(request.size_bytes)} is more than any pool"
            f" {request.spec.pool!r} has in all ({in_words(largest)})"
        )
    reason = why(choice)
    if not pools:
        known = {pool.name for node in nodes for pool in node.pools}
        reason += f"; no such pool is known{nearest(request.spec.pool, sorted(known))}"
    return NoSpace(f"no node can take {in_words(request.size_bytes)}: {reason}")


def why(choice: Choice) -> str:
    """Why not, of each node that was not chosen."""
    return "; ".join(choice.refused)


def _total(pool: PoolReport, spec: VolumeSpec) -> int:
    """The size of a volume that would fill the empty pool; raid1 has at most that much."""
    if spec.provision is Provision.THIN:
        return pool.thin.virtual_limit_bytes if pool.thin is not None else 0
    return pool.thick_total_bytes
