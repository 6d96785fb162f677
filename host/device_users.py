"""Who uses a block device, or a file system on it, without touching any file system.

All comes from /proc. A look at a file (stat, open) could wait for the very device: only nodes on
devtmpfs and tmpfs are looked at. Two looks can wait all the same, for an address space whose owner
waits for a disk (``maps``), and for files that no mount table shows: they are made by a thread that
is given up when it hangs. Whom that leaves unknown is said.

The numbers of mounts are unique over all namespaces, and so is what a process has open looked up in
the tables of all. The tables show a pod's mounts only where this process sees the host's processes.
"""

from __future__ import annotations

import os
import queue
import re
import stat
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from host.mount_table import Mount, parse
from host.processes import PROC, Process, Stat, is_doomed, processes, threads

# File systems that answer from memory, whatever becomes of a disk, and hold device nodes.
_OF_NODES = ("devtmpfs", "tmpfs", "ramfs")
_HANGING_SECONDS = 2.0
# shmem's own: no table shows its mount.
_NO_FILES = ("/memfd:", "/SYSV", "/dev/zero (deleted)", "/[aio]", "/i915", "/drm mm object")
_GROUP = re.compile(rb"(?:shared|master|propagate_from):(\d+)")
_GONE = (FileNotFoundError, ProcessLookupError, NotADirectoryError)


@dataclass(frozen=True)
class Stack:
    """Block devices that lie upon each other: their numbers, and their names in ``/dev/mapper``."""

    numbers: frozenset[int]
    names: frozenset[str]

    def shown_by(self, mount: Mount) -> bool:
        """Whether it is a mount of a file system on one of them, or of a node of one."""
        if mount.filesystem in _OF_NODES:
            return mount.root.removesuffix("//deleted") in self._nodes
        # btrfs has a number of its own; the source is the kernel's word, and is not looked at.
        sources = {f"/dev{node}" for node in self._nodes}
        return mount.device in self.texts or mount.source in sources

    @property
    def texts(self) -> frozenset[str]:
        return frozenset(f"{os.major(n)}:{os.minor(n)}" for n in self.numbers)

    @property
    def _nodes(self) -> frozenset[str]:
        kernel_names = {f"/dm-{os.minor(number)}" for number in self.numbers}
        return frozenset(kernel_names | {f"/mapper/{name}" for name in self.names})


@dataclass(frozen=True)
class DeviceUser:
    process: Process
    how: str  # in words
    doomed: bool  # killed already: it hears of nothing any more


@dataclass(frozen=True)
class Found:
    """``unclear``: processes of which could not be told whether they use the device."""

    users: tuple[DeviceUser, ...] = ()
    unclear: tuple[Process, ...] = ()

    @property
    def living(self) -> tuple[Process, ...]:
        return tuple(user.process for user in self.users if not user.doomed)


@dataclass(frozen=True)
class TableLine:
    """A line of a mount table. ``groups``: the peer groups that it shares, or is a slave of."""

    mount: Mount
    parent: int
    groups: frozenset[int]


def parse_table(text: bytes) -> list[TableLine]:
    """``/proc/PID/mountinfo``, with the fields that a namespace's propagation follows from."""
    lines = []
    for line in text.splitlines():
        head, _, _ = line.partition(b" - ")
        fields = head.split(b" ")
        groups = frozenset(int(found[1]) for found in map(_GROUP.fullmatch, fields[6:]) if found)
        lines.append(TableLine(parse(line), int(fields[1]), groups))
    return lines


def mount_number(fdinfo: bytes) -> int:
    """``mnt_id`` of ``/proc/PID/fdinfo/N``; 0 where it is not there."""
    for line in fdinfo.splitlines():
        if line.startswith(b"mnt_id:"):
            return int(line.split()[1])
    return 0


def mapped_files(maps: bytes) -> Iterator[tuple[str, str]]:
    """(addresses as ``map_files`` has them, major:minor) of all files in ``/proc/PID/maps``."""
    for line in maps.splitlines():
        addresses, _, _, device, inode, *_ = line.split(None, 5)
        if inode != b"0":
            begin, end = (int(number, 16) for number in addresses.split(b"-"))
            major, minor = (int(number, 16) for number in device.split(b":"))
            yield f"{begin:x}-{end:x}", f"{major}:{minor}"


