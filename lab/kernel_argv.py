"""The command line of a node's kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab import network
from lab.paths import PROJECT, SHARE

if TYPE_CHECKING:
    from lab.node import Node


def kernel_argv(node: Node) -> list[str]:
    """The command that is this node: user-mode Linux with its disks and taps."""
    data, command = network.data_tap(node.index), network.command_tap(node.index)
    device = "transport=tap,depth=128,gro=1"
    disks = [f"ubd{number}={path}" for number, path in enumerate(node.disks, 1) if path is not None]
    return [
        "linux.uml",
        f"mem={node.memory >> 20}M",
        f"uml_dir={node.folder}/uml",
        f"umid={node.name}",
        "rootfstype=hostfs",
        "rootflags=/",
        "ro",
        "init=/usr/bin/python3",
        *disks,
        f"vec0:{device},ifname={data},mac={network.mac_address('data', node.index)}",
        f"vec1:{device},ifname={command},mac={network.mac_address('command', node.index)}",
        "con=null",
        "con0=null,fd:1",
        "ssl=null",
        "quiet",
        f"NODE={node.name}",
        f"INDEX={node.index}",
        f"SHARE={SHARE}",
        f"PROJECT={PROJECT}",
        f"UDEV={int(node.udev)}",
        "--",
        "-IS",
        str(PROJECT / "lab" / "guest_init.py"),
    ]
