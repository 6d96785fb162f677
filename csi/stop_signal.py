"""Waiting for the signal that ends a process."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Self


class StopSignal:
    """From its beginning, SIGTERM and SIGINT are kept for ``wait``. For the main thread only.

    They go through a pipe (signal.set_wakeup_fd). A handler that sets a threading.Event can stop
    for ever: it runs in the thread that waits, which may hold the lock of the event just then.
    """

    def __init__(self) -> None:
        self._received, told = os.pipe()
        os.set_blocking(told, False)
        self._told = told
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _leave_it_to_the_pipe)

    def wait(self) -> None:
        """Return when a signal has come, now or before."""
        os.read(self._received, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go of the pipe; further signals do nothing."""
        signal.set_wakeup_fd(-1)
        os.close(self._told)
        os.close(self._received)


def _leave_it_to_the_pipe(number: int, frame: FrameType | None) -> None:
    pass
