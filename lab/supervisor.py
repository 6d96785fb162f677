"""The process that holds a lab for the command line, and how to talk to it.

It is reached at an abstract unix socket, named after the project's path, which vanishes with it.
A request is one line of JSON ({"do": …}), its answer one line ({"ok": …} or {"error": …}). Only
what needs the nodes' processes goes through it; the rest is done from inside its namespaces, by
`enter_namespaces`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.errors import LabError
from lab.lab import Lab
from lab.paths import PROJECT

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.node import Node

ADDRESS = f"\0xlss-lab{PROJECT}".encode()
ANSWER_SECONDS = 300.0


class Supervisor:
    """Serves one lab until it is told `down`."""

    def __init__(self) -> None:
        # Before the lab moves this process into its own network, where nobody would find it.
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(ADDRESS)
        self._socket.listen(16)
        self._lab = Lab()
        self._stopping = False

    def serve(self) -> None:
        with self._socket, self._lab:
            while not self._stopping:
                connection, _ = self._socket.accept()
                with connection:
                    if _peer_is_root(connection):
                        self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        try:
            request = json.loads(_read_line(connection))
            answer = {"ok": self._carry_out(request)}
        except (LabError, OSError, KeyError, ValueError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        # Whoever only looks whether a lab is up, or who holds it, has hung up by now.
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps(answer).encode() + b"\n")

    def _carry_out(self, request: dict[str, Any]) -> Any:
        what = request["do"]
        if what == "status":
            return [_describe(node) for node in self._lab.nodes.values()]
        if what == "add":
            options = {key: request[key] for key in ("disks", "memory", "udev")}
            self._lab.add_nodes(request["names"], **options)
            return None
        if what == "down":
            self._lab.close()
            self._stopping = True
            return None
        if what == "heal":
            self._lab.heal()
            return None
        if request["node"] not in self._lab.nodes:
            raise LabError(f"no node {request['node']}")
        node = self._lab.nodes[request["node"]]
        if what == "remove":
            self._lab.remove_node(node)
            return None
        return _carry_out_on(node, request)


def _carry_out_on(node: Node, request: dict[str, Any]) -> Any:
    """What concerns one node alone; returns what the user is told, or None."""
    process = request.get("process")
    actions: dict[str, Callable[[], None]] = {
        "kill": lambda: node.kill(silently=request["silently"]),
        "start": node.start,
        "restart": node.restart,
        "disturb": lambda: node.disturb(request["rule"], request["direction"]),
        "clock": lambda: node.shift_clock(request["seconds"]),
        "pause": lambda: node.pause_process(process) if process else node.pause(),
        "resume": lambda: node.resume_process(process) if process else node.resume(),
    }
    if request["do"] != "disk":
        return actions[request["do"]]()
    disk = node.faulty_disk(request["device"])
    getattr(disk, request["fault"].replace("-", "_"))()
    return disk.path


def ask(request: dict[str, Any]) -> Any:
    """Send a request to the supervisor; LabError if there is none or it refuses."""
    with connect() as connection:
        connection.settimeout(ANSWER_SECONDS)
        connection.sendall(json.dumps(request).encode() + b"\n")
        answer = json.loads(_read_line(connection))
    if "error" in answer:
        raise LabError(answer["error"])
    return answer["ok"]


def connect() -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(ADDRESS)
    except OSError:
        connection.close()
        raise LabError("no lab is up here; `python -m lab up` starts one") from None
    return connection


def is_up() -> bool:
    try:
        connect().close()
    except LabError:
        return False
    return True


def start() -> None:
    """Start a supervisor in the background, and wait until it serves."""
    ready, told = os.pipe()
    if os.fork() == 0:
        os.setsid()
        os.close(ready)
        _run_in_background(told)
    os.close(told)
    with os.fdopen(ready, "rb") as answer:
        text = answer.read().decode()
    if text != "ready":
        raise LabError(f"the lab did not start: {text}")


def _run_in_background(told: int) -> None:
    """The background process: never returns, and lets go of the caller's terminal."""
    code = 1
    try:
        try:
            supervisor = Supervisor()
        except (LabError, OSError) as error:
            os.write(told, str(error).encode())
            os._exit(1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _end)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.write(told, b"ready")
        os.close(told)
        supervisor.serve()
        code = 0
    finally:
        os._exit(code)


def _end(number: int, _: Any) -> None:
    raise SystemExit(128 + number)


def enter_namespaces() -> None:
    """Move this process into the supervisor's network and mounts."""
    with connect() as connection:
        pid = _peer(connection)[0]
    libc = ctypes.CDLL(None, use_errno=True)
    folder = Path.cwd()
    for kind in ("net", "mnt"):
        with Path(f"/proc/{pid}/ns/{kind}").open("rb") as namespace:
            if libc.setns(namespace.fileno(), 0) != 0:
                raise LabError(f"setns: {os.strerror(ctypes.get_errno())}")
    os.chdir(folder)


def _describe(node: Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "index": node.index,
        "address": node.address,
        "running": node.running,
        "pid": node.pid,
        "memory": node.memory,
        "disks": [str(path) for path in node.disks if path is not None],
        "console": str(node.console_path),
    }


def _peer(connection: socket.socket) -> tuple[int, int, int]:
    """Process, user and group id of the other side."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, gid = struct.unpack("3i", data)
    return pid, uid, gid


def _peer_is_root(connection: socket.socket) -> bool:
    return _peer(connection)[1] == 0


def _read_line(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        piece = connection.recv(1 << 16)
        if not piece:
            raise LabError("the lab hung up")
        data += piece
    return data
