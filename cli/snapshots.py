"""``xlss snapshots``: all snapshots, or those of one volume."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from cli.admin_client import DEFAULT_SOCKET, connect
from cli.options import SocketOption
from cli.output import Output, OutputOption, print_json, print_table, size
from cluster.identifiers import Kind, is_id


def snapshots(
    socket: SocketOption = DEFAULT_SOCKET,
    output: OutputOption = Output.TABLE,
    volume: Annotated[str, typer.Option("--volume", help="Name or id of a volume.")] = "",
) -> None:
    """All snapshots, also those that are half-made or being deleted."""
    with connect(socket) as client:
        # Snapshots outlive their volume: an identifier is not looked up.
        known = not volume or is_id(Kind.VOLUME, volume)
        found = list(client.snapshots(volume if known else client.volume(volume)[0].id))
    if output is Output.JSON:
        print_json(found)
        return
    print_table(
        ["name", ">size", "phase", "node", "pool", "cut at", "group", "volume", "id"],
        [
            (
                snapshot.name,
                size(snapshot.size_bytes),
                snapshot.phase,
                " ".join(snapshot.nodes) or "-",
                snapshot.spec.pool,
                f"{datetime.fromtimestamp(snapshot.created_at, UTC):%Y-%m-%d %H:%M:%S}Z",
                snapshot.group_id or "-",
                snapshot.volume_id,
                snapshot.id,
            )
            for snapshot in found
        ],
    )
