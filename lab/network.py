"""The lab's two networks: bridges and taps in this process's network namespace.

Data: 10.77.0.0/24, node N has address .N on its eth0, the host .254. Commands: 10.78.0.0/24,
eth1, never cut.
"""

from __future__ import annotations

import subprocess
from typing import Literal

from lab.errors import LabError

HOST_ADDRESS = "10.77.0.254"
Direction = Literal["both", "in", "out"]
DIRECTIONS: tuple[Direction, ...] = ("both", "in", "out")


def data_address(index: int) -> str:
    return f"10.77.0.{index}"


def command_address(index: int) -> str:
    return f"10.78.0.{index}"


def data_tap(index: int) -> str:
    return f"data{index}"


def command_tap(index: int) -> str:
    return f"cmd{index}"


def mac_address(network: Literal["data", "command"], index: int) -> str:
    """The same at each boot, so that nobody's neighbour table goes stale."""
    return f"52:54:00:{'77' if network == 'data' else '78'}:00:{index:02x}"


def create_bridges() -> None:
    batch = ["link set lo up"]
    for bridge, number in (("data", 77), ("cmd", 78)):
        batch += [
            # With an address of its own: one that follows the ports empties neighbour tables.
            f"link add {bridge} address 52:54:00:{number}:00:fe type bridge mcast_snooping 0",
            f"addr add 10.{number}.0.254/24 dev {bridge}",
            f"link set {bridge} up",
        ]
    _ip(batch)


def add_taps(index: int) -> None:
    _ip(
        [
            f"tuntap add mode tap name {data_tap(index)}",
            f"link set {data_tap(index)} master data up",
            f"tuntap add mode tap name {command_tap(index)}",
            f"link set {command_tap(index)} master cmd up",
            f"neigh replace {command_address(index)} dev cmd nud permanent"
            f" lladdr {mac_address('command', index)}",
        ]
    )


def remove_taps(index: int) -> None:
    """Remove what there is of the node's taps."""
    for tap in (data_tap(index), command_tap(index)):
        subprocess.run(["ip", "link", "del", tap], capture_output=True, check=False)


def cut(index: int, direction: Direction) -> None:
    """Drop what the node sends (`out`), what is sent to it (`in`), or both.

    The tap leaves the bridge rather than going down: that would wedge the node's device.
    """
    join(index)
    tap = data_tap(index)
    if direction == "both":
        _ip([f"link set {tap} nomaster"])
    elif direction == "in":
        _command(["tc", "qdisc", "replace", "dev", tap, "root", "blackhole"])
    else:
        rules = f"""
            table netdev {tap} {{
                chain sent {{ type filter hook ingress device {tap} priority 0; policy drop; }}
            }}
        """
        _command(["nft", "-f", "-"], rules)


def join(index: int) -> None:
    """Undo every cut of the node."""
    tap = data_tap(index)
    _ip([f"link set {tap} master data"])
    subprocess.run(["tc", "qdisc", "del", "dev", tap, "root"], capture_output=True, check=False)
    _command(["nft", "-f", "-"], f"table netdev {tap}\ndelete table netdev {tap}\n")


def drop_connections(index: int) -> None:
    """Reset the host's connections to the node, as a dead machine would not."""
    for address in (data_address(index), command_address(index)):
        subprocess.run(["ss", "-K", "dst", address], capture_output=True, check=False)


def _ip(batch: list[str]) -> None:
    _command(["ip", "-batch", "-"], "\n".join(batch) + "\n")


def _command(argv: list[str], text: str = "") -> None:
    result = subprocess.run(argv, input=text, text=True, capture_output=True, check=False)
    if result.returncode != 0:
        raise LabError(f"{' '.join(argv)}: {result.stderr.strip()} (input: {text.strip()})")
