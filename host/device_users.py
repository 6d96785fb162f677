"""Who uses a block device, or a file system on it, without touching any file system.

All comes from /proc. A look at a file (stat, open) could wait for the very device: only nodes on
devtmpfs and tmpfs are looked at. Two looks can wait all the same, for an address space whose owner
waits for a disk (``maps``), and for files that no mount table shows: they are made by a thread that
is given up when it hangs. Whom that leaves unknown is said.

The numbers of mounts are unique over all namespaces, and so is what a process has open looked up in
the tables of all. The tables show a pod's mounts only where this process sees the host's processes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import stat
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from host.mount_namespaces import Stack, TableLine, Tables, holding, parse_table
from host.processes import PROC, Process, Stat, is_doomed, processes, threads

_HANGING_SECONDS = 2.0
# shmem's own: no table shows its mount.
_NO_FILES = ("/memfd:", "/SYSV", "/dev/zero (deleted)", "/[aio]", "/i915", "/drm mm object")
_GONE = (FileNotFoundError, ProcessLookupError, NotADirectoryError)


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


@dataclass
class _Task:
    """A process, or a thread of one whose first thread has ended."""

    process: Process
    folder: Path
    view: tuple[str, str]  # its mount namespace, and its root
    doubtful: list[str] = field(default_factory=list)  # open files of mounts in no table


class UserFinder:
    """Thread safe; keeps nothing but which processes cannot be looked at. ``proc``: for tests."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._mutex = threading.Lock()
        self._hanging: dict[Process, threading.Thread] = {}

    def find(self, stack: Stack) -> Found:
        """All users of the stack but this process.

        A process of another mount namespace is one also when it has nothing open, unless its mount
        goes with those of this namespace and of that of process 1.
        """
        tables = Tables()
        denied: set[Process] = set()
        tasks: list[_Task] = []
        for one in processes(self._proc):
            with _denial_noted(one.process, denied):
                seen = self._tasks(one)
                tasks += [task for task in seen if self._read_table(task, tables, stack)]
        home = self._home()
        passed_on = tables.groups_of_parents(home)
        found: dict[Process, str] = {}
        for task in tasks:
            with _denial_noted(task.process, denied):
                how = self._how(task, tables, stack)
                if not how and task.view[0] not in home:
                    kept = tables.keeps_mounted(tables.by_view[task.view], passed_on)
                    how = "has it mounted in a namespace of its own" if kept else ""
                if how:
                    found.setdefault(task.process, how)
        rest = deque(task for task in tasks if task.process not in found)
        unclear = denied.union(self._look_carefully(rest, found, tables, stack)) - found.keys()
        users = tuple(
            DeviceUser(process, how, is_doomed(process, self._proc))
            for process, how in sorted(found.items(), key=lambda item: item[0].pid)
        )
        living = [one for one in unclear if not is_doomed(one, self._proc)]
        return Found(users, tuple(sorted(living, key=lambda process: process.pid)))

    def _home(self) -> set[str]:
        """The mount namespaces of this process and of process 1."""
        home = {self._link(self._proc / "self/ns/mnt")}
        with contextlib.suppress(PermissionError):
            home.add(self._link(self._proc / "1/ns/mnt"))
        return home

    def _tasks(self, found: Stat) -> list[_Task]:
        process = found.process
        if found.kernel_thread or process.pid == os.getpid():
            return []
        folder = self._proc / str(process.pid)
        if not found.exiting:
            folders = [folder]
        else:  # its open files are shown by those of its threads that have not ended
            folders = [folder / "task" / str(one) for one in threads(process.pid, self._proc)]
        views = [(self._link(one / "ns/mnt"), self._link(one / "root")) for one in folders]
        return [
            _Task(process, one, view) for one, view in zip(folders, views, strict=True) if view[0]
        ]

    def _read_table(self, task: _Task, tables: Tables, stack: Stack) -> bool:
        if task.view in tables.by_view:
            return True
        try:
            text = (task.folder / "mountinfo").read_bytes()
        except _GONE:
            return False
        except OSError as error:
            if error.errno != errno.EINVAL:  # it has just given its namespace back
                raise
            return False
        tables.add(task.view, parse_table(text), stack)
        return True

    def _how(self, task: _Task, tables: Tables, stack: Stack) -> str:
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

    def _how_open(self, task: _Task, name: str, tables: Tables, stack: Stack) -> str:
        # Tens of thousands of these on a node: no Path, and no more than the beginning is read.
        try:
            handle = os.open(f"{task.folder}/fdinfo/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except _GONE:
            return ""
        try:
            number = mount_number(os.read(handle, 512))
        except _GONE:
            return ""
        finally:
            os.close(handle)
        path = f"{task.folder}/fd/{name}"
        if number in tables.nodes:
            return "has the device open" if _is_node(path, stack) else ""
        if number in tables.ours:
            return "has a file open"
        if number not in tables.known:
            link = self._link(path)
            if link.startswith("/") and not link.startswith(_NO_FILES):
                task.doubtful.append(path)
        return ""

    def _place(self, task: _Task, path: str, tables: Tables) -> TableLine | None:
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
        self, tasks: deque[_Task], found: dict[Process, str], tables: Tables, stack: Stack
    ) -> list[Process]:
        """Add those who have files mapped, or open on mounts that are gone; those left unclear."""
        with self._mutex:
            self._hanging = {one: by for one, by in self._hanging.items() if by.is_alive()}
            hanging = frozenset(self._hanging)
        unclear = [task.process for task in tasks if task.process in hanging]
        rest = deque(task for task in tasks if task.process not in hanging)
        while rest:
            reader = _Reader(list(rest), tables, stack)
            reader.start()
            while rest:
                try:
                    how = reader.answers.get(timeout=_HANGING_SECONDS)
                except queue.Empty:
                    reader.given_up = True
                    process = rest.popleft().process
                    with self._mutex:
                        self._hanging[process] = reader
                    unclear.append(process)
                    break
                process = rest.popleft().process
                if how is None:
                    unclear.append(process)
                elif how:
                    found.setdefault(process, how)
        return unclear

    def _link(self, path: Path | str) -> str:
        try:
            return os.readlink(path)  # noqa: PTH115
        except _GONE:
            return ""


