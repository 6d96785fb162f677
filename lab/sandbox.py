"""Namespaces of its own for the process that runs a lab: network and mounts.

Everything a lab makes hangs on them or on a child process that dies with its parent, so that
nothing is left when this process ends, in whatever way: bridges and taps vanish with the network
namespace, all files with the tmpfs of the mount namespace.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from lab import network
from lab.errors import LabError
from lab.paths import RUN, SHARE

if TYPE_CHECKING:
    from collections.abc import Sequence

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MS_REC_PRIVATE = 0x4000 | 0x40000

_entered = False
# The kernel sends the parent-death signal when the *thread* that forked ends: all children are
# started by this one, which lives as long as the process.
_starter = ThreadPoolExecutor(1, thread_name_prefix="lab-starter")


def enter() -> None:
    """Move this process into namespaces of its own; a second call does nothing.

    To be called from the main thread before others are started: threads that run already stay
    in the old namespaces. Needs root.
    """
    global _entered
    if _entered:
        return
    if os.geteuid() != 0:
        raise LabError("the lab needs root")
    RUN.mkdir(parents=True, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc, libc.unshare(CLONE_NEWNET | CLONE_NEWNS), "unshare")
    _check(libc, libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC_PRIVATE), None), "private /")
    tmpfs = (b"tmpfs", os.fsencode(RUN), b"tmpfs", ctypes.c_ulong(0), b"mode=755,size=90%")
    _check(libc, libc.mount(*tmpfs), "mount tmpfs")
    SHARE.mkdir()
    network.create_bridges()
    _entered = True


def start_process(argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """subprocess.Popen of a child that gets SIGKILL when this process ends.

    It is in a session of its own: Ctrl-C is for this process, which then ends in good order.
    """

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *argv], start_new_session=True, **options
        )

    return _starter.submit(start).result()


def _check(libc: ctypes.CDLL, result: int, what: str) -> None:
    if result != 0:
        raise LabError(f"{what}: {os.strerror(ctypes.get_errno())}")
