"""Mounting and unmounting. All of it can be repeated: what is there already is left as it is.

What waits for a device (mounting and unmounting a file system, its statistics) runs in a child
under a deadline. A bind mount waits for none and is made here, in one step: with the calls of Linux
5.12 (open_tree, mount_setattr, move_mount) it is read-only before it is anywhere.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from host.device_mapper import device_number
from host.errors import (
    CommandFailed,
    DeviceFailed,
    HostError,
    InUse,
    Missing,
    NotBlank,
    Refused,
)
from host.mount_options import parse_mount_options
from host.mount_table import Mount, canonical, mounts_at, mounts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from host.command import Runner

__all__ = [
    "Mount",
    "Usage",
    "bind",
    "canonical",
    "make_directory",
    "make_file",
    "mount_device",
    "mounts_at",
    "mounts_of",
    "parse_mount_options",
    "remove_target",
    "sync",
    "unmount",
    "usage",
]

# A mount replays the journal.
_MOUNT_DEADLINE = 300.0
_UNMOUNT_DEADLINE = 300.0
_STATISTICS_DEADLINE = 10.0
_MOST_STACKED = 16

# System calls that have the same number everywhere (asm-generic/unistd.h), and their arguments
# (linux/mount.h, linux/fcntl.h).
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _MOUNT_SETATTR = 428, 429, 430, 431, 442
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOUNT_ATTR_RDONLY = 1
_FSOPEN_CLOEXEC = 1
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING = 0, 1
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttributes(ctypes.Structure):
    """struct mount_attr of mount_setattr(2)."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


@dataclass(frozen=True)
class Usage:
    """Of a mounted file system. ``available_bytes`` is what an ordinary user can still write.

    ``inodes`` is 0 where a file system makes them as needed (btrfs).
    """

    total_bytes: int
    used_bytes: int
    available_bytes: int
    inodes: int
    inodes_used: int
    inodes_free: int


def mount_device(
    runner: Runner,
    device: str,
    path: str,
    filesystem: str,
    options: Sequence[str] = (),
    *,
    read_only: bool = False,
) -> None:
    """Mount the file system on ``device`` at the directory ``path``.

    Raises ``InUse`` where something else is mounted there, or the device is taken; ``Refused`` with
    the kernel's words for options that it does not know (``ValueError`` for those that are not for
    a volume); ``DeviceFailed`` where the file system cannot be read; ``CommandStuck``.
    """
    number = device_number(device)
    path = canonical(path)
    wanted = parse_mount_options(options)
    present = mounts_at(path)
    if present:
        if present[-1] not in mounts_of(number):
            raise InUse(f"{path} is a mount point of {present[-1].source}")
        if present[-1].read_only != read_only:
            raise InUse(f"{path} is mounted {'read-only' if not read_only else 'writable'} already")
        return
    _require_known_options(filesystem, wanted)
    together = ",".join(["ro" if read_only else "rw", *wanted])
    argv = ["mount", "-n", "-i", "-c", "-t", filesystem, "-o", together, "--", device, path]
    try:
        runner.run(argv, deadline=_MOUNT_DEADLINE, resource=device)
    except CommandFailed as error:
        # Where the kernel could not be asked about the options, they are as suspect as the device.
        suspect = Refused if wanted and filesystem == "btrfs" else DeviceFailed
        raise _mount_error(device, path, error, suspect) from error


