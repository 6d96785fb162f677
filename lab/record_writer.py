"""Writes numbered records to a volume in a lab node, or reads them: a program for the node.

    python3 -S -m lab.record_writer write REQUEST
    python3 -S -m lab.record_writer read REQUEST
    python3 -S -m lab.record_writer hash REQUEST

REQUEST is JSON; `lab.records` is the other side. All I/O goes past the page cache.

`write` connects to the host, looks for the last record of the run, says what it found ({"found"})
and waits for the answer. From there it writes on: one record, made durable, one line to the host
({"number", "pause"}), the next. The host answers now and then with the number that it got, 8 bytes,
big endian. No record is written that is more than WINDOW beyond them, so that the host knows which
may be there unacknowledged. It ends at the host's word, at the end of the connection, or
at the first error, which it tells.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import socket
import sys
import time
from contextlib import closing
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from lab.record_format import Found, State, pack, parse, place_of

if TYPE_CHECKING:
    from collections.abc import Iterator

WINDOW = 16
"""So many lines may be under way to the host when a record is written."""

STOP = (1 << 64) - 1
"""The number that the host sends, instead of that of a record that it got, to end the writer."""

CHUNK = 1 << 20
_NUMBER_BYTES = 8
_ZEROS = bytes(CHUNK)
_OF_ZEROS = sha256(_ZEROS).hexdigest()


class Region:
    """The ring, open for direct I/O."""

    def __init__(self, request: dict[str, Any], flags: int) -> None:
        self.size: int = request["size"]
        self.record_size: int = request["record_size"]
        self.places = self.size // self.record_size
        self._offset: int = request["offset"]
        self._run = bytes.fromhex(request["run"])
        self._fsync = not flags & os.O_DSYNC
        self._fd = os.open(request["path"], flags | os.O_DIRECT | os.O_CLOEXEC, 0o600)
        self._buffer = mmap.mmap(-1, self.record_size)  # direct I/O wants whole pages

    def close(self) -> None:
        os.close(self._fd)
        self._buffer.close()

    def read(self) -> Iterator[Found]:
        """What each place holds; blank where a file ends early."""
        whole = CHUNK // self.record_size * self.record_size
        for piece in read_directly(self._fd, self._offset, self.places * self.record_size, whole):
            for at in range(0, len(piece), self.record_size):
                yield parse(piece[at : at + self.record_size], self._run)

    def last(self) -> int:
        """The highest number of a whole record, 0 if there is none."""
        whole = (found for found in self.read() if found.state is State.RECORD)
        return max((found.number for found in whole), default=0)

    def write(self, epoch: int, number: int) -> None:
        """Write one record and make it durable; OSError says that it may be there or not."""
        place = place_of(number, self.places)
        self._buffer[:] = pack(self._run, epoch, number, place, self.record_size)
        with memoryview(self._buffer) as view:
            written = os.pwrite(self._fd, view, self._offset + place * self.record_size)
        if written != self.record_size:
            raise OSError(f"only {written} bytes were written")
        if self._fsync:
            os.fsync(self._fd)


class Host:
    """The connection to the host."""

    def __init__(self, address: str, port: int) -> None:
        self._socket = socket.create_connection((address, port), 10.0)
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        self.stopping = False
        self.received = 0

    def tell(self, **message: Any) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def end(self, **message: Any) -> None:
        """Tell the last, and wait until the host has it: it hangs up then."""
        self.tell(**message)
        self._socket.shutdown(socket.SHUT_WR)
        while self._socket.recv(CHUNK):
            pass

    def look(self, wait: bool) -> None:
        """Take in what the host has said; `wait` for something if there is nothing."""
        try:
            data = self._socket.recv(CHUNK, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionResetError("the host hung up")
        data = self._rest + data
        whole = len(data) // _NUMBER_BYTES * _NUMBER_BYTES
        self._rest = data[whole:]
        for at in range(0, whole, _NUMBER_BYTES):
            number = int.from_bytes(data[at : at + _NUMBER_BYTES], "big")
            if number == STOP:
                self.stopping = True
            else:
                self.received = number


def read_directly(fd: int, offset: int, size: int, piece: int = CHUNK) -> Iterator[memoryview]:
    """Pieces of what is there, past the page cache; zeros behind the end of a file.

    All in one place: each is there until the next is taken.
    """
    with closing(mmap.mmap(-1, piece)) as buffer, memoryview(buffer) as view:
        for start in range(offset, offset + size, piece):
            with view[: min(piece, offset + size - start)] as part:
                got = os.preadv(fd, [part], start)
                part[got:] = bytes(len(part) - got)
                yield part


def write(request: dict[str, Any]) -> int:
    flags = os.O_RDWR | (os.O_DSYNC if request["dsync"] else 0)
    if not request["path"].startswith("/dev/"):
        flags |= os.O_CREAT
    host = Host(request["address"], request["port"])
    try:
        with closing(Region(request, flags)) as region:
            found = region.last()
            host.tell(found=found)
            host.look(wait=True)  # it knows of this writer before there is anything to find
            write_on(region, host, request, found + 1)
    except ConnectionError:
        return 1  # nobody is there to be told
    except OSError as error:
        host.end(errno=error.errno or errno.EIO, error=f"{type(error).__name__}: {error}")
        return 2
    host.end(stopped=True)
    return 0


def write_on(region: Region, host: Host, request: dict[str, Any], number: int) -> None:
    """Write records from this number on until the host ends it.

    What it tells as `pause` is the time since the record before was durable, without what was
    spent waiting for the host, and without the wanted interval.
    """
    epoch, interval = request["epoch"], request["interval"]
    began = time.monotonic()
    while not host.stopping:
        region.write(epoch, number)
        done = time.monotonic()
        host.tell(number=number, pause=round(done - began, 6))
        if interval:
            time.sleep(interval)
        began = done + interval
        host.look(wait=False)
        while number - host.received >= WINDOW and not host.stopping:
            waiting = time.monotonic()
            host.look(wait=True)
            began += time.monotonic() - waiting
        number += 1


def read(request: dict[str, Any]) -> int:
    """Print what each place holds: state, epoch, number and place in its head.

    Of each path, with an empty line behind it.
    """
    for path in request["paths"]:
        with closing(Region(request | {"path": path}, os.O_RDONLY)) as region:
            for found in region.read():
                print(found.state.value, found.epoch, found.number, found.place)
        print()
    return 0


def _hash(part: memoryview) -> str:
    piece = bytes(part)  # which is compared faster
    # Most of a volume is nothing but zeros, and to compare is much faster than to hash.
    return _OF_ZEROS if piece == _ZEROS else sha256(piece).hexdigest()


def hash_pieces(request: dict[str, Any]) -> int:
    """Print the SHA-256 of each piece of CHUNK bytes of devices or files, a line for each path."""
    for path in request["paths"]:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        size = os.lseek(fd, 0, os.SEEK_END)
        print(*(_hash(piece) for piece in read_directly(fd, 0, size)))
        os.close(fd)
    return 0


if __name__ == "__main__":
    commands = {"write": write, "read": read, "hash": hash_pieces}
    sys.exit(commands[sys.argv[1]](json.loads(sys.argv[2])))
