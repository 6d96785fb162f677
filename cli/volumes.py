"""``xlss volumes`` and ``xlss volume``: all volumes, or one with what its node says of it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from cli.admin_client import DEFAULT_SOCKET, VolumeOnNode, connect
from cli.options import SocketOption
from cli.output import Output, OutputOption, console, print_json, print_table, size
from cluster.model import AccessType, IoLimits, Volume, VolumeSpec


def volumes(
    socket: SocketOption = DEFAULT_SOCKET,
    output: OutputOption = Output.TABLE,
    node: Annotated[str, typer.Option("--node", help="Only volumes on this node.")] = "",
    pool: Annotated[str, typer.Option("--pool", help="Only volumes in this pool.")] = "",
) -> None:
    """All volumes, also those that are half-made or being deleted."""
    with connect(socket) as client:
        found = [
            volume
            for volume in client.volumes()
            if (not node or node in volume.nodes) and (not pool or pool == volume.spec.pool)
        ]
    if output is Output.JSON:
        print_json(found)
        return
    print_table(
        ["name", ">size", "phase", "node", "pool", "kind", "published on", "id"],
        [
            (
                volume.name,
                size(volume.size_bytes),
                volume.phase,
                " ".join(volume.nodes) or "-",
                volume.spec.pool,
                kind(volume.spec),
                " ".join(one.node for one in volume.published) or "-",
                volume.id,
            )
            for volume in found
        ],
    )


def volume(
    name: Annotated[str, typer.Argument(metavar="VOLUME", help="Name or id of the volume.")],
    socket: SocketOption = DEFAULT_SOCKET,
    output: OutputOption = Output.TABLE,
) -> None:
    """One volume: its record, and its state on its nodes now."""
    with connect(socket) as client:
        found, nodes = client.volume(name)
    if output is Output.JSON:
        print_json({"volume": found, "nodes": nodes})
        return
    lines = [*_record_lines(found), *(line for node in nodes for line in _node_lines(node))]
    width = max(len(title) for title, _ in lines)
    for title, text in lines:
        console.print(f"[bold]{title:<{width}}[/bold]  {escape(text)}", highlight=False)


def kind(spec: VolumeSpec) -> str:
    """What a volume is, in a few words: ``thin ext4``, ``thick raid1 block encrypted``."""
    words = [str(spec.provision)]
    if spec.layout.copies > 1:
        words.append(f"{spec.layout.kind}({spec.layout.copies})")
    words.append("block" if spec.access is AccessType.BLOCK else spec.filesystem)
    if spec.encrypted:
        words.append("encrypted")
    return " ".join(words)


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
