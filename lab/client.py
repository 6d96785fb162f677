"""The host's side of `lab.exec_server`: a TCP connection for each request under way."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

from lab.errors import CommandTimeout, LabError, NodeDown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PORT = 1
CONNECT_SECONDS = 10.0
ALIVE_SECONDS = 1.0
CHUNK = 1 << 18


class Answer:
    """Result and output (bytes) of one request."""

    def __init__(self) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.result: dict[str, Any] = {}


class Client:
    """Asks one node's server; may be used by several threads at once.

    `alive` tells whether the node runs: one that panics hangs up on nobody.
    """

    def __init__(self, address: str, alive: Callable[[], bool]) -> None:
        self._address = address
        self._alive = alive
        self._open: set[socket.socket] = set()  # with a request under way
        self._idle: list[socket.socket] = []
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
        try:
            with self._connection() as connection:
                connection.settimeout(timeout)
                connection.sendall(struct.pack(">I", len(head)) + head + body)
                return _receive(_Stream(connection, deadline, self._alive), on_output)
        except TimeoutError as error:
            raise CommandTimeout(f"{do} {_summary(request)}: no end in {timeout} s") from error
        except OSError as error:
            raise NodeDown(f"{do} {_summary(request)}: {error}") from error

    @contextlib.contextmanager
    def _connection(self) -> Iterator[socket.socket]:
        """One for this request alone; kept for the next if all went well."""
        with self._lock:
            reused = bool(self._idle)
            connection = self._idle.pop() if reused else socket.socket()
            self._open.add(connection)
        sound = False
        try:
            if not reused:
                self._connect(connection)
            yield connection
            sound = True
        finally:
            with self._lock:
                if sound and connection in self._open:  # `hang_up` has not ended it just then
                    self._idle.append(connection)
                else:
                    connection.close()
                self._open.discard(connection)

    def _connect(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A node that takes nothing in is as good as one that does not connect.
        milliseconds = round(CONNECT_SECONDS * 1000)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        connection.settimeout(CONNECT_SECONDS)
        try:
            connection.connect((self._address, PORT))
        except TimeoutError as error:
            raise NodeDown(f"{self._address} does not answer") from error

    def hang_up(self) -> None:
        """End all connections, and requests under way with NodeDown."""
        with self._lock:
            for connection in (*self._open, *self._idle):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._open.clear()
            for connection in self._idle:
                connection.close()
            self._idle.clear()


def _receive(stream: _Stream, on_output: Callable[[bool, bytes], None] | None) -> Answer:
    answer = Answer()
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
    """Reads whole pieces; TimeoutError at the deadline, ConnectionError when the node is gone."""

    def __init__(
        self, connection: socket.socket, deadline: float | None, alive: Callable[[], bool]
    ) -> None:
        self._connection = connection
        self._deadline = deadline
        self._alive = alive
        self._buffer = bytearray()

    def read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._buffer += self._receive()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _receive(self) -> bytes:
        while True:
            left = ALIVE_SECONDS
            if self._deadline is not None:
                left = min(left, self._deadline - time.monotonic())
                if left <= 0:
                    raise TimeoutError
            self._connection.settimeout(left)
            try:
                piece = self._connection.recv(CHUNK)
            except TimeoutError as error:
                if error.errno == errno.ETIMEDOUT:  # it is the connection's end
                    raise ConnectionResetError("the node takes nothing in") from error
                if not self._alive():
                    raise ConnectionResetError("the node went down") from None
                continue
            if not piece:
                raise ConnectionResetError("the node hung up")
            return piece


def _summary(request: dict[str, Any]) -> str:
    return " ".join(request.get("argv", ())) or str(request.get("path", ""))