def bind(source: str, path: str, *, read_only: bool = False) -> None:
    """Show the mounted directory ``source``, or the device node, at ``path``, of the same kind.

    Read-only here says nothing about the device behind a node. Raises ``InUse`` where something
    else is mounted at ``path`` or its being read-only differs, ``Missing`` where either is not
    there, ``Refused`` before Linux 5.12, and where nothing is mounted at ``source``: a pod would
    write to the disk of the node.
    """
    path = canonical(path)
    present = mounts_at(path)
    if present:
        if not _shows(source, path) or ("ro" in present[-1].options) != read_only:
            raise InUse(f"{path} is a mount point of {present[-1].source} already")
        return
    if not Path(source).exists():
        raise Missing(f"there is no {source}")
    if not Path(source).is_block_device() and not mounts_at(canonical(source)):
        raise Refused(f"nothing is mounted at {source}")
    tree = _syscall(
        f"take {source}",
        _OPEN_TREE,
        _AT_FDCWD,
        os.fsencode(source),
        _OPEN_TREE_CLONE | os.O_CLOEXEC,
    )
    try:
        if read_only:
            attributes = _MountAttributes(attr_set=_MOUNT_ATTR_RDONLY)
            size = ctypes.c_size_t(ctypes.sizeof(attributes))
            pointer = ctypes.byref(attributes)
            _syscall(
                f"set {source} read-only", _MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, pointer, size
            )
        _syscall(
            f"mount {source} at {path}",
            _MOVE_MOUNT,
            tree,
            b"",
            _AT_FDCWD,
            os.fsencode(path),
            _MOVE_MOUNT_F_EMPTY_PATH,
        )
    finally:
        os.close(tree)


def unmount(
    runner: Runner,
    path: str,
    *,
    resource: str | None = None,
    lazy: bool = False,
    deadline: float = _UNMOUNT_DEADLINE,
) -> None:
    """Unmount all that is mounted at ``path``; nothing to do where nothing is, or no such path.

    ``lazy`` takes it out of sight at once and leaves the rest to its last user. ``resource`` names
    the device for the sake of ``deadline``, in seconds for each mount. Raises ``InUse`` while files
    are open, ``CommandStuck``.
    """
    path = canonical(path)
    argv = ["umount", "-n", "-i", "-c", *(["-l"] if lazy else []), "--", path]
    for _ in range(_MOST_STACKED):
        if not mounts_at(path):
            return
        try:
            runner.run(argv, deadline=deadline, resource=resource)
        except CommandFailed as error:
            if not mounts_at(path):
                return
            if "busy" in error.stderr:
                raise InUse(f"{path} is in use, it cannot be unmounted") from error
            raise
    if mounts_at(path):
        raise HostError(f"{path} is still mounted after {_MOST_STACKED} times of unmounting it")


def make_directory(path: str, *, mode: int = 0o750) -> None:
    """The directory to mount on, made if it is not there. ``Refused`` where another kind is."""
    if mounts_at(canonical(path)):
        return
    try:
        Path(path).mkdir(mode)
    except FileExistsError:
        _require_kind(path, stat.S_ISDIR, "directory")
    except FileNotFoundError as error:
        raise Missing(f"the directory above {path} is not there") from error


def make_file(path: str) -> None:
    """The empty file to mount a device node on, if it is not there. ``Refused`` as above."""
    if mounts_at(canonical(path)):
        return
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o640))
    except FileExistsError:
        _require_kind(path, stat.S_ISREG, "file")
    except FileNotFoundError as error:
        raise Missing(f"the directory above {path} is not there") from error


def remove_target(path: str) -> None:
    """Remove the empty directory or file that was mounted on; nothing to do where it is gone.

    Raises ``NotBlank`` for one that holds anything (nothing is deleted then), ``InUse`` where
    something is mounted.
    """
    if mounts_at(canonical(path)):
        raise InUse(f"{path} is still mounted")
    try:
        found = Path(path).lstat()
        if stat.S_ISDIR(found.st_mode):
            Path(path).rmdir()
        elif stat.S_ISREG(found.st_mode) and found.st_size == 0:
            Path(path).unlink()
        else:
            raise NotBlank(f"{path} is not an empty file or directory, it stays")
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise NotBlank(f"the directory {path} is not empty, it stays") from error
        if error.errno == errno.EBUSY:
            raise InUse(f"{path} is mounted elsewhere") from error
        raise Refused(f"cannot remove {path}: {error.strerror}") from error


