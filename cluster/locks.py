"""One lock per object, which never waits: whoever comes second gets Busy and repeats the call.

The locks also know how long nobody of this process has worked on an object, which is how the
reconcile loop tells a record that was left behind from one that is being worked on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.errors import Busy


class ObjectLocks:
    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._held: dict[str, str] = {}  # key -> what it is held for
        self._released: dict[str, float] = {}  # key -> time.monotonic()
        self._started = time.monotonic()

    @contextmanager
    def hold(self, key: str, purpose: str) -> Iterator[None]:
        """Hold the lock of the object with that store key. Raises Busy when it is held."""
        with self._mutex:
            if key in self._held:
                raise Busy(f"{key} is busy: {self._held[key]} is under way; repeat the call")
            self._held[key] = purpose
        try:
            yield
        finally:
            with self._mutex:
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
