"""What is mounted where: ``/proc/self/mountinfo`` (proc(5)), read without touching any mount.

A node has thousands of mounts: lines are sorted out as bytes, and only those wanted are taken
apart. Looking at a mount point itself (stat) could hang or fail with the device below it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from host.device_mapper import major_minor

_MOUNTINFO = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One line. ``root`` is the part of the file system that is mounted (a bind mount has one)."""

    mount_id: int
    device: str  # major:minor; of btrfs not that of the block device
    root: str
    path: str
    options: frozenset[str]  # of this mount, such as ro
    filesystem: str
    source: str
    super_options: frozenset[str]  # of the file system, shared by all its mounts

    @property
    def read_only(self) -> bool:
        return "ro" in self.options or "ro" in self.super_options


def mounts_at(path: str) -> list[Mount]:
    """All mounts at ``path``, the visible one last. ``path`` as ``canonical`` gives it."""
    wanted = b" " + _escaped(path) + b" "
    return _read(lambda line: wanted in line, lambda mount: mount.path == path)


def mounts_of(device_number: int) -> list[Mount]:
    """All mounts of the file system on this block device."""
    number = major_minor(device_number)
    exact = b" " + number.encode() + b" "

    def same(mount: Mount) -> bool:
        # btrfs shows a number of its own; only the source leads to its device.
        return mount.device == number or (
            mount.filesystem == "btrfs" and _number_of(mount.source) == device_number
        )

    return _read(lambda line: exact in line or b" - btrfs " in line, same)


def mounts_from(prefix: str) -> list[Mount]:
    """All mounts whose source begins so."""
    likely = b" " + _escaped(prefix)
    return _read(lambda line: likely in line, lambda mount: mount.source.startswith(prefix))


def all_mounts() -> list[Mount]:
    """The whole table: for what neither a path nor a device number finds."""
    return _read(lambda line: True, lambda mount: True)


def canonical(path: str) -> str:
    """``path`` as the mount table spells it: symbolic links of its parents resolved, not its own.

    Also for a path that does not exist. Touches no file system below the last component.
    """
    parent, name = os.path.split(os.path.normpath(path))
    return str(Path(os.path.realpath(parent)) / name)


def parse(line: bytes) -> Mount:
    """One line of mountinfo."""
    head, _, tail = line.partition(b" - ")
    number, _parent, device, root, path, options = head.split(b" ")[:6]
    filesystem, source, super_options = tail.split(b" ")[:3]
    return Mount(
        mount_id=int(number),
        device=device.decode(),
        root=_plain(root),
        path=_plain(path),
        options=frozenset(options.decode().split(",")),
        filesystem=filesystem.decode(),
        source=_plain(source),
        super_options=frozenset(_plain(super_options).split(",")),
    )


def _read(likely: Callable[[bytes], bool], wanted: Callable[[Mount], bool]) -> list[Mount]:
    lines = _MOUNTINFO.read_bytes().splitlines()
    return [mount for mount in map(parse, filter(likely, lines)) if wanted(mount)]


def _plain(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))


def _escaped(path: str) -> bytes:
    # fs/proc_namespace.c: space, tab, newline, backslash and (since Linux 5.10) the hash sign.
    raw = os.fsencode(path)
    return re.sub(rb"[ \t\n\\#]", lambda match: b"\\%03o" % match[0][0], raw)


def _number_of(source: str) -> int | None:
    try:
        return Path(source).stat().st_rdev
    except OSError:
        return None
