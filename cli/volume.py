"""``xlss volume …``: one volume, and what only a person may decide about it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.markup import escape

from cli.admin_client import DEFAULT_SOCKET, ReplicationStatus, VolumeOnNode, connect
from cli.options import SocketOption
from cli.output import Output, OutputOption, console, print_json, size
from cli.volumes import kind
from cluster.agents import ReplicaReport, VerifyReport
from cluster.membership import Membership
from cluster.model import IoLimits, Volume

app = typer.Typer(no_args_is_help=True, help="One volume: its state, and a person's decisions.")
_Name = Annotated[str, typer.Argument(metavar="VOLUME", help="Name or id of the volume.")]


@app.command("show")
def show(
    name: _Name, socket: SocketOption = DEFAULT_SOCKET, output: OutputOption = Output.TABLE
) -> None:
    """Its record, its state on its nodes now, and why it is as it is."""
    with connect(socket) as client:
        found, nodes, replication = client.volume(name)
    if output is Output.JSON:
        print_json({"volume": found, "nodes": nodes, "replication": replication})
        return
    lines = _record_lines(found)
    if replication is not None:
        lines += _replication_lines(replication)
    lines += [line for node in nodes for line in _node_lines(node)]
    width = max(len(title) for title, _ in lines)
    for title, text in lines:
        console.print(f"[bold]{title:<{width}}[/bold]  {escape(text)}", highlight=False)
    if replication is not None:
        console.print()
        console.print(replication.explanation, highlight=False, markup=False)


@app.command("fail-over")
def fail_over(
    name: _Name,
    to: Annotated[str, typer.Option("--to", metavar="NODE", help="A node of the in-sync set.")],
    socket: SocketOption = DEFAULT_SOCKET,
) -> None:
    """Let another node serve it, without waiting for the present one. Loses no acknowledged write.

    The pod has to be started there by the orchestrator.
    """
    with connect(socket) as client:
        console.print(client.fail_over(name, to), highlight=False, markup=False)


@app.command("force-primary")
def force_primary(
    name: _Name,
    node: Annotated[str, typer.Option("--node", metavar="NODE", help="Whose replica is kept.")],
    accept_data_loss: Annotated[
        bool, typer.Option("--accept-data-loss", help="Acknowledged writes may be lost.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for the volume's id.")] = False,
    socket: SocketOption = DEFAULT_SOCKET,
) -> None:
    """The last resort: make one replica the volume, at the price of what only the other one has."""
    with connect(socket) as client:
        volume = client.volume(name)[0]
        if accept_data_loss and not yes:
            console.print(
                f"The replica on {node} becomes the volume {volume.name}. What was acknowledged "
                "and is only on the other replica is lost for ever.",
                highlight=False,
                markup=False,
            )
            if typer.prompt("Type the volume's id to go on").strip() != volume.id:
                raise typer.BadParameter("that is not the volume's id: nothing was changed")
        outcome = client.force_primary(volume.id, node, accept_data_loss=accept_data_loss)
        console.print(outcome, highlight=False, markup=False)


@app.command("verify")
def verify(name: _Name, socket: SocketOption = DEFAULT_SOCKET) -> None:
    """Compare both replicas online; `xlss volume show` has the result."""
    with connect(socket) as client:
        console.print(client.verify(name), highlight=False, markup=False)


@app.command("set-replicas")
def set_replicas(
    name: _Name,
    count: Annotated[int, typer.Argument(metavar="1|2", min=1, max=2)],
    socket: SocketOption = DEFAULT_SOCKET,
) -> None:
    """Give a volume a second replica, or take it away; the volume stays in use."""
    with connect(socket) as client:
        console.print(client.set_replicas(name, count), highlight=False, markup=False)


@app.command("move-replica")
def move_replica(
    name: _Name,
    from_node: Annotated[str, typer.Option("--from", metavar="NODE")],
    to_node: Annotated[str, typer.Option("--to", metavar="NODE", help="Default: chosen.")] = "",
    socket: SocketOption = DEFAULT_SOCKET,
) -> None:
    """Move a replica to another node; the volume stays in use."""
    with connect(socket) as client:
        console.print(client.move_replica(name, from_node, to_node), highlight=False, markup=False)


def _replication_lines(found: ReplicationStatus) -> list[tuple[str, str]]:
    lines = [("replicas", found.state.summary)]
    if found.membership is not None:
        lines += _membership_lines(found.membership)
    if found.decision:
        lines.append(("controller", found.decision))
    return lines


def _membership_lines(record: Membership) -> list[tuple[str, str]]:
    lines = [
        ("in-sync set", f"{', '.join(record.members)} of {', '.join(record.replicas)}"),
        ("may be primary", record.primary or "nobody"),
        ("last primary", record.active or "none yet"),
        ("epoch", f"{record.epoch}, generation {record.generation or 'not known yet'}"),
    ]
    if record.quarantine:
        lines.append(("quarantine", record.quarantine))
    if record.forced:
        lines.append(("forced", f"{record.forced}, by a person's decision"))
    return lines


def _replica_lines(replica: ReplicaReport) -> list[tuple[str, str]]:
    lines = [
        (
            "  replica",
            f"{replica.role}, {replica.disk} (peer {replica.peer_disk}), {replica.connection}",
        )
    ]
    if replica.frozen:
        lines.append(("  frozen", replica.frozen))
    if replica.out_of_sync_bytes:
        lines.append(("  out of sync", size(replica.out_of_sync_bytes)))
    if replica.activity:
        lines.append((f"  {replica.activity}", _progress(replica)))
    if replica.doing:
        lines.append(("  agent", replica.doing))
    if replica.waits_for:
        lines.append(("  waits for", replica.waits_for))
    lines.append(("  last verify", _verify(replica.verify)))
    return lines


def _progress(replica: ReplicaReport) -> str:
    share, left = replica.resync_share, replica.seconds_left
    if share is None:
        return "under way"
    words = f"{100 * share:.0f} % of {size(replica.resync_total_bytes)}"
    if replica.bytes_per_second:
        words += f", {size(replica.bytes_per_second)}/s"
    return words + (f", about {left:.0f} s left" if left is not None else "")


def _verify(verify: VerifyReport | None) -> str:
    if verify is None:
        return "never"
    at = f"{datetime.fromtimestamp(verify.finished_at, UTC):%Y-%m-%d %H:%M:%S}Z"
    if verify.trouble:
        return f"{at}: {verify.trouble}"
    if verify.out_of_sync_bytes:
        return f"{at}: {size(verify.out_of_sync_bytes)} differed"
    return f"{at}: no differences"


def _record_lines(found: Volume) -> list[tuple[str, str]]:
    lines = [
        ("name", found.name),
        ("id", found.id),
        ("phase", str(found.phase)),
        ("size", f"{size(found.size_bytes)} ({found.size_bytes} bytes)"),
        ("pool", found.spec.pool),
        ("kind", kind(found.spec)),
        ("limits", _limits(found.limits)),
    ]
    if found.source is not None:
        lines.append(("filled from", f"{found.source.kind} {found.source.id}"))
    lines += [
        (
            "published on",
            f"{one.node}, {one.access_mode}{', read-only' if one.readonly else ''}",
        )
        for one in found.published
    ]
    lines += [("leftovers on", node) for node in found.leftovers]
    return lines


def _node_lines(one: VolumeOnNode) -> list[tuple[str, str]]:
    if one.report is None:
        return [("on node", f"{one.node}: {one.trouble}")]
    report = one.report
    state = [
        "complete" if report.complete else "half-made",
        "active" if report.active else "not active",
        f"health {report.health}{f' ({report.trouble})' if report.trouble else ''}",
    ]
    lines = [("on node", f"{one.node}: {', '.join(state)}")]
    if report.allocated_bytes:
        lines.append(("holds", f"{size(report.allocated_bytes)} of its pool"))
    lines += [("mounted at", mount) for mount in report.mounts]
    if report.replica is not None:
        lines += _replica_lines(report.replica)
    return lines


def _limits(limits: IoLimits) -> str:
    words = [
        f"{count} {what}"
        for count, what in ((limits.read_iops, "reads/s"), (limits.write_iops, "writes/s"))
        if count
    ] + [
        f"{what} {size(count)}/s"
        for count, what in ((limits.read_bytes, "read"), (limits.write_bytes, "write"))
        if count
    ]
    return ", ".join(words) or "none"
