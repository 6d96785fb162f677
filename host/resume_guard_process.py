"""The process behind ``resume_guard.py``: suspends devices, and resumes them whatever happens.

It is the only one that suspends, so that there is no moment at which a device is suspended and
nobody is left who resumes it. It holds no file of the file systems that it freezes, forks nothing
while they are frozen, and ends by itself:

    guard <cgroup or ""> <seconds> <lockfs 0|1> <name>…
    -> "suspended"            every device is; or "failed <name> <error>": all are resumed, end
    <- "release", or EOF      EOF is also what the death of the agent looks like
    -> "held" | "lost"        all are resumed; "held": and they were suspended up to the release

Runs without site packages and with few imports (see ``dm_ioctl.py``): start-up is what it costs.
"""

from __future__ import annotations

import _thread
import errno
import os
import select
import signal
import time

from host import dm_ioctl

# How long the answer to the agent waits for a device whose resume hangs; the resume goes on.
_PATIENCE_SECONDS = 20.0


def main(arguments: list[str]) -> None:
    cgroup, seconds, lockfs, *names = arguments
    end = time.monotonic() + float(seconds)
    _outlive_the_agent(cgroup)
    failure = _suspend_all(names, lockfs == "1", end)
    held = False
    if failure:
        # Whatever has happened before the failure is undone before it is told.
        _resume_all(names)
        _say(failure)
        return
    _say("suspended")
    released = bool(select.select([0], [], [], max(0.0, end - time.monotonic()))[0])
    if released and os.read(0, 64).startswith(b"release"):
        held = all(_still_suspended(name) for name in names)
    _resume_all(names)
    _say("held" if held else "lost")


def _outlive_the_agent(cgroup: str) -> None:
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    if cgroup:
        # The container runtime kills what is left in the cgroup of a container that has ended.
        with open(cgroup + "/cgroup.procs", "w", encoding="ascii") as procs:  # noqa: PTH123
            procs.write(str(os.getpid()))


def _suspend_all(names: list[str], lockfs: bool, end: float) -> str:
    """Suspend in the given order; what went wrong, or "". The alarm interrupts a wait for I/O."""
    signal.signal(signal.SIGALRM, lambda *_: None)
    for name in names:
        signal.setitimer(signal.ITIMER_REAL, max(0.001, end - time.monotonic()), 0.1)
        try:
            dm_ioctl.suspend(name, lockfs=lockfs, noflush=False)
        except OSError as error:
            return f"failed {name} {errno.errorcode.get(error.errno or 0, error.errno)}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return "" if time.monotonic() < end else f"failed {names[-1]} ETIMEDOUT"


def _still_suspended(name: str) -> bool:
    try:
        return dm_ioctl.is_suspended(name)
    except OSError:
        return False


def _resume_all(names: list[str]) -> None:
    """Resume all at the same time: the thaw of one dead disk must not keep the others waiting."""
    locks = []
    for name in names:
        lock = _thread.allocate_lock()
        lock.acquire()
        locks.append(lock)
        _thread.start_new_thread(_resume, (name, lock))
    end = time.monotonic() + _PATIENCE_SECONDS
    for lock in locks:
        lock.acquire(timeout=max(0.0, end - time.monotonic()))


def _resume(name: str, done: _thread.LockType) -> None:
    while True:
        try:
            # Not suspended: nothing to do, and an event less for udev.
            if dm_ioctl.is_suspended(name):
                dm_ioctl.resume(name)
            break
        except OSError as error:
            if error.errno == errno.ENXIO:  # there is no such device any more
                break
            time.sleep(0.1)
    done.release()


def _say(text: str) -> None:
    try:  # noqa: SIM105 - contextlib takes as long to import as all the rest
        os.write(1, text.encode("ascii") + b"\n")
    except OSError:
        pass  # the agent is gone
