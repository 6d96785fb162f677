"""Generic netlink to DRBD: sockets and messages, without forking and without a library.

A message is ``nlmsghdr | genlmsghdr | drbd_genlmsghdr | attributes``: netlink(7), the kernel's
``linux/genetlink.h`` and ``linux/drbd_genl.h``. DRBD's own header has 8 bytes: the minor, and
flags in a request or the result in an answer. Version 1 of the family is DRBD 8.4, version 2 is 9.

Of a library only a fraction would be used, and importing that costs a node's process more memory
than it may have.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType

from host.errors import CommandStuck, HostError, Missing, Refused

FAMILY = "drbd"
GROUP = "events"
# Results that mean success (linux/drbd.h): NO_ERROR of enum drbd_ret_code, and those of enum
# drbd_state_rv that are not negative.
_SUCCESS = frozenset({101, 1, 2, 3, 4})

# linux/netlink.h, linux/genetlink.h
_NETLINK_GENERIC = 16
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_ERROR, _DONE, _OVERRUN = 2, 3, 4
_REQUEST, _ACK, _DUMP = 0x001, 0x004, 0x300
_CONTROLLER, _GET_FAMILY = 16, 3
_FAMILY_ID, _FAMILY_NAME, _FAMILY_VERSION, _GROUPS = 1, 2, 3, 7
_GROUP_NAME, _GROUP_ID = 1, 2
# Nesting and byte order; DRBD 8.4 uses the latter's bit for one of its own.
_TYPE_MASK = 0x3FFF
_NESTED = 0x8000

_HEADER = struct.Struct("=IHHII")
_GENERIC = struct.Struct("=BBH")
_OWN = struct.Struct("=Ii")
_ATTRIBUTE = struct.Struct("=HH")
_I32 = struct.Struct("=i")
# A dump's messages come in pieces of at most 32 KiB (netlink_dump in af_netlink.c).
_DATAGRAM = 64 << 10
_ANSWER_SECONDS = 10.0
# Events are numbered by the module, from 1: not to be taken for answers.
_FIRST_SEQUENCE = 1 << 30

Attributes = Mapping[int, bytes]
"""The payloads of one nest by their number. DRBD never repeats a number in a nest."""


class EventsLost(HostError):
    """The kernel dropped events because the reader was too slow: look at everything anew."""


@dataclass(frozen=True)
class Message:
    """One message of the DRBD family. ``result`` is what drbd.h calls ``ret_code``."""

    command: int
    sequence: int
    minor: int
    result: int
    attributes: Attributes


class Connection:
    """A netlink socket to the DRBD module. Not thread safe.

    Raises ``Missing`` where the module is not loaded. ``receive_buffer``: bytes, for events.
    """

    def __init__(self, *, receive_buffer: int | None = None) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_GENERIC)
        self._sequence = itertools.count(_FIRST_SEQUENCE)
        try:
            if receive_buffer is not None:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self._socket.bind((0, 0))
            self._socket.settimeout(_ANSWER_SECONDS)
            self._find_family()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def subscribe(self) -> None:
        """Have the module's events sent to this socket from now on."""
        self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, self._group)

    def dump(self, command: int, payload: bytes = b"") -> list[Message]:
        """All answers to a dump. ``Missing`` where there is nothing of what ``payload`` names."""
        body = _OWN.pack(0xFFFFFFFF, 0) + payload
        sequence = self._send(self._family, command, _DUMP, body)
        messages: list[Message] = []
        for kind, number, body in self._answers(sequence):
            if kind == _DONE and number == sequence:
                # A dump that failed ends like any other, but for the error number.
                _require_success(_I32.unpack_from(body)[0] if len(body) >= _I32.size else 0)
                return messages
            if kind == self._family and number == sequence:
                messages.append(_message(number, body))
        raise AssertionError("unreachable: the answers end with the dump or an error")

    def request(self, command: int, payload: bytes, *, minor: int = 0xFFFFFFFF) -> int:
        """Carry out an administrative command; returns the module's result (``ret_code``)."""
        body = _OWN.pack(minor, 0) + payload
        sequence = self._send(self._family, command, 0, body)
        for kind, number, answer in self._answers(sequence):
            if kind == self._family and number == sequence:
                return _message(number, answer).result
        raise AssertionError("unreachable: the answers end with an answer or an error")

    def receive(self, seconds: float | None) -> list[Message]:
        """The next events, at most ``seconds`` later; empty when there were none.

        Raises ``EventsLost``.
        """
        self._socket.settimeout(seconds)
        try:
            datagram = self._receive()
        except (TimeoutError, BlockingIOError):
            return []
        finally:
            self._socket.settimeout(_ANSWER_SECONDS)
        return [
            _message(number, body)
            for kind, number, body in _split(datagram)
            if kind == self._family
        ]

    def _find_family(self) -> None:
        name = attribute(_FAMILY_NAME, FAMILY.encode() + b"\0")
        sequence = self._send(_CONTROLLER, _GET_FAMILY, 0, name, version=1)
        try:
            body = next(b for kind, _, b in self._answers(sequence) if kind == _CONTROLLER)
        except Refused as error:
            raise Missing(
                "the kernel module drbd is not loaded: load it (modprobe drbd), or install a "
                "kernel that has it"
            ) from error
        found = unpack(body[_GENERIC.size :])
        self._family = u16(found[_FAMILY_ID])
        self.version = u32(found[_FAMILY_VERSION])
        groups = (unpack(group) for group in unpack(found.get(_GROUPS, b"")).values())
        self._group = next(
            (u32(group[_GROUP_ID]) for group in groups if text(group[_GROUP_NAME]) == GROUP), 0
        )

    def _send(self, kind: int, command: int, flags: int, body: bytes, version: int = 0) -> int:
        sequence = next(self._sequence)
        generic = _GENERIC.pack(command, version or self.version, 0)
        length = _HEADER.size + len(generic) + len(body)
        header = _HEADER.pack(length, kind, _REQUEST | flags, sequence, 0)
        self._socket.sendto(header + generic + body, (0, 0))
        return sequence

    def _answers(self, sequence: int) -> Iterator[tuple[int, int, bytes]]:
        """Everything up to the end of the answer; an error that the kernel reports is raised."""
        while True:
            try:
                datagram = self._receive()
            except TimeoutError as error:
                raise CommandStuck(
                    f"the module drbd did not answer within {_ANSWER_SECONDS:g} s"
                ) from error
            for kind, number, body in _split(datagram):
                if kind == _ERROR and number == sequence:
                    _require_success(_I32.unpack_from(body)[0])
                yield kind, number, body

    def _receive(self) -> bytes:
        try:
            datagram, _, flags, _ = self._socket.recvmsg(_DATAGRAM)
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                raise EventsLost("events of the module drbd were lost: too slow a reader") from None
            raise
        if flags & socket.MSG_TRUNC:
            raise EventsLost(f"an event of the module drbd was longer than {_DATAGRAM} bytes")
        return datagram


