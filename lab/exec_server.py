"""The server in a lab node that carries out the host's commands, on the network never cut.

Runs with the standard library alone. A connection carries one request after the other: a
length (4 bytes, big endian) and a JSON object, then `body` bytes of input. The answer is frames:
one letter, a length (4 bytes, big endian), the payload. `o` and `e` are standard output and
error, `r` is the result (JSON) and ends the answer, `x` is the text of an error and ends it too.
`lab.client` is the other side.

A command is killed with its process group when the host hangs up. It counts as finished when its
process is, even if a daemon that it left behind holds its output open.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import socketserver
import struct
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from lab import disk_wakeups

if TYPE_CHECKING:
    from typing import Any

    Request = dict[str, Any]

PORT = 1
CHUNK = 1 << 16


class Processes:
    """The long-running processes that the host started here, by process id."""

    def __init__(self) -> None:
        self._known: dict[int, subprocess.Popen[bytes]] = {}

    def add(self, process: subprocess.Popen[bytes]) -> int:
        self._known[process.pid] = process
        return process.pid

    def __getitem__(self, pid: int) -> subprocess.Popen[bytes]:
        return self._known[pid]


PROCESSES = Processes()


class Relays:
    """TCP ports of the command network that lead to unix sockets of this node."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._ports: dict[str, int] = {}
        self._lock = threading.Lock()

    def open(self, path: str, port: int) -> int:
        with self._lock:
            if path not in self._ports:
                listener = socket.create_server((self._address, port), backlog=128)
                self._ports[path] = listener.getsockname()[1]
                threading.Thread(target=self._accept, args=(listener, path), daemon=True).start()
            return self._ports[path]

    def _accept(self, listener: socket.socket, path: str) -> None:
        while True:
            client, _ = listener.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(path)
            except OSError:
                client.close()
                server.close()
                continue
            threading.Thread(target=join_streams, args=(client, server), daemon=True).start()


def join_streams(left: socket.socket, right: socket.socket) -> None:
    """Copy bytes both ways until one side ends, then close both."""
    peers = {left: right, right: left}
    with left, right, contextlib.suppress(OSError):
        while True:
            for ready in select.select(peers, (), ())[0]:
                data = ready.recv(CHUNK)
                if not data:
                    return
                peers[ready].sendall(data)


class Handler(socketserver.BaseRequestHandler):
    """One connection; see the module's text for the format."""

    request: socket.socket

    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError, ValueError):
            while True:
                (size,) = struct.unpack(">I", self._read(4))
                request = json.loads(self._read(size))
                self._carry_out(request, self._read(request.get("body", 0)))

    def _carry_out(self, request: Request, body: bytes) -> None:
        try:
            result = getattr(self, f"do_{request['do']}")(request, body)
        except ConnectionError:
            raise
        except Exception as error:
            self._frame(b"x", f"{type(error).__name__}: {error}".encode())
        else:
            self._frame(b"r", json.dumps(result).encode())

    def do_run(self, request: Request, body: bytes) -> Request:
        process = subprocess.Popen(
            request["argv"],
            env=request["env"],
            cwd=request["cwd"],
            stdin=subprocess.PIPE if body else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            self._pump(process, body)
            return {"returncode": process.wait()}
        finally:
            with contextlib.suppress(ProcessLookupError):
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()

    def _pump(self, process: subprocess.Popen[bytes], body: bytes) -> None:
        """Feed the input, send on the output, until the process has ended."""
        assert process.stdout is not None and process.stderr is not None
        outputs = {process.stdout.fileno(): b"o", process.stderr.fileno(): b"e"}
        for fd in outputs:
            os.set_blocking(fd, False)
        ended = os.pidfd_open(process.pid)
        poll = select.poll()
        for fd in (*outputs, ended):
            poll.register(fd, select.POLLIN)
        poll.register(self.request, select.POLLRDHUP)
        if process.stdin is not None:
            poll.register(process.stdin, select.POLLOUT)
        ready: set[int] = set()
        try:
            while ended not in ready:
                ready = {fd for fd, _ in poll.poll()}
                if self.request.fileno() in ready:
                    raise ConnectionResetError("the host hung up")
                for fd in outputs if ended in ready else outputs.keys() & ready:
                    if not self._forward(fd, outputs[fd]) and ended not in ready:
                        poll.unregister(fd)
                if process.stdin is not None and process.stdin.fileno() in ready:
                    body = self._feed(process, poll, body)
        finally:
            os.close(ended)

    def _feed(self, process: subprocess.Popen[bytes], poll: select.poll, body: bytes) -> bytes:
        assert process.stdin is not None
        try:
            body = body[os.write(process.stdin.fileno(), body[: select.PIPE_BUF]) :]
        except BrokenPipeError:
            body = b""
        if not body:
            poll.unregister(process.stdin)
            process.stdin.close()
            process.stdin = None
        return body

    def _forward(self, fd: int, kind: bytes) -> bool:
        """Send what can be read now; False at the end of the stream."""
        while True:
            try:
                data = os.read(fd, CHUNK)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._frame(kind, data)

    def do_spawn(self, request: Request, _: bytes) -> Request:
        log = Path(request["log"])
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                request["argv"],
                env=request["env"],
                cwd=request["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return {"pid": PROCESSES.add(process)}

    def do_wait(self, request: Request, _: bytes) -> Request:
        """The return code of a spawned process; None if it has not ended within `timeout`."""
        try:
            return {"returncode": PROCESSES[request["pid"]].wait(request["timeout"])}
        except subprocess.TimeoutExpired:
            return {"returncode": None}

    def do_signal(self, request: Request, _: bytes) -> Request:
        process = PROCESSES[request["pid"]]
        if request["group"]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, request["signal"])
        else:
            process.send_signal(request["signal"])
        return {}

    def do_put(self, request: Request, body: bytes) -> Request:
        path = Path(request["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            path.chmod(request["mode"])
            file.write(body)
        return {}

    def do_get(self, request: Request, _: bytes) -> Request:
        with Path(request["path"]).open("rb") as file:
            while data := file.read(CHUNK):
                self._frame(b"o", data)
        return {}

    def do_relay(self, request: Request, _: bytes) -> Request:
        assert isinstance(self.server, Server)
        return {"port": self.server.relays.open(request["path"], request["port"])}

    def _frame(self, kind: bytes, payload: bytes) -> None:
        self.request.sendall(kind + struct.pack(">I", len(payload)) + payload)

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self.request.recv(min(size - len(data), CHUNK))
            if not piece:
                raise ConnectionResetError("the host hung up")
            data += piece
        return bytes(data)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: str) -> None:
        self.relays = Relays(address)
        super().__init__((address, PORT), Handler)


def serve(index: int) -> None:
    """Serve the commands for the node with this number, for ever."""
    disk_wakeups.start()
    with Server(f"10.78.0.{index}") as server:
        print("lab: ready", flush=True)
        server.serve_forever()
