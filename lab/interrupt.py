"""Ctrl-C on a program whose threads work in a lab."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

_SHOW_CURSOR = "\x1b[?25h"  # which rich hides while it draws bars


def end_at_interrupt() -> None:
    """From now on Ctrl-C ends this process at once, with exit code 130. For the main thread.

    A KeyboardInterrupt would first wait for the threads that use the nodes, minutes at times.
    Nothing of a lab outlives its process, whatever the moment (lab/sandbox.py).
    """
    # Ignored in what a shell has started in the background: that is to stay so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    # Past sys.stdout, in whose middle this thread may be.
    text = f"{_SHOW_CURSOR if sys.stdout.isatty() else ''}\ninterrupted\n"
    os.write(sys.stdout.fileno(), text.encode())
    os._exit(128 + number)
