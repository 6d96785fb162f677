"""The host's side of `lab.exec_server`: one TCP connection a request."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

from lab.errors import CommandTimeout, LabError, NodeDown

if TYPE_CHECKING:
    from collections.abc import Callable

PORT = 1
CONNECT_SECONDS = 10.0
CHUNK = 1 << 18


class Answer:
    """Result and output (bytes) of one request."""

    def __init__(self) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.result: dict[str, Any] = {}


class Client:
    """Asks one node's server; may be used by several threads at once."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def ask(
        self,
        do: str,
        request: dict[str, Any],
        body: bytes = b"",
        timeout: float | None = 60.0,
        on_output: Callable[[bool, bytes], None] | None = None,
    ) -> Answer:
        """Send a request and wait for its answer, at most `timeout` seconds.

        Output is collected in the answer, or given to `on_output` (is it standard error?, bytes)
        as it comes.

        Raises CommandTimeout (the server then kills the command), NodeDown, and LabError with the
        server's text where it could not do what was asked.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        head = json.dumps(request | {"do": do, "body": len(body)}).encode()
        connection = socket.socket()
        with self._lock:
            self._open.add(connection)
        try:
            self._connect(connection)
            connection.settimeout(timeout)
            connection.sendall(struct.pack(">I", len(head)) + head + body)
            return _receive(connection, deadline, on_output)
        except TimeoutError as error:
            raise CommandTimeout(f"{do} {_summary(request)}: no end in {timeout} s") from error
        except OSError as error:
            raise NodeDown(f"{do} {_summary(request)}: {error}") from error
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _connect(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(CONNECT_SECONDS)
        try:
            connection.connect((self._address, PORT))
        except TimeoutError as error:
            raise NodeDown(f"{self._address} does not answer") from error

    def hang_up(self) -> None:
        """End all requests under way with NodeDown."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


def _receive(
    connection: socket.socket,
    deadline: float | None,
    on_output: Callable[[bool, bytes], None] | None,
) -> Answer:
    answer = Answer()
    stream = _Stream(connection, deadline)
    while True:
        kind, size = struct.unpack(">cI", stream.read(5))
        payload = stream.read(size)
        if kind == b"r":
            answer.result = json.loads(payload)
            return answer
        if kind not in (b"o", b"e"):
            raise LabError(payload.decode())
        if on_output is not None:
            on_output(kind == b"e", payload)
        elif kind == b"o":
            answer.stdout += payload
        else:
            answer.stderr += payload


class _Stream:
    def __init__(self, connection: socket.socket, deadline: float | None) -> None:
        self._connection = connection
        self._deadline = deadline
        self._buffer = bytearray()

    def read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if self._deadline is not None:
                left = self._deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                self._connection.settimeout(left)
            piece = self._connection.recv(CHUNK)
            if not piece:
                raise ConnectionResetError("the node hung up")
            self._buffer += piece
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data


def _summary(request: dict[str, Any]) -> str:
    return " ".join(request.get("argv", ())) or str(request.get("path", ""))
