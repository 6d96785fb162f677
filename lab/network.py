"""The lab's two networks: bridges and taps in this process's network namespace.

Data: 10.77.0.0/24, node N has address .N on its eth0, the host .254. Commands: 10.78.0.0/24,
eth1, never cut. Cuts are kept in the bridge and in nftables, so that whoever enters this namespace
finds and undoes them.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Literal

from lab.errors import LabError

HOST_ADDRESS = "10.77.0.254"
HOST_COMMAND_ADDRESS = "10.78.0.254"
COUNTERS = Path("/proc/thread-self/net/dev")
"""Of all devices in the network of the thread that opens it; the same text if nothing moved."""
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


def taps(index: int) -> tuple[str, str]:
    return data_tap(index), command_tap(index)


def packets(counters: bytes) -> dict[str, tuple[int, int]]:
    """How many packets each device has received and sent: a tap sends what its node has read.

    ``counters`` is what COUNTERS holds.
    """
    lines = counters.decode().splitlines()[2:]
    counts = ((name.strip(), rest.split()) for name, _, rest in (x.partition(":") for x in lines))
    return {name: (int(numbers[1]), int(numbers[9])) for name, numbers in counts}


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
    """Remove what there is of the node's taps, and its cuts: the next node takes its number."""
    for tap in taps(index):
        subprocess.run(["ip", "link", "del", tap], capture_output=True, check=False)
    # They outlive the device, and newer kernels bind them to the next one of this name.
    _delete_tables([("netdev", data_tap(index))])
    _delete_tables(_cuts_of(index))


def cut(index: int, direction: Direction) -> None:
    """Drop what the node sends (`out`), what is sent to it (`in`), or both.

    It replaces the node's earlier cut, but not those from single peers. The tap leaves the bridge
    rather than going down: that would wedge the node's device.
    """
    _join_all(index)
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
    """Undo every cut of the node, those from single peers too."""
    _join_all(index)
    _delete_tables(_cuts_of(index))


def cut_from(index: int, peer: int | None, direction: Direction) -> None:
    """Cut a node off one other only, or off the host (None); both still reach everybody else.

    `direction` is as the node sees it: `out` drops what it sends to the peer. It replaces an
    earlier cut between the two.
    """
    tap = data_tap(index)
    if peer is None:
        out = f'chain out {{ type filter hook input priority 0; iifname "{tap}" drop; }}'
        back = f'chain back {{ type filter hook output priority 0; oifname "{tap}" drop; }}'
    else:
        other = data_tap(peer)
        forward = "type filter hook forward priority 0;"
        out = f'chain out {{ {forward} iifname "{tap}" oifname "{other}" drop; }}'
        back = f'chain back {{ {forward} iifname "{other}" oifname "{tap}" drop; }}'
    chains = {"out": out, "in": back, "both": f"{out}\n{back}"}[direction]
    name = _cut_name(index, peer)
    # One transaction: nothing gets through while one cut takes another's place.
    rules = (
        f"table bridge {name}\ndelete table bridge {name}\ntable bridge {name} {{\n{chains}\n}}\n"
    )
    _command(["nft", "-f", "-"], rules)


def join_with(index: int, peer: int | None) -> None:
    """Undo `cut_from`, whichever of the two it was called for."""
    _delete_tables([("bridge", _cut_name(index, peer))])


def drop_connections(index: int, *, data: bool = True) -> None:
    """Reset the host's connections to the node, as a dead machine would not.

    `data`: those on the data network too.
    """
    addresses = [command_address(index)] + ([data_address(index)] if data else [])
    for address in addresses:
        subprocess.run(["ss", "-K", "dst", address], capture_output=True, check=False)


def _join_all(index: int) -> None:
    """Undo `cut`."""
    tap = data_tap(index)
    _ip([f"link set {tap} master data"])
    subprocess.run(["tc", "qdisc", "del", "dev", tap, "root"], capture_output=True, check=False)
    _delete_tables([("netdev", tap)])


def _cut_name(index: int, peer: int | None) -> str:
    """Name of the table that holds the cut between the two; the host counts as 0."""
    first, second = sorted((index, peer or 0))
    return f"cut_{first}_{second}"


def _cuts_of(index: int) -> list[tuple[str, str]]:
    tables = _command(["nft", "list", "tables", "bridge"]).split()
    return [
        ("bridge", name)
        for name in tables
        if name.startswith("cut_") and str(index) in name.split("_")[1:]
    ]


def _delete_tables(tables: list[tuple[str, str]]) -> None:
    """Delete tables of nftables (family, name) that need not be there."""
    lines = [f"table {family} {name}\ndelete table {family} {name}" for family, name in tables]
    _command(["nft", "-f", "-"], "\n".join([*lines, ""]))


def _ip(batch: list[str]) -> None:
    _command(["ip", "-batch", "-"], "\n".join(batch) + "\n")


def _command(argv: list[str], text: str = "") -> str:
    result = subprocess.run(argv, input=text, text=True, capture_output=True, check=False)
    if result.returncode != 0:
        raise LabError(f"{' '.join(argv)}: {result.stderr.strip()} (input: {text.strip()})")
    return result.stdout