class _Reader(threading.Thread):
    """Answers for one task after the other; may hang for ever, and then ends with its process."""

    def __init__(self, tasks: list[_Task], tables: Tables, stack: Stack) -> None:
        super().__init__(name="device-users", daemon=True)
        self.answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()  # None: unclear
        self.given_up = False
        self._tasks = tasks
        self._tables = tables
        self._stack = stack

    def run(self) -> None:
        for task in self._tasks:
            if self.given_up:
                return
            try:
                self.answers.put(self._look(task))
            except OSError:
                self.answers.put(None)

    def _look(self, task: _Task) -> str:
        of_files = self._stack.texts | self._tables.file_devices
        of_nodes = self._tables.node_devices
        try:
            text = (task.folder / "maps").read_bytes()
        except _GONE:
            return ""
        if any(_in_maps(device) in text for device in of_files | of_nodes):
            for addresses, device in mapped_files(text):
                if device in of_files:
                    return "has a file mapped"
                # The node of a device shows the number of the file system that it lies on.
                at = f"{task.folder}/map_files/{addresses}"
                if device in of_nodes and _is_node(at, self._stack):
                    return "has the device mapped"
        for path in task.doubtful:
            if _is_node(path, self._stack) or _device_of(path) in self._stack.numbers:
                return "has a file open of a mount that is gone"
        return ""


@contextlib.contextmanager
def _denial_noted(process: Process, denied: set[Process]) -> Iterator[None]:
    """A security module may keep even root from looking at a process."""
    try:
        yield
    except PermissionError:
        denied.add(process)


def _in_maps(device: str) -> bytes:
    major, minor = map(int, device.split(":"))
    return f" {major:02x}:{minor:02x} ".encode()


def _is_node(path: str, stack: Stack) -> bool:
    try:
        found = os.stat(path)  # noqa: PTH116
    except _GONE:
        return False
    return stat.S_ISBLK(found.st_mode) and found.st_rdev in stack.numbers


def _device_of(path: str) -> int:
    try:
        return os.stat(path).st_dev  # noqa: PTH116
    except _GONE:
        return 0
