"""``xlss nodes``: the storage nodes and their pools."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from cli.admin_client import DEFAULT_SOCKET, NodeStatus, connect
from cli.options import SocketOption
from cli.output import Output, OutputOption, console, print_json, print_table, share, size
from cluster.agents import PoolReport
from cluster.model import TOPOLOGY_NODE_KEY


def nodes(socket: SocketOption = DEFAULT_SOCKET, output: OutputOption = Output.TABLE) -> None:
    """The storage nodes as they answer now, and the room in their pools."""
    with connect(socket) as client:
        found = client.status().nodes
    if output is Output.JSON:
        print_json(found)
        return
    print_nodes(found)
    console.print()
    print_pools(found)


def print_nodes(found: Sequence[NodeStatus]) -> None:
    """A line for each node, and below them why some do not answer or take no replicas."""
    print_table(
        ["node", "state", ">volumes", ">snapshots", "version", "topology", "address"],
        [
            (
                node.name,
                _state(node),
                "-" if node.trouble else str(node.volumes),
                "-" if node.trouble else str(node.snapshots),
                node.version or "-",
                _topology(node),
                node.address,
            )
            for node in found
        ],
    )
    for node in found:
        if node.trouble:
            console.print(node.trouble, style="red", markup=False)
        elif node.replication_trouble:
            text = f"node {node.name} takes no replicas: {node.replication_trouble}"
            console.print(text, style="red", markup=False)


def print_pools(found: Iterable[NodeStatus]) -> None:
    """One line for the thick and one for the thin part of every pool."""
    print_table(
        ["node", "pool", "provision", ">size", ">used", ">metadata", ">promised", "state"],
        [row for node in found for pool in node.pools for row in _pool_rows(node.name, pool)],
    )


def _state(node: NodeStatus) -> str:
    if node.trouble:
        return "unreachable"
    if node.stuck_commands:
        return f"{node.stuck_commands} commands are stuck"
    if node.replication_trouble:
        return "takes no replicas"
    return "ready"


def _topology(node: NodeStatus) -> str:
    further = {key: value for key, value in node.topology.items() if key != TOPOLOGY_NODE_KEY}
    return " ".join(f"{key}={value}" for key, value in sorted(further.items())) or "-"


def _pool_rows(node: str, pool: PoolReport) -> Iterator[tuple[str, ...]]:
    state = pool.trouble or "healthy"
    used = pool.thick_total_bytes - pool.thick_free_bytes
    thick = (size(pool.thick_total_bytes), share(used, pool.thick_total_bytes))
    yield (node, pool.name, "thick", *thick, "-", "-", state)
    if pool.thin is not None:
        thin = pool.thin
        yield (
            node,
            pool.name,
            "thin",
            size(thin.total_bytes),
            share(thin.used_bytes, thin.total_bytes),
            share(thin.metadata_used, 1),
            f"{size(thin.virtual_bytes)} of {size(thin.virtual_limit_bytes)}",
            state,
        )
