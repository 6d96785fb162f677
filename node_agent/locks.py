"""Locks by identifier that never wait: the second caller gets Busy and repeats its request.

Waiting would tie up a thread of the server for as long as a mkfs or a hanging device takes, and
the sidecars and kubelet repeat anyway (CSI 1.13, "Concurrency": ABORTED).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from cluster.errors import Busy


class Locks:
    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._held: dict[str, str] = {}  # identifier -> what it is held for

    def acquire(self, identifiers: Iterable[str], purpose: str) -> tuple[str, ...]:
        """Take all or none. Raises Busy, which says what the one that is taken is held for."""
        wanted = tuple(dict.fromkeys(identifiers))
        with self._mutex:
            for identifier in wanted:
                if identifier in self._held:
                    raise Busy(f"{identifier} is busy: {self._held[identifier]} is under way")
            self._held.update(dict.fromkeys(wanted, purpose))
        return wanted

    def release(self, identifiers: Iterable[str]) -> None:
        with self._mutex:
            for identifier in identifiers:
                del self._held[identifier]

    @contextmanager
    def hold(self, *identifiers: str, purpose: str) -> Iterator[None]:
        """As ``acquire``, for the length of a ``with`` block."""
        held = self.acquire(identifiers, purpose)
        try:
            yield
        finally:
            self.release(held)