def holding(table: Iterable[TableLine], path: str) -> TableLine | None:
    """The mount that ``path`` is in; of several at one place the last covers the others."""
    best: TableLine | None = None
    for line in table:
        at = line.mount.path
        inside = at == "/" or path == at or path.startswith(at + "/")
        if inside and (best is None or len(at) >= len(best.mount.path)):
            best = line
    return best


@dataclass
class _Tables:
    """The mount tables of all namespaces, as far as they matter for one stack."""

    by_view: dict[tuple[str, str], list[TableLine]] = field(default_factory=dict)
    ours: dict[int, TableLine] = field(default_factory=dict)  # mounts of the stack, by number
    nodes: set[int] = field(default_factory=set)  # mounts that may hold device nodes
    known: set[int] = field(default_factory=set)
    file_devices: set[str] = field(default_factory=set)  # major:minor that files of ours show
    node_devices: set[str] = field(default_factory=set)

    def add(self, view: tuple[str, str], table: list[TableLine], stack: Stack) -> None:
        self.by_view[view] = table
        for line in table:
            mount = line.mount
            self.known.add(mount.mount_id)
            if mount.filesystem in _OF_NODES:
                self.nodes.add(mount.mount_id)
                self.node_devices.add(mount.device)
            if stack.shown_by(mount):
                self.ours[mount.mount_id] = line
                if mount.filesystem not in _OF_NODES:
                    self.file_devices.add(mount.device)

    def groups_of_parents(self, namespaces: set[str]) -> set[int]:
        """Where an unmount in these namespaces is passed on to."""
        return {
            group
            for (space, _), table in self.by_view.items()
            if space in namespaces
            for line in self.lines_of_parents(table)
            for group in line.groups
        }

    def lines_of_parents(self, table: list[TableLine]) -> list[TableLine]:
        parents = {line.parent for line in table if line.mount.mount_id in self.ours}
        return [line for line in table if line.mount.mount_id in parents]

    def keeps_mounted(self, table: list[TableLine], passed_on: set[int]) -> bool:
        """Whether it has a mount of ours that stays when ours are unmounted."""
        numbers = {line.mount.mount_id: line for line in table}
        for line in table:
            if line.mount.mount_id in self.ours:
                parent = numbers.get(line.parent)
                if parent is None or not parent.groups & passed_on:
                    return True
        return False


@dataclass
class _Task:
    """A process, or a thread of one whose first thread has ended."""

    process: Process
    folder: Path
    view: tuple[str, str]  # its mount namespace, and its root
    doubtful: list[Path] = field(default_factory=list)  # open files of mounts in no table


