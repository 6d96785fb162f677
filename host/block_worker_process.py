"""The process behind ``block_worker.py``.

    worker <source> <target> <skip zeros 0|1>
    -> a line with the bytes done, from time to time; "done", or "failed <class> <text>"

Runs without site packages. It ends with the agent: what it does is of no use to the next one,
which begins anew.
"""

from __future__ import annotations

import ctypes
import os
import signal

from host import block_device
from host.errors import HostError

_PR_SET_PDEATHSIG = 1
_TELL_EVERY = 8 << 20


class _Teller:
    def __init__(self) -> None:
        self._told = -_TELL_EVERY

    def __call__(self, done: int) -> None:
        if done - self._told >= _TELL_EVERY:
            self._told = done
            _say(str(done))


def main(arguments: list[str]) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    source, target, skip_zeros = arguments
    try:
        block_device.copy(source, target, _Teller(), skip_zeros=skip_zeros == "1")
    except HostError as error:
        _say(f"failed {type(error).__name__} {error}".replace("\n", " "))
    else:
        _say("done")


def _say(text: str) -> None:
    os.write(1, text.encode() + b"\n")