def attribute(number: int, payload: bytes) -> bytes:
    """One attribute, padded to 4 bytes."""
    length = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(length, number) + payload + bytes(-length % 4)


def nest(number: int, *attributes: bytes) -> bytes:
    """An attribute that holds others."""
    return attribute(number | _NESTED, b"".join(attributes))


def unpack(data: bytes) -> dict[int, bytes]:
    """The attributes of one nest. What is cut off is left out."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size or offset + length > len(data):
            break
        found[kind & _TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


def unpack_datagram(datagram: bytes) -> list[Message]:
    """The messages of the DRBD family (any type above the reserved ones) in a datagram."""
    return [_message(number, body) for kind, number, body in _split(datagram) if kind > _CONTROLLER]


def carry_out(requests: str) -> None:
    """Send requests, a JSON list, one after the other: what the child of ``connecting`` does.

    Ends the process with the module's result in its last words, in the form of drbdsetup.
    """
    with Connection() as connection:
        for one in json.loads(requests):
            result = connection.request(one["command"], bytes.fromhex(one["payload"]))
            if result not in _SUCCESS and result not in one["settled"]:
                sys.exit(f"connect: Failure: ({result})")


def pack_u32(value: int) -> bytes:
    return struct.pack("=I", value)


def u16(data: bytes) -> int:
    return int.from_bytes(data[:2], "little" if _LITTLE else "big")


def u32(data: bytes) -> int:
    return int.from_bytes(data[:4], "little" if _LITTLE else "big")


def u64(data: bytes) -> int:
    return int.from_bytes(data[:8], "little" if _LITTLE else "big")


def text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "replace")


_LITTLE = struct.pack("=H", 1) == b"\1\0"


def _split(datagram: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(type, sequence number, body) of each netlink message."""
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, _, number, _ = _HEADER.unpack_from(datagram, offset)
        if length < _HEADER.size:
            break
        if kind == _OVERRUN:
            raise EventsLost("events of the module drbd were lost")
        yield kind, number, datagram[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _require_success(result: int) -> None:
    """``result``: 0, or a negative error number."""
    if result == -errno.ENODEV:
        raise Missing("the module drbd has nothing of that name")
    if result:
        raise Refused(f"the module drbd refused the request: {os.strerror(-result)}")


def _message(sequence: int, body: bytes) -> Message:
    command, _, _ = _GENERIC.unpack_from(body)
    minor, result = 0xFFFFFFFF, 0
    with contextlib.suppress(struct.error):
        minor, result = _OWN.unpack_from(body, _GENERIC.size)
    attributes = unpack(body[_GENERIC.size + _OWN.size :])
    return Message(command, sequence, minor, result, attributes)
