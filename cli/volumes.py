"""``xlss volumes``: all volumes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from cli.admin_client import DEFAULT_SOCKET, connect
from cli.options import SocketOption
from cli.output import Output, OutputOption, print_json, print_table, size
from cluster.model import AccessType, VolumeSpec


def volumes(
    socket: SocketOption = DEFAULT_SOCKET,
    output: OutputOption = Output.TABLE,
    node: Annotated[str, typer.Option("--node", help="Only volumes on this node.")] = "",
    pool: Annotated[str, typer.Option("--pool", help="Only volumes in this pool.")] = "",
) -> None:
    """All volumes, also those that are half-made or being deleted."""
    with connect(socket) as client:
        found = [
            (volume, told)
            for volume, told in client.volumes()
            if (not node or node in volume.nodes) and (not pool or pool == volume.spec.pool)
        ]
    if output is Output.JSON:
        print_json(
            [{**asdict(volume), "replicated": told and asdict(told)} for volume, told in found]
        )
        return
    print_table(
        ["name", ">size", "phase", "node", "pool", "kind", "replicas", "published on", "id"],
        [
            (
                volume.name,
                size(volume.size_bytes),
                volume.phase,
                " ".join(volume.nodes) or "-",
                volume.spec.pool,
                kind(volume.spec),
                told.summary if told is not None else "-",
                " ".join(one.node for one in volume.published) or "-",
                volume.id,
            )
            for volume, told in found
        ],
    )


def kind(spec: VolumeSpec) -> str:
    """What a volume is, in a few words: ``thin ext4``, ``thick raid1 block encrypted``."""
    words = [str(spec.provision)]
    if spec.layout.copies > 1:
        words.append(f"{spec.layout.kind}({spec.layout.copies})")
    words.append("block" if spec.access is AccessType.BLOCK else spec.filesystem)
    if spec.encrypted:
        words.append("encrypted")
    return " ".join(words)
