"""Commands that do not end: remembered until the kernel lets go of them, and kept from piling up.

A child that waits for a device in the kernel (state D) outlives SIGKILL. Nobody waits for it. While
it lives, further commands on the same resource would only hang too: they fail at once, and all
others go on.
"""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from host.errors import CommandStuck

log = logging.getLogger("xlss.command")


@dataclass(frozen=True)
class StuckCommand:
    """A killed command that is still there. ``seconds``: since it was given up."""

    argv: tuple[str, ...]
    pid: int
    seconds: float
    resource: str | None


@dataclass(frozen=True)
class _Given:
    process: subprocess.Popen[bytes]
    argv: tuple[str, ...]
    resource: str | None
    since: float


class StuckChildren:
    """Children that were killed and have not died yet; asked again at every look.

    ``freed`` is called with the resource of each that has died: what it waited for has answered.
    """

    def __init__(self, freed: Callable[[str], None]) -> None:
        self._freed = freed
        self._children: list[_Given] = []
        self._lock = threading.Lock()

    def add(
        self, process: subprocess.Popen[bytes], argv: tuple[str, ...], resource: str | None
    ) -> None:
        log.error("stuck in the kernel: %s (pid %d)", " ".join(argv), process.pid)
        with self._lock:
            self._children.append(_Given(process, argv, resource, time.monotonic()))

    def commands(self) -> list[StuckCommand]:
        now = time.monotonic()
        return [
            StuckCommand(child.argv, child.process.pid, now - child.since, child.resource)
            for child in self._alive()
        ]

    def holds(self, resource: str) -> StuckCommand | None:
        """The oldest stuck command on ``resource``."""
        return next((entry for entry in self.commands() if entry.resource == resource), None)

    def _alive(self) -> list[_Given]:
        with self._lock:
            known = self._children
            self._children = [child for child in known if child.process.poll() is None]
            alive = list(self._children)
        for child in known:
            if child not in alive:
                log.warning("no longer stuck: %s (pid %d)", " ".join(child.argv), child.process.pid)
                if child.resource is not None:
                    self._freed(child.resource)
        return alive


@dataclass
class _Misses:
    count: int = 0
    last: float = 0.0


class Breaker:
    """Opens for a resource after ``limit`` deadlines missed in a row, for ``seconds``.

    After that time one attempt is let through: if it misses its deadline too, the breaker is open
    again.
    """

    def __init__(
        self, limit: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        self._misses: dict[str, _Misses] = {}
        self._lock = threading.Lock()

    def check(self, resource: str) -> None:
        """Raises CommandStuck while the breaker of ``resource`` is open."""
        with self._lock:
            misses = self._misses.get(resource)
            if misses is None or misses.count < self._limit:
                return
            left = misses.last + self._seconds - self._clock()
            if left <= 0:
                misses.last = self._clock()  # this caller tries; the others go on waiting
                return
        raise CommandStuck(
            f"{resource}: {misses.count} commands in a row did not end in time; "
            f"next attempt in {left:.0f} s"
        )

    def missed(self, resource: str) -> None:
        with self._lock:
            misses = self._misses.setdefault(resource, _Misses())
            misses.count += 1
            misses.last = self._clock()
            opened = misses.count == self._limit
        if opened:
            log.error("%s: breaker opened after %d missed deadlines", resource, self._limit)

    def answered(self, resource: str) -> None:
        with self._lock:
            self._misses.pop(resource, None)
