"""Replicated volumes whose writes do not end, though nothing is known to hold them back.

The counters of the block layer tell, for one small file read a look. Each look remembers since when
no write has ended while one was under way. (Reads end, and the agent's own look at the health of a
volume is one: a disk that does not answer those is found by that.)
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass

from host import block_device
from host.device_mapper import device_number, major_minor
from host.errors import Missing

# DRBD gives a peer that is connected and does not answer 6.3 s (ko-count).
_SECONDS = 30.0


@dataclass(frozen=True)
class Endless:
    """``words`` for people; ``forgotten``: DRBD will never answer, and only a reboot ends it."""

    words: str
    forgotten: bool


@dataclass(frozen=True)
class _Look:
    at: float  # time.monotonic()
    writing: int
    writes: int


class EndlessIo:
    """Thread safe."""

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self._mutex = threading.Lock()
        self._since: dict[str, _Look] = {}
        self._found: dict[str, Endless] = {}

    def look(self, volume_id: str, device: str, disk: str) -> None:
        """``device``: number (``147:1000``) of DRBD's device; ``disk``: path of what it lies on."""
        with suppress(Missing):  # it is gone
            _, writing = block_device.in_flight(device)
            if writing:
                look = _Look(time.monotonic(), writing, block_device.writes(device))
                self._see(volume_id, look, disk)
                return
        self.forget(volume_id)

    def _see(self, volume_id: str, look: _Look, disk: str) -> None:
        with self._mutex:
            since = self._since.get(volume_id)
            if since is None or (since.writing, since.writes) != (look.writing, look.writes):
                self._since[volume_id] = look
                self._found.pop(volume_id, None)
            elif look.at - since.at >= self._seconds:
                idle = not any(block_device.in_flight(major_minor(device_number(disk))))
                self._found[volume_id] = _endless(look.at - since.at, idle)

    def forget(self, volume_id: str) -> None:
        """It is not served here, or it is known what holds it back."""
        with self._mutex:
            self._since.pop(volume_id, None)
            self._found.pop(volume_id, None)

    def of(self, volume_id: str) -> Endless | None:
        """What was found at the last look."""
        with self._mutex:
            return self._found.get(volume_id)


def _endless(seconds: float, idle: bool) -> Endless:
    nothing = f"no write has ended for {seconds:.0f} s"
    if idle:
        words = f"{nothing}, and its disk is idle: DRBD 8.4 has forgotten a flush, reboot this node"
        return Endless(words, forgotten=True)
    return Endless(f"{nothing}: its disk does not answer", forgotten=False)
