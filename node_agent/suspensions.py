"""Suspensions that span several calls: for snapshots of volumes on several nodes at one instant.

The controller suspends on all nodes, cuts on all, and resumes. Meanwhile the volumes are locked
here. A suspension ends by itself at its deadline, whatever becomes of the controller (a timer
here) and of this process (the guard, ``host/resume_guard.py``).
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cluster.errors import Refused
from cluster.locks import Locks
from host.resume_guard import ResumeGuard
from node_agent.cuts import Cuts
from node_agent.entries import Entry

_log = logging.getLogger(__name__)


class _Suspension:
    def __init__(self, volume_ids: tuple[str, ...], guard: ResumeGuard | None) -> None:
        self.volume_ids = volume_ids
        self.guard = guard  # None: nobody uses the volumes, and the locks keep it so
        self.cut: set[str] = set()  # the snapshots that were made in it
        self.mutex = threading.Lock()  # held while something is being cut
        self.over = False


class Suspensions:
    def __init__(self, cuts: Cuts, locks: Locks) -> None:
        self._cuts = cuts
        self._locks = locks
        self._mutex = threading.Lock()
        self._all: dict[str, _Suspension] = {}

    def begin(self, entries: Sequence[Entry], seconds: float) -> str:
        """Hold them still for ``seconds`` at the most; returns the name of the suspension.

        Raises Busy, and the errors of ``ResumeGuard.suspend``.
        """
        ids = self._locks.acquire([entry.label.id for entry in entries], "a group snapshot")
        try:
            guard = self._cuts.guard(entries, seconds)
            if guard is not None:
                self._cuts.holds.suspend(ids, guard)
        except BaseException:
            self._locks.release(ids)
            raise
        name = secrets.token_hex(8)
        with self._mutex:
            self._all[name] = _Suspension(ids, guard)
        timer = threading.Timer(seconds, self._expire, args=(name,))
        timer.daemon = True
        timer.start()
        return name

    @contextmanager
    def within(self, name: str, volume_ids: Sequence[str]) -> Iterator[set[str]]:
        """For cutting in it: yields the snapshots that were cut in it before, to be added to.

        Raises Refused when it has ended, or does not hold all these volumes.
        """
        suspension = self._all.get(name)
        if suspension is None:
            raise Refused("the suspension has ended: nothing that is cut now would be valid")
        if not set(volume_ids) <= set(suspension.volume_ids):
            raise Refused("the suspension does not hold all the volumes that are to be cut")
        with suspension.mutex:
            if suspension.over:
                raise Refused("the suspension has just ended")
            yield suspension.cut

    def end(self, name: str) -> bool:
        """Resume. Whether it held until now; False also for one that has ended before.

        When it returns, the volumes are free, also where it is its deadline that ends it just now.
        """
        with self._mutex:
            suspension = self._all.get(name)
        if suspension is None:
            return False
        with suspension.mutex:
            if suspension.over:
                return False
            suspension.over = True
            guard = suspension.guard
            try:
                return True if guard is None else self._cuts.holds.release(guard)
            finally:
                self._locks.release(suspension.volume_ids)
                with self._mutex:
                    del self._all[name]

    def _expire(self, name: str) -> None:
        if name in self._all:
            _log.warning("suspension %s was not ended by its deadline; its cuts are lost", name)
            self.end(name)