class UserFinder:
    """Keeps nothing but which processes cannot be looked at. ``proc``: for tests."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._hanging: dict[Process, threading.Thread] = {}

    def find(self, stack: Stack) -> Found:
        """All users of the stack but this process.

        A process of another mount namespace is one also when it has nothing open, unless its mount
        goes with those of this namespace and of that of process 1.
        """
        tables = _Tables()
        tasks = [task for stat in processes(self._proc) for task in self._tasks(stat)]
        tasks = [task for task in tasks if self._read_table(task, tables, stack)]
        home = {self._link(self._proc / name / "ns/mnt") for name in ("self", "1")} - {""}
        passed_on = tables.groups_of_parents(home)
        found: dict[Process, str] = {}
        for task in tasks:
            how = self._how(task, tables, stack)
            if not how and task.view[0] not in home:
                kept = tables.keeps_mounted(tables.by_view[task.view], passed_on)
                how = "has it mounted in a namespace of its own" if kept else ""
            if how:
                found.setdefault(task.process, how)
        rest = deque(task for task in tasks if task.process not in found)
        unclear = self._look_carefully(rest, found, tables, stack)
        users = tuple(
            DeviceUser(process, how, is_doomed(process, self._proc))
            for process, how in found.items()
        )
        return Found(users, tuple(unclear))

    def _tasks(self, stat: Stat) -> list[_Task]:
        process = stat.process
        if stat.kernel_thread or process.pid == os.getpid():
            return []
        folder = self._proc / str(process.pid)
        if not stat.exiting:
            folders = [folder]
        else:  # its open files are shown by those of its threads that have not ended
            folders = [folder / "task" / str(one) for one in threads(process.pid, self._proc)]
        views = [(self._link(one / "ns/mnt"), self._link(one / "root")) for one in folders]
        return [
            _Task(process, one, view) for one, view in zip(folders, views, strict=True) if view[0]
        ]

    def _read_table(self, task: _Task, tables: _Tables, stack: Stack) -> bool:
        if task.view in tables.by_view:
            return True
        try:
            text = (task.folder / "mountinfo").read_bytes()
        except (*_GONE, OSError):  # EINVAL: it has just given its namespace back
            return False
        tables.add(task.view, parse_table(text), stack)
        return True

    def _how(self, task: _Task, tables: _Tables, stack: Stack) -> str:
        """In which way a task uses the stack; empty where it does not, as far as is seen here."""
        try:
            names = os.listdir(task.folder / "fd")  # noqa: PTH208
        except _GONE:
            return ""
        for name in names:
            if how := self._how_open(task, name, tables, stack):
                return how
        for what in ("cwd", "root"):
            line = self._place(task, self._link(task.folder / what), tables)
            if line is not None and line.mount.mount_id in tables.ours:
                return f"has its {what} in it"
        return ""

    def _how_open(self, task: _Task, name: str, tables: _Tables, stack: Stack) -> str:
        try:
            number = mount_number((task.folder / "fdinfo" / name).read_bytes())
        except _GONE:
            return ""
        path = task.folder / "fd" / name
        if number in tables.nodes:
            return "has the device open" if _is_node(path, stack) else ""
        if number in tables.ours:
            return "has a file open"
        if number not in tables.known:
            link = self._link(path)
            if link.startswith("/") and not link.startswith(_NO_FILES):
                task.doubtful.append(path)
        return ""

    def _place(self, task: _Task, path: str, tables: _Tables) -> TableLine | None:
        """The mount of a link of /proc, which is told from this process's root."""
        namespace, root = task.view
        table = tables.by_view[task.view]
        if root in ("", "/") or not (path == root or path.startswith(root + "/")):
            return holding(table, path)
        # In a root of its own its table is told from there, and begins with the mounts inside.
        return holding(table, path.removeprefix(root) or "/") or holding(
            tables.by_view.get((namespace, "/"), []), path
        )

    def _look_carefully(
        self, tasks: deque[_Task], found: dict[Process, str], tables: _Tables, stack: Stack
    ) -> list[Process]:
        """Add those who have files mapped, or open on mounts that are gone; those left unclear."""
        self._hanging = {one: by for one, by in self._hanging.items() if by.is_alive()}
        unclear = [task.process for task in tasks if task.process in self._hanging]
        rest = deque(task for task in tasks if task.process not in self._hanging)
        while rest:
            reader = _Reader(list(rest), tables, stack)
            reader.start()
            while rest:
                try:
                    how = reader.answers.get(timeout=_HANGING_SECONDS)
                except queue.Empty:
                    reader.given_up = True
                    hanging = rest.popleft().process
                    self._hanging[hanging] = reader
                    unclear.append(hanging)
                    break
                process = rest.popleft().process
                if how:
                    found.setdefault(process, how)
        return [process for process in unclear if not is_doomed(process, self._proc)]

    def _link(self, path: Path) -> str:
        try:
            return os.readlink(path)  # noqa: PTH115
        except OSError:
            return ""


class _Reader(threading.Thread):
    """Answers for one task after the other; may hang for ever, and then ends with its process."""

    def __init__(self, tasks: list[_Task], tables: _Tables, stack: Stack) -> None:
        super().__init__(name="device-users", daemon=True)
        self.answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.given_up = False
        self._tasks = tasks
        self._tables = tables
        self._stack = stack

    def run(self) -> None:
        for task in self._tasks:
            if self.given_up:
                return
            self.answers.put(self._look(task))

    def _look(self, task: _Task) -> str:
        texts = self._stack.texts
        try:
            for addresses, device in mapped_files((task.folder / "maps").read_bytes()):
                if device in texts or device in self._tables.file_devices:
                    return "has a file mapped"
                # The node of a device shows the number of the file system that it lies on.
                at = task.folder / "map_files" / addresses
                if device in self._tables.node_devices and _is_node(at, self._stack):
                    return "has the device mapped"
        except OSError:
            return ""
        for path in task.doubtful:
            if _is_node(path, self._stack) or _device_of(path) in self._stack.numbers:
                return "has a file open of a mount that is gone"
        return ""


def _is_node(path: Path, stack: Stack) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return stat.S_ISBLK(found.st_mode) and found.st_rdev in stack.numbers


def _device_of(path: Path) -> int:
    try:
        return path.stat().st_dev
    except OSError:
        return 0
