"""Numbered records on a volume: started and collected from the host, and judged.

    records = Records(size=8 << 20)
    writer = records.start(node, "/var/lib/data/file")
    writer.wait_for(100)
    node.kill()
    verdict = records.check(other, "/dev/vg/copy")
    assert verdict.ok, verdict

An acknowledgement counts when it has arrived here; it comes over the network that is never cut.
Judge a volume that nobody writes, or a snapshot (see `Records.check`).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab import network
from lab.errors import CommandTimeout, LabError, NodeDown
from lab.record_format import RUN_BYTES, Found, State
from lab.record_verdict import Journal, Session, Verdict, judge
from lab.record_writer import CHUNK, STOP, WINDOW

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.guest_process import GuestProcess
    from lab.node import Node

RECORD_SIZE = 4096
START_SECONDS = 60.0
READ_SECONDS = 120.0
_PROGRAM = ("python3", "-S", "-m", "lab.record_writer")
_ALIVE_SECONDS = 1.0
_ANSWER_AFTER = WINDOW // 4  # records: each answer costs the node an interrupt


@dataclass(frozen=True)
class Ending:
    """How a writer came to its end."""

    stopped: bool = False
    """It was told to."""
    errno: int = 0
    """Of the write or the fsync that failed; what it wrote then may be there or not."""
    text: str = ""


class Writer:
    """A writer in a node; made by `Records.start`."""

    def __init__(self, node: Node, epoch: int) -> None:
        self.node = node
        self.epoch = epoch
        self.process: GuestProcess | None = None
        self._listener = socket.create_server((network.HOST_COMMAND_ADDRESS, 0))
        self._connection: socket.socket | None = None
        self._changed = threading.Condition()
        self._found: int | None = None
        self._began = 0.0
        self._arrivals: list[float] = []
        self._longest_pause = 0.0
        self._ending: Ending | None = None

    @property
    def port(self) -> int:
        """Where it has to report to, on the command network."""
        port: int = self._listener.getsockname()[1]
        return port

    def begin(self, process: GuestProcess) -> None:
        """Collect what this process reports; LabError if it does not begin to write."""
        self.process = process
        threading.Thread(target=self._collect, name=f"records-{self.epoch}", daemon=True).start()
        with self._changed:
            begun = self._changed.wait_for(
                lambda: self._found is not None or self._ending is not None, START_SECONDS
            )
            if self._found is not None:
                return
            said = self._ending.text if self._ending else f"silent for {START_SECONDS} s"
        with contextlib.suppress(NodeDown):
            said += f": {process.log()}" if begun else ""
        raise LabError(f"the writer on {self.node.name} did not begin: {said}")

    @property
    def found(self) -> int:
        """The last record that it found when it began; 0 for none."""
        return self._found or 0

    @property
    def last(self) -> int:
        """The last acknowledged record (`found` if there is none)."""
        with self._changed:
            return self.found + len(self._arrivals)

    @property
    def longest_pause(self) -> float:
        """The longest time between two acknowledgements, in seconds of the node's own clock.

        Without what the writer waited for this process. A write that has not ended does not count.
        """
        with self._changed:
            return self._longest_pause

    @property
    def ending(self) -> Ending | None:
        """How it ended; None while it runs. Power-off and SIGKILL: neither stopped nor errno."""
        with self._changed:
            return self._ending

    def session(self) -> Session | None:
        """What is known of it now; None if it did not get to the point of writing."""
        with self._changed:
            if self._found is None:
                return None
            ahead = WINDOW
            if self._ending is not None and (self._ending.stopped or self._ending.errno):
                ahead = 0 if self._ending.stopped else 1
            arrivals = tuple(self._arrivals)
            return Session(self.epoch, self.node.name, self._found, self._began, arrivals, ahead)

    def wait_for(self, more: int, timeout: float = 60.0) -> None:
        """Wait until so many more records are acknowledged than now.

        LabError if the writer ends before, CommandTimeout after `timeout` seconds.
        """
        with self._changed:
            wanted = len(self._arrivals) + more
            done = self._changed.wait_for(
                lambda: len(self._arrivals) >= wanted or self._ending is not None, timeout
            )
            if not done:
                raise CommandTimeout(f"no {more} records in {timeout} s, it is in {self._place()}")
            if len(self._arrivals) < wanted:
                raise LabError(f"the writer has ended: {self._ending}")

    def wait_ended(self, timeout: float = 60.0) -> Ending:
        """How it ends; CommandTimeout after `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._ending is not None, timeout)
            if self._ending is None:
                raise CommandTimeout(f"it still runs after {timeout} s, in {self._place()}")
            return self._ending

    def _place(self) -> str:
        """Where in the kernel it is: a volume that hangs holds it in a write."""
        assert self.process is not None
        try:
            return self.node.get(f"/proc/{self.process.pid}/stack", timeout=5.0).decode()
        except LabError as error:
            return f"no place that can be told: {error}"

    def stop(self, timeout: float = 30.0) -> Ending:
        """Let it end after the record under way; CommandTimeout if the volume hangs."""
        with contextlib.suppress(OSError):
            if self._connection is not None:
                self._connection.sendall(STOP.to_bytes(8, "big"))
        ending = self.wait_ended(timeout)
        if self.process is not None:
            self.process.wait(timeout)
        return ending

    def kill(self) -> None:
        """SIGKILL, and wait for the end; one that hangs in the kernel ends with its write."""
        assert self.process is not None
        self.process.kill()
        self.wait_ended()

    def _collect(self) -> None:
        ending = Ending(text="the connection was lost")
        try:
            with self._listener, self._accept() as connection:
                self._connection = connection
                ending = self._receive(connection) or ending
        except OSError as error:
            ending = Ending(text=f"{type(error).__name__}: {error}")
        with self._changed:
            self._ending = ending
            self._changed.notify_all()

    def _accept(self) -> socket.socket:
        self._listener.settimeout(_ALIVE_SECONDS)
        while True:
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                if not self._runs():
                    raise ConnectionResetError("it ended before it connected") from None
                continue
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(None)
            return connection

    def _runs(self) -> bool:
        try:
            return self.process is not None and self.process.alive
        except LabError:
            return self.node.running

    def _receive(self, connection: socket.socket) -> Ending | None:
        """Take in what it says, to its end; None if the connection ends before."""
        rest, answered = b"", None
        while data := connection.recv(CHUNK):
            *lines, rest = (rest + data).split(b"\n")
            with self._changed:
                ending = self._take(lines)
                got = self.found + len(self._arrivals)
                self._changed.notify_all()
            if ending is not None:
                return ending
            if lines and (answered is None or got - answered >= _ANSWER_AFTER):
                answered = got
                with contextlib.suppress(OSError):  # what it said last may still be to be read
                    connection.sendall(got.to_bytes(8, "big"))
        return None

    def _take(self, lines: list[bytes]) -> Ending | None:
        now = time.monotonic()
        for line in lines:
            message: dict[str, Any] = json.loads(line)
            if "found" in message:
                self._found, self._began = message["found"], now
            elif "number" in message:
                self._arrivals.append(now)
                self._longest_pause = max(self._longest_pause, message["pause"])
            elif "stopped" in message:
                return Ending(stopped=True, text="stopped")
            else:
                return Ending(errno=message["errno"], text=message["error"])
        return None


class Records:
    """The records of one test: all their writers, and the region of the volume they are in."""

    def __init__(
        self, *, size: int = 16 << 20, offset: int = 0, record_size: int = RECORD_SIZE
    ) -> None:
        """`size` and `offset` of the region and `record_size` in bytes, of whole disk blocks.

        Choose a region so large that what is written until it is judged fits: what a newer record
        has taken the place of is not seen any more.
        """
        if record_size % 512 or offset % 512 or size // record_size <= 2 * WINDOW:
            raise LabError("records are of whole blocks of 512 bytes, and more than a few")
        self._region = {"size": size, "offset": offset, "record_size": record_size}
        self._run = secrets.token_bytes(RUN_BYTES)
        self.writers: list[Writer] = []

    def start(self, node: Node, path: str, *, interval: float = 0.0, dsync: bool = False) -> Writer:
        """Start a writer that goes on after the last record on this device or file.

        `interval`: seconds between the end of a write and the next. `dsync`: O_DSYNC, which the
        kernel does with FUA where it can, instead of fsync(2) after each write. LabError if it
        does not begin to write.
        """
        writer = Writer(node, len(self.writers) + 1)
        self.writers.append(writer)
        request = self._request(path) | {
            "address": network.HOST_COMMAND_ADDRESS,
            "port": writer.port,
            "epoch": writer.epoch,
            "interval": interval,
            "dsync": dsync,
        }
        log = f"/run/records-{self._run.hex()[:8]}-{writer.epoch}.log"
        writer.begin(node.spawn([*_PROGRAM, "write", json.dumps(request)], log=log))
        return writer

    def journal(self) -> Journal:
        """What is known of all writers now."""
        sessions = [writer.session() for writer in self.writers]
        return tuple(session for session in sessions if session is not None)

    def read(self, node: Node, *paths: str) -> list[list[Found]]:
        """What each place of each device or file holds, read past the page cache."""
        argv = [*_PROGRAM, "read", json.dumps(self._request("") | {"paths": paths})]
        told = node.run(argv, timeout=READ_SECONDS).stdout.decode()
        return [[_found(line) for line in part.splitlines()] for part in told.split("\n\n")[:-1]]

    def check(
        self, node: Node, path: str, before: Journal | None = None, after: Journal | None = None
    ) -> Verdict:
        """Judge what is on this device or file now.

        For a snapshot, `before` is the journal from before it was begun: what was acknowledged then
        has to be there. `after` is that from when it was there, now without: what was written in
        between may be there, and nothing later.
        """
        (places,) = self.read(node, path)
        now = self.journal()
        return judge(places, now if before is None else before, now if after is None else after)

    def longest_silence(self) -> float:
        """The longest time between two acknowledgements, of whichever writers, in seconds.

        By this process's clock: over a failover it is what the application had to wait.
        """
        arrivals = sorted(time for session in self.journal() for time in session.acknowledged)
        return max((b - a for a, b in itertools.pairwise(arrivals)), default=0.0)

    def _request(self, path: str) -> dict[str, Any]:
        return self._region | {"path": path, "run": self._run.hex()}


def _found(line: str) -> Found:
    state, epoch, number, place = line.split()
    return Found(State(state), int(epoch), int(number), int(place))


def hashes(node: Node, path: str) -> list[str]:
    """SHA-256 of each MiB of a device or file, read past the page cache: all of it, its length too.

    Two replicas' snapshots are equal if these are; see `differing`.
    """
    (found,) = all_hashes(node, [path])
    return found


def all_hashes(node: Node, paths: Sequence[str]) -> list[list[str]]:
    """The same of several, one after the other."""
    argv = [*_PROGRAM, "hash", json.dumps({"paths": paths})]
    return [line.split() for line in node.run(argv, timeout=READ_SECONDS).text.splitlines()]


def differing(one: list[str], other: list[str]) -> list[int]:
    """Offsets in bytes of the pieces in which two devices differ; also where only one goes on."""
    common = min(len(one), len(other))
    pieces = [n for n in range(common) if one[n] != other[n]]
    return [n * CHUNK for n in (*pieces, *range(common, max(len(one), len(other))))]