def usage(runner: Runner, path: str, *, resource: str | None = None) -> Usage:
    """Statistics of the file system mounted at ``path``. ``Missing``, ``DeviceFailed``."""
    if not Path(canonical(path)).parent.exists() or not mounts_at(canonical(path)):
        raise Missing(f"nothing is mounted at {path}")
    argv = ["stat", "-f", "-c", "%S %b %f %a %c %d", "--", path]
    try:
        result = runner.run(argv, deadline=_STATISTICS_DEADLINE, resource=resource)
    except CommandFailed as error:
        raise DeviceFailed(f"no statistics of {path}: {error.stderr.strip()[-300:]}") from error
    block, total, free, available, inodes, inodes_free = map(int, result.stdout.split())
    return Usage(
        total_bytes=total * block,
        used_bytes=(total - free) * block,
        available_bytes=available * block,
        inodes=inodes,
        inodes_used=inodes - inodes_free,
        inodes_free=inodes_free,
    )


def sync(runner: Runner, path: str, *, deadline: float, resource: str | None = None) -> None:
    """Write out what the file system at ``path`` holds back: little is left for a freeze to do."""
    runner.run(["sync", "-f", "--", path], deadline=deadline, resource=resource)


def _require_known_options(filesystem: str, options: Sequence[str]) -> None:
    """Ask the kernel about each option without a device: fsopen(2), fsconfig(2).

    What mount(8) says of an unknown one is said of a damaged file system too. btrfs takes anything
    here (Linux 6.1) and complains later; so do security modules.
    """
    context = _syscall(f"ask for {filesystem}", _FSOPEN, filesystem.encode(), _FSOPEN_CLOEXEC)
    try:
        for option in options:
            key, equals, value = option.partition("=")
            if _BY_THE_VFS.fullmatch(option) or key.endswith("context"):
                continue
            kind = _FSCONFIG_SET_STRING if equals else _FSCONFIG_SET_FLAG
            text = value.encode() if equals else None
            if _libc.syscall(_FSCONFIG, context, kind, key.encode(), text, 0) != 0:
                number = ctypes.get_errno()
                said = _messages(context) or os.strerror(number)
                raise Refused(f"{filesystem} refuses the mount option {option[:64]!r}: {said}")
    finally:
        os.close(context)


# Options that mount(8) turns into flags of the mount or the superblock; file systems know few.
_BY_THE_VFS = re.compile(
    "(no)?(mand|lazytime|iversion|atime|diratime|relatime|strictatime|dev|exec|suid|symfollow)"
    "|sync|async|dirsync|silent|loud"
)


def _messages(context: int) -> str:
    """What the kernel has to say about a configuration: lines with a letter in front."""
    lines = []
    while True:
        try:
            lines.append(os.read(context, 1024).decode("utf-8", "replace").strip())
        except OSError:  # ENODATA: no more
            return "; ".join(line.partition(" ")[2] for line in lines)


def _mount_error(
    device: str, path: str, error: CommandFailed, suspect: type[HostError]
) -> HostError:
    said = error.stderr.strip()[-600:]
    text = f"cannot mount {device} at {path}: {said}"
    if "busy" in said or "File exists" in said:
        return InUse(text)
    if "does not exist" in said:
        return Missing(text)
    if "bad option" in said:
        return suspect(text)
    if "superblock" in said or "Structure needs cleaning" in said or "Input/output" in said:
        return DeviceFailed(text)
    return Refused(text)


def _shows(source: str, path: str) -> bool:
    """Whether ``path`` is ``source``; an error of either counts as no."""
    try:
        return os.path.samestat(os.stat(source), os.stat(path))  # noqa: PTH116
    except OSError:
        return False


def _require_kind(path: str, is_kind: Callable[[int], bool], name: str) -> None:
    if not is_kind(Path(path).lstat().st_mode):
        raise Refused(f"{path} is there and is not a {name}")


def _syscall(what: str, number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result >= 0:
        return result
    code = ctypes.get_errno()
    text = f"cannot {what}: {os.strerror(code)}"
    if code == errno.ENOSYS:
        raise Refused(f"{text}: Linux 5.12 or later is needed")
    if code in (errno.ENOENT, errno.ENODEV):
        raise Missing(text)
    if code == errno.EBUSY:
        raise InUse(text)
    raise Refused(text)
