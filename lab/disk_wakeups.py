"""Has the disks of a node go on when they stand still: runs in the node's server.

The answers to all requests to disks come to the node's kernel through one socket, and it reads them
when epoll says that there is something new. With packets on both networks at once it happened that
an answer lay there unread and epoll had nothing new to say: all disks of the node stood still until
the next answer came, for 45 s with nothing but a writer there. (It asks epoll again in interrupts
that come while it goes through what epoll has said, into the same array: sigio_handler in the
kernel's arch/um/kernel/irq.c.) So whenever requests are under way and none has ended from one look
to the next, a block is read: its answer ends those before it as well.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import time
from pathlib import Path
from typing import NamedTuple

_SECONDS = 0.25  # each look takes the node a system call a disk
_BLOCK = 4096
# Of /sys/block/*/stat (the kernel's Documentation/block/stat.rst): requests that have ended, of
# each kind, and those under way.
_ENDED = (0, 4, 11, 15)
_UNDER_WAY = 8


class _Look(NamedTuple):
    ended: tuple[str, ...]
    under_way: bool


class _Disk:
    def __init__(self, folder: Path) -> None:
        self._device = f"/dev/{folder.name}"
        self._stat = os.open(folder / "stat", os.O_RDONLY | os.O_CLOEXEC)
        self._before = self._look()

    def stands_still(self) -> bool:
        before, self._before = self._before, self._look()
        return self._before.under_way and self._before == before

    def _look(self) -> _Look:
        words = os.pread(self._stat, _BLOCK, 0).decode().split()
        return _Look(tuple(words[one] for one in _ENDED), words[_UNDER_WAY] != "0")

    def read(self) -> None:
        """Read a block past the page cache; a disk that fails has answered as well."""
        with contextlib.suppress(OSError), mmap.mmap(-1, _BLOCK) as block:
            fd = os.open(self._device, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
            try:
                os.preadv(fd, [block], 0)
            finally:
                os.close(fd)


def start() -> None:
    """Look from now on, in a thread, where the node has disks: which, is settled at its boot."""
    disks = [_Disk(folder) for folder in Path("/sys/block").glob("ubd*")]
    if disks:
        threading.Thread(target=_run, args=(disks,), daemon=True).start()


def _run(disks: list[_Disk]) -> None:
    while True:
        time.sleep(_SECONDS)
        for disk in [one for one in disks if one.stands_still()]:
            # Not in this thread: the answer to this one may be overlooked as well.
            threading.Thread(target=disk.read, daemon=True).start()
