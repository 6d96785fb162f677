"""Processes of this machine, and their end: what proc(5) tells without touching any file system.

Tasks, signals and cgroups only. What needs a process's address space (``cmdline``, ``maps``) can
wait for a disk, and is not read here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger(__name__)

PROC = Path("/proc")
# linux/sched.h; since Linux 2.6 in the ninth field of stat.
_PF_EXITING, _PF_KTHREAD = 0x4, 0x200000
_ENDED = "ZXx"
_SIGKILL_BIT = 1 << (signal.SIGKILL - 1)


@dataclass(frozen=True)
class Process:
    """``started``, in ticks after the boot, tells it from a later one of the same number."""

    pid: int
    started: int
    command: str  # its name (comm), never its arguments


@dataclass(frozen=True)
class Stat:
    """What matters of ``/proc/PID/stat``."""

    process: Process
    state: str
    flags: int

    @property
    def kernel_thread(self) -> bool:
        return bool(self.flags & _PF_KTHREAD)

    @property
    def exiting(self) -> bool:
        """It runs no instruction of its program any more."""
        return bool(self.flags & _PF_EXITING) or self.state in _ENDED


def parse_stat(line: bytes) -> Stat:
    """The name may hold anything, also parentheses and spaces. ValueError."""
    head, found, tail = line.rpartition(b")")
    pid, _, command = head.partition(b" (")
    fields = tail.split()
    if not found or len(fields) < 20:
        raise ValueError(f"not a line of /proc/PID/stat: {line[:80]!r}")
    process = Process(int(pid), int(fields[19]), command.decode("utf-8", "replace"))
    return Stat(process, fields[0].decode(), int(fields[6]))


def kill_is_pending(status: bytes) -> bool:
    """Whether ``/proc/PID/status`` shows SIGKILL as pending, for the thread or its process."""
    masks = [
        int(line.split()[1], 16)
        for line in status.splitlines()
        if line.startswith((b"SigPnd:", b"ShdPnd:"))
    ]
    return any(mask & _SIGKILL_BIT for mask in masks)


def processes(proc: Path = PROC) -> Iterator[Stat]:
    """All that are there, without threads; some may have gone when they are looked at."""
    for name in os.listdir(proc):  # noqa: PTH208
        if name.isdigit() and (stat := stat_of(int(name), proc)) is not None:
            yield stat


def stat_of(pid: int, proc: Path = PROC) -> Stat | None:
    """None where there is no such process (any more)."""
    try:
        return parse_stat((proc / str(pid) / "stat").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return None


def threads(pid: int, proc: Path = PROC) -> list[int]:
    """Empty where the process has gone."""
    try:
        return [int(name) for name in os.listdir(proc / str(pid) / "task")]  # noqa: PTH208
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_doomed(process: Process, proc: Path = PROC) -> bool:
    """Whether no thread of it ever runs its program again: it is gone, exiting, or killed.

    One that is killed and still there is in a system call (state D); the call's result reaches
    nobody.
    """
    for thread in threads(process.pid, proc):
        folder = proc / str(process.pid) / "task" / str(thread)
        try:
            stat = parse_stat((folder / "stat").read_bytes())
            if not stat.exiting and not kill_is_pending((folder / "status").read_bytes()):
                # Its number may belong to another process by now.
                now = stat_of(process.pid, proc)
                return now is None or now.process.started != process.started
        except (FileNotFoundError, ProcessLookupError):
            continue
    return True


def kill(process: Process) -> None:
    """SIGKILL to exactly that process; nothing happens where it has gone. Raises OSError."""
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(process.pid)
        try:
            now = stat_of(process.pid)  # what the handle is of, if that process still exists
            if now is not None and now.process.started == process.started:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)


def in_cgroup(cgroup: Path) -> list[Process]:
    """The processes of a cgroup v2 and all below it; empty where it has gone."""
    found = []
    for folder, _, _ in os.walk(cgroup):
        with contextlib.suppress(OSError):
            for pid in Path(folder, "cgroup.procs").read_text().split():
                if (stat := stat_of(int(pid))) is not None and not stat.kernel_thread:
                    found.append(stat.process)
    return found


def end_cgroup(cgroup: Path) -> None:
    """Let a cgroup v2 start nothing any more (``pids.max``), and kill all in it.

    Its restarted containers would find an empty directory where their volume was. Kernels before
    5.14 have no ``cgroup.kill``: then its processes are the caller's to kill.
    """
    for name, value in (("pids.max", b"0"), ("cgroup.kill", b"1")):
        try:
            handle = os.open(cgroup / name, os.O_WRONLY | os.O_CLOEXEC)  # never makes a file
            try:
                os.write(handle, value)
            finally:
                os.close(handle)
        except FileNotFoundError:
            continue
        except OSError as error:
            _log.error("cannot write %s of cgroup %s: %s", name, cgroup, error.strerror)
