"""Which processor of the machine each node is on: one for all of it, and not a busier one.

Each system call of a process in a node is two switches between it and the node's kernel. From one
processor to another they take five times as long, where both have been idle: the host's scheduler
may not spread a node. But left where they began, the nodes of labs that run at once sooner or later
wait for one processor while another idles.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lab import faults

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lab.node import Node

_SECONDS = 0.5
# Of the time from look to look: a processor is busy from here on, and has room below there.
_BUSY, _ROOM = 0.95, 0.7
# A node that takes less makes no difference; one that takes more has a processor for itself.
_LEAST, _MOST = 0.1, 0.8
# A node's kernel does about half of its work; the rest is that of its processes.
_OF_ITS_KERNEL = 2.0
_PREFERRED = -5  # as nice(1) counts: three times the share of another node


def on_one(index: int) -> tuple[str, ...]:
    """What to put before the command of a new node, so that all of it is there: they take turns."""
    processors = sorted(os.sched_getaffinity(0))
    # Labs that run at once do not begin at the same one.
    return ("taskset", "--cpu-list", str(processors[(os.getpid() + index) % len(processors)]))


class Look(NamedTuple):
    """In the host's ticks since its boot: all time and the idle, by processor; nodes' kernels'."""

    total: dict[int, int]
    idle: dict[int, int]
    kernels: dict[int, int]


class Balance:
    """A thread of the lab's process until `stop`, which moves nodes to where there is room.

    Not for measurements: what they compare has to stay in its place.
    """

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self._nodes = nodes
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lab-balance", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        before = self._look()
        # Labs that run at once do not look at the same moments, to move the same way. The module's
        # own numbers are those of the tests.
        chance = random.Random()
        while not self._stopped.wait(_SECONDS * chance.uniform(0.6, 1.4)):
            now = self._look()
            with contextlib.suppress(OSError):  # a node that ends just then
                places = {kernel: os.sched_getaffinity(kernel) for kernel in now.kernels}
                if chosen := choose(before, now, places):
                    move(*chosen)
            before = now

    def _look(self) -> Look:
        look = Look({}, {}, {})
        processors = os.sched_getaffinity(0)
        for line in Path("/proc/stat").read_text().splitlines():
            name, *words = line.split()
            number = name.removeprefix("cpu")
            if number.isdecimal() and int(number) in processors:
                ticks = [int(word) for word in words[:8]]  # what guests take is in the first
                look.total[int(number)] = sum(ticks)
                look.idle[int(number)] = ticks[3] + ticks[4]
        for node in dict(self._nodes).values():
            with contextlib.suppress(OSError, ValueError):  # one that begins or ends
                if (pid := node.pid) is not None:
                    kernel = faults.kernel_pid(pid)
                    text = Path(f"/proc/{kernel}/stat").read_text()
                    look.kernels[kernel] = sum(map(int, text.rpartition(")")[2].split()[11:13]))
        return look


def choose(before: Look, now: Look, places: Mapping[int, set[int]]) -> tuple[int, int] | None:
    """A node's kernel, by its process id, and the processor that it is to be on; or nothing.

    `places`: where kernels may run. One at a time, from the processor with the least time to spare
    to that with the most: it has to be seen what that does before others follow.
    """
    passed = {one: now.total[one] - before.total[one] or 1 for one in now.total}
    busy = {one: 1 - (now.idle[one] - before.idle[one]) / passed[one] for one in passed}
    busiest, idlest = max(busy, key=busy.__getitem__), min(busy, key=busy.__getitem__)
    if busy[busiest] < _BUSY or busy[idlest] > _ROOM:
        return None
    shares = {
        kernel: _OF_ITS_KERNEL * (used - before.kernels.get(kernel, used)) / passed[busiest]
        for kernel, used in now.kernels.items()
        if places[kernel] == {busiest}
    }
    movable = [kernel for kernel, share in shares.items() if _LEAST <= share <= _MOST]
    return (max(movable, key=shares.__getitem__), idlest) if movable else None


def move(kernel: int, processor: int) -> None:
    """Put a node on a processor. Raises ProcessLookupError where it has ended."""
    os.sched_setaffinity(kernel, {processor})  # what it starts from now on is there as well
    for task in tasks(kernel):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(task, {processor})


def prefer(kernel: int) -> None:
    """Have a node get its processor before others: sched(7), "The autogroup feature".

    Each node is a session of its own. Nothing changes where the host does not group by session.
    """
    with contextlib.suppress(FileNotFoundError):
        Path(f"/proc/{kernel}/autogroup").write_text(str(_PREFERRED))


def tasks(process: int) -> Iterator[int]:
    """The host's threads of a process and of all below it, which a node's are below its kernel."""
    with contextlib.suppress(FileNotFoundError):  # it has ended
        for task in Path(f"/proc/{process}/task").iterdir():
            yield int(task.name)
            for child in (task / "children").read_text().split():
                yield from tasks(int(child))
