"""``xlss status``: is all well, and if not, what to do about it."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from cli.admin_client import DEFAULT_SOCKET, DifferenceStatus, ReplicatedStatus, Status, connect
from cli.nodes import print_nodes, print_pools
from cli.options import SocketOption
from cli.output import Output, OutputOption, console, print_json, print_table
from cluster.agents import Health
from cluster.differences import DifferenceKind

_USABLE = (Health.OK, Health.DEGRADED)
_KINDS = {"volume": "volumes", "snapshot": "snapshots", "group": "group snapshots"}


def status(socket: SocketOption = DEFAULT_SOCKET, output: OutputOption = Output.TABLE) -> None:
    """Nodes, pools, volumes, and what does not agree between the store and the nodes."""
    with connect(socket) as client:
        found = client.status()
    if output is Output.JSON:
        print_json(found)
    else:
        _print(found)
    # For scripts: 2 says that a person should look.
    if (
        any(node.trouble or node.replication_trouble for node in found.nodes)
        or not all(one.mended for one in _between_store_and_nodes(found))
        or any(one.health not in _USABLE for one in found.replicated)
    ):
        raise typer.Exit(2)


def _print(found: Status) -> None:
    console.print(f"xlss {found.version}\n{_counts(found)}\n", highlight=False)
    print_nodes(found.nodes)
    console.print()
    print_pools(found.nodes)
    console.print()
    _print_replicated(found.replicated)
    if found.compared_seconds_ago is None:
        console.print("The store has not been compared with the nodes yet.")
    elif not (differences := _between_store_and_nodes(found)):
        who = "the nodes that answer" if any(node.trouble for node in found.nodes) else "the nodes"
        console.print(
            f"The store agrees with {who} (compared {found.compared_seconds_ago:.0f} s ago).",
            highlight=False,
        )
    else:
        print_table(
            ["difference", "node", "object", "mended", "what it is"],
            [
                (one.kind, one.node, one.object, "yes" if one.mended else "no", one.text)
                for one in differences
            ],
        )
        console.print("\ndocs/operations.md says what to do about each.")


def _print_replicated(found: Sequence[ReplicatedStatus]) -> None:
    """How many there are, and a line for each that is not in sync."""
    if not found:
        return
    ailing = [one for one in found if one.health is not Health.OK]
    console.print(
        f"replicated volumes: {len(found)}, {len(found) - len(ailing)} in sync", highlight=False
    )
    if ailing:
        print_table(
            ["volume", "replicas", "health", "id"],
            [(one.name, one.summary, one.health, one.id) for one in ailing],
        )
        console.print("`xlss volume show` says why, and what is being done.")
    console.print()


def _between_store_and_nodes(found: Status) -> list[DifferenceStatus]:
    """Without the nodes that did not answer then: whether they answer now is known better."""
    return [one for one in found.differences if one.kind != DifferenceKind.UNREACHABLE]


def _counts(found: Status) -> str:
    """Of what people make. The other records of the store have no phase to tell."""
    texts = []
    for kind, name in _KINDS.items():
        phases = found.counts.get(kind, {}).items()
        if counted := ", ".join(f"{count} {phase}" for phase, count in phases if phase):
            texts.append(f"{name}: {counted}")
    return "; ".join(texts) or "no volumes"
