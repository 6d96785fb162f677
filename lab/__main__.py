"""The lab from the command line: `python -m lab --help`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import network, supervisor
from lab.client import Client
from lab.errors import LabError
from lab.faulty_disk import FAULTS
from lab.node import ENVIRONMENT, MIB
from lab.paths import PROJECT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HOST = "host"
UNITS = {"K": 1 << 10, "M": MIB, "G": 1 << 30, "T": 1 << 40}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        code: int = options.carry_out(options)
    except (LabError, OSError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, carry_out: Any, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help)
        sub.set_defaults(carry_out=carry_out, do=name)
        return sub

    up = command("up", _up, "start a lab, or add nodes to the one that is up")
    up.add_argument("names", nargs="*", metavar="NAME", help="names of the nodes (default: n1)")
    up.add_argument("--disk", type=_size, action="append", default=[], help="a disk; repeatable")
    up.add_argument("--memory", type=_size, default=512 * MIB, help="of each node (512M)")
    up.add_argument("--udev", action="store_true", help="start a stock udevd in the nodes")
    command("status", _status, "list the nodes")
    run = command("exec", _exec, "run a command in a node: exec NODE COMMAND …")
    run.add_argument("node")
    run.add_argument("argv", nargs=argparse.REMAINDER)
    host = command("host", _host, "run a command on the host, in the lab's network")
    host.add_argument("argv", nargs=argparse.REMAINDER)
    kill = command("kill", _kill, "power a node off, by SIGKILL")
    kill.add_argument("node")
    kill.add_argument("--silently", action="store_true", help="its clients hear nothing")
    for name, text in (
        ("start", "power a node on, with the same disks"),
        ("restart", "kill, then start"),
        ("remove", "power a node off and forget its disks"),
    ):
        command(name, _power, text).add_argument("node")
    _add_faults(command)
    command("console", _console, "print a node's console").add_argument("node")
    command("down", _down, "end the lab")
    return parser


def _add_faults(command: Callable[..., argparse.ArgumentParser]) -> None:
    cut = command("cut", _cut, "cut a node off the data network, or off one peer")
    cut.add_argument("node")
    cut.add_argument("direction", nargs="?", choices=network.DIRECTIONS, default="both")
    cut.add_argument("--from", dest="peer", metavar="PEER", help=f"another node, or {HOST!r}")
    join = command("join", _join, "undo all cuts of a node, or the one from a peer")
    join.add_argument("node")
    join.add_argument("--with", dest="peer", metavar="PEER", help=f"another node, or {HOST!r}")
    disturb = command("disturb", _fault, "delay or lose a node's packets")
    disturb.add_argument("node")
    disturb.add_argument("rule", help="as in tc-netem(8): 'delay 20ms loss 1%%'; '' ends it")
    disturb.add_argument("direction", nargs="?", choices=network.DIRECTIONS, default="both")
    clock = command("clock", _fault, "set a node's clock ahead of the host's; 0 undoes it")
    clock.add_argument("node")
    clock.add_argument("seconds", type=float)
    for name, text in (("pause", "stop a node, or a process in it"), ("resume", "undo pause")):
        pause = command(name, _fault, text)
        pause.add_argument("node")
        pause.add_argument("process", nargs="?", help="a part of its command line")
    disk = command("disk", _fault, "make a device over a disk, and let it fail or recover")
    disk.add_argument("node")
    disk.add_argument("device", help="like /dev/ubdb")
    disk.add_argument("fault", nargs="?", choices=FAULTS, default="recover")
    command("heal", _fault, "undo every fault of every node")


def _size(text: str) -> int:
    unit = UNITS.get(text[-1:].upper())
    try:
        return int(text[:-1]) * unit if unit else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a size: {text} (like 512M, 2G)") from None


def _up(options: argparse.Namespace) -> int:
    if not supervisor.is_up():
        supervisor.start()
    request = {key: getattr(options, key) for key in ("memory", "udev")}
    names = options.names or ["n1"]
    supervisor.ask(request | {"do": "add", "names": names, "disks": options.disk})
    return _status(options)


def _status(_: argparse.Namespace) -> int:
    for node in supervisor.ask({"do": "status"}):
        state = "up" if node["running"] else "down"
        print(f"{node['name']:8} {node['address']:14} {state:6} {len(node['disks'])} disks")
    return 0


def _exec(options: argparse.Namespace) -> int:
    node = _node(options.node)
    if not node["running"]:
        raise LabError(f"{node['name']} is down")
    body = b"" if sys.stdin.isatty() else sys.stdin.buffer.read()
    supervisor.enter_namespaces()
    process = Path(f"/proc/{node['pid']}")
    client = Client(network.command_address(node["index"]), process.exists)
    request = {"argv": _argv(options), "env": ENVIRONMENT, "cwd": str(PROJECT)}

    def write(is_error: bool, data: bytes) -> None:
        stream = sys.stderr.buffer if is_error else sys.stdout.buffer
        stream.write(data)
        stream.flush()

    code: int = client.ask("run", request, body, None, write).result["returncode"]
    return code if code >= 0 else 128 - code


def _host(options: argparse.Namespace) -> int:
    supervisor.enter_namespaces()
    argv = _argv(options)
    os.execvp(argv[0], argv)


def _power(options: argparse.Namespace) -> int:
    supervisor.ask({"do": options.do, "node": options.node})
    return 0


def _kill(options: argparse.Namespace) -> int:
    supervisor.ask({"do": "kill", "node": options.node, "silently": options.silently})
    return 0


def _cut(options: argparse.Namespace) -> int:
    index = _node(options.node)["index"]
    peer = _peer(options)
    supervisor.enter_namespaces()
    if options.peer is None:
        network.cut(index, options.direction)
    else:
        network.cut_from(index, peer, options.direction)
    return 0


def _join(options: argparse.Namespace) -> int:
    index = _node(options.node)["index"]
    peer = _peer(options)
    supervisor.enter_namespaces()
    if options.peer is None:
        network.join(index)
    else:
        network.join_with(index, peer)
    return 0


def _peer(options: argparse.Namespace) -> int | None:
    """The other node's number; None for the host."""
    return None if options.peer in (None, HOST) else _node(options.peer)["index"]


def _fault(options: argparse.Namespace) -> int:
    keys = ("do", "node", "rule", "direction", "seconds", "process", "device", "fault")
    said = supervisor.ask({key: value for key, value in vars(options).items() if key in keys})
    if said:
        print(said)
    return 0


def _console(options: argparse.Namespace) -> int:
    path = Path(_node(options.node)["console"])
    supervisor.enter_namespaces()
    print(path.read_text(errors="replace"), end="")
    return 0


def _down(_: argparse.Namespace) -> int:
    if supervisor.is_up():
        supervisor.ask({"do": "down"})
    return 0


def _node(name: str) -> Any:
    for node in supervisor.ask({"do": "status"}):
        if node["name"] == name:
            return node
    raise LabError(f"no node {name}")


def _argv(options: argparse.Namespace) -> list[str]:
    argv: list[str] = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
    if not argv:
        raise LabError("which command?")
    return argv


if __name__ == "__main__":
    sys.exit(main())
