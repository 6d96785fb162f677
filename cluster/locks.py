"""Locks by identifier that never wait: whoever comes second gets Busy and repeats the call.

Waiting would tie up a thread of the server for as long as a mkfs, a node or a hanging device takes,
and the sidecars and kubelet repeat anyway (CSI 1.13, "Concurrency": ABORTED).
"""

from __future__ import annotations

import threading
import time
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
                    raise Busy(
                        f"{identifier} is busy: {self._held[identifier]} is under way;"
                        " repeat the call"
                    )
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


class ObjectLocks(Locks):
    """Locks by store key, which know for how long nobody of this process has worked on an object.

    By that the reconcile loop tells a record that was left behind from one that is worked on.
    """

    def __init__(self) -> None:
        super().__init__()
        self._released: dict[str, float] = {}  # key -> time.monotonic()
        self._started = time.monotonic()

    def release(self, identifiers: Iterable[str]) -> None:
        with self._mutex:
            for key in identifiers:
                del self._held[key]
                self._released[key] = time.monotonic()

    def idle_seconds(self, key: str) -> float:
        """How long nobody has held it; since the start of the process when nobody ever did."""
        with self._mutex:
            if key in self._held:
                return 0.0
            return time.monotonic() - self._released.get(key, self._started)

    def forget_idle(self, seconds: float) -> None:
        """Forget the objects that nobody has held for so long: they count as idle still."""
        with self._mutex:
            horizon = time.monotonic() - seconds
            self._released = {key: at for key, at in self._released.items() if at > horizon}
