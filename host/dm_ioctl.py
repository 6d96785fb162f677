"""The ioctls of ``/dev/mapper/control`` (linux/dm-ioctl.h), spoken directly: no fork, no dmsetup.

Kept to built-in modules, and free of dataclasses and typing: the resume guard runs this file in an
interpreter of its own that has to start fast. ``device_mapper.py`` puts the typed face on it.

Two facts shape the buffers. ``fcntl.ioctl`` of Python 3.11 lets other threads run only while the
buffer is at most 1024 bytes (larger ones are not copied, and the interpreter lock is held). And a
call whose answer does not fit is not an error but a flag, and has to be repeated with more room.
"""

from __future__ import annotations

import fcntl
import os
import struct

CONTROL = "/dev/mapper/control"

# Command numbers (enum in dm-ioctl.h).
LIST_DEVICES = 2
DEV_CREATE = 3
DEV_REMOVE = 4
DEV_SUSPEND = 6
DEV_STATUS = 7
TABLE_LOAD = 9
TABLE_CLEAR = 10
TABLE_STATUS = 12

# Flags of the header.
READ_ONLY = 1 << 0
SUSPEND = 1 << 1
STATUS_TABLE = 1 << 4
ACTIVE_PRESENT = 1 << 5
INACTIVE_PRESENT = 1 << 6
BUFFER_FULL = 1 << 8
SKIP_LOCKFS = 1 << 10
NOFLUSH = 1 << 11
QUERY_INACTIVE = 1 << 12

# What udev is told with the event of a change, in the upper half of the cookie (libdevmapper.h,
# DM_UDEV_*): leave the nodes, the subsystem rules, the scan for signatures and all other rules
# alone (1, 2, 4, 8), and (0x40) remember that for the later events of this device that carry no
# cookie. The lower half, which names a semaphore to post, stays 0: nobody waits.
QUIET_UDEV = (0x1 | 0x2 | 0x4 | 0x8 | 0x40) << 16

# version[3], data_size, data_start, target_count, open_count, flags, event_nr, padding, dev,
# name[128], uuid[129], data[7]
_HEADER = struct.Struct("=3I2IIiIIIQ128s129s7x")
# sector_start, length, status, next, target_type[16]
_TARGET = struct.Struct("=QQiI16s")
_NAME_ENTRY = struct.Struct("=QI")
# That of Linux 3.13: the kernel takes none that is newer than its own.
_PROTOCOL = (4, 27, 0)
_SMALL_BUFFER = 1024
_LARGEST_BUFFER = 16 << 20


class Reply:
    """The header that the kernel gave back, and what follows it."""

    __slots__ = (
        "data",
        "device",
        "event_nr",
        "flags",
        "name",
        "open_count",
        "targets",
        "uuid",
    )

    def __init__(self, buffer: bytearray) -> None:
        (
            *_version,
            size,
            start,
            self.targets,
            self.open_count,
            self.flags,
            self.event_nr,
            _padding,
            self.device,
            name,
            uuid,
        ) = _HEADER.unpack_from(buffer)
        self.name: str = _text(name)
        self.uuid: str = _text(uuid)
        self.data: bytes = bytes(buffer[start:size])


def call(
    command: int,
    name: str = "",
    *,
    uuid: str = "",
    flags: int = 0,
    event_nr: int = 0,
    targets: int = 0,
    data: bytes = b"",
) -> Reply:
    """One ioctl, repeated with more room where the answer does not fit.

    Raises OSError as the kernel gives it.
    """
    room = max(_SMALL_BUFFER, _HEADER.size + len(data))
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        while True:
            buffer = bytearray(room)
            encoded = (name.encode("ascii"), uuid.encode("ascii"))
            _HEADER.pack_into(
                buffer,
                0,
                *_PROTOCOL,
                room,
                _HEADER.size,
                targets,
                0,
                flags,
                event_nr,
                0,
                0,
                *encoded,
            )
            buffer[_HEADER.size : _HEADER.size + len(data)] = data
            fcntl.ioctl(control, _request(command), buffer, True)
            reply = Reply(buffer)
            if not reply.flags & BUFFER_FULL:
                return reply
            if room >= _LARGEST_BUFFER:
                raise OSError(105, os.strerror(105), CONTROL)
            room *= 8
    finally:
        os.close(control)


def suspend(name: str, *, lockfs: bool, noflush: bool) -> None:
    """Hold back all I/O of a device; waits for what is under way. A signal that kills interrupts.

    ``lockfs`` first freezes the file system that is mounted on the device.
    """
    flags = SUSPEND | (0 if lockfs else SKIP_LOCKFS) | (NOFLUSH if noflush else 0)
    call(DEV_SUSPEND, name, flags=flags)


def resume(name: str, *, lockfs: bool = True) -> None:
    """Let I/O go on; makes a loaded table the live one, suspending for that by itself."""
    call(DEV_SUSPEND, name, flags=0 if lockfs else SKIP_LOCKFS, event_nr=QUIET_UDEV)


def is_suspended(name: str) -> bool:
    return bool(call(DEV_STATUS, name).flags & SUSPEND)


def names() -> list[str]:
    """All device-mapper devices of the machine."""
    data = call(LIST_DEVICES).data
    found: list[str] = []
    offset = 0
    while offset < len(data):
        device, step = _NAME_ENTRY.unpack_from(data, offset)
        if device == 0:  # how some kernels tell that there is none
            break
        end = data.index(b"\0", offset + _NAME_ENTRY.size)
        found.append(_text(data[offset + _NAME_ENTRY.size : end]))
        if step == 0:
            break
        offset += step
    return found


def pack_targets(targets: list[tuple[int, int, str, str]]) -> bytes:
    """``(first sector, sectors, type, parameters)`` as TABLE_LOAD wants them, 512-byte sectors."""
    packed = b""
    for start, sectors, kind, parameters in targets:
        text = parameters.encode("ascii") + b"\0"
        text += b"\0" * (-len(text) % 8)
        step = _TARGET.size + len(text)
        packed += _TARGET.pack(start, sectors, 0, step, kind.encode("ascii")) + text
    return packed


def unpack_targets(reply: Reply) -> list[tuple[int, int, str, str]]:
    """What TABLE_STATUS answered: the reverse of ``pack_targets``."""
    found = []
    offset = 0
    for _ in range(reply.targets):
        start, sectors, _status, step, kind = _TARGET.unpack_from(reply.data, offset)
        text = reply.data[offset + _TARGET.size :].split(b"\0", 1)[0]
        found.append((start, sectors, _text(kind), text.decode("utf-8", "replace")))
        offset = step  # counted from the start of the data, unlike the one of TABLE_LOAD
    return found


def _request(command: int) -> int:
    return (3 << 30) | (_HEADER.size << 16) | (0xFD << 8) | command  # _IOWR(0xfd, command, …)


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")
