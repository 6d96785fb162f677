"""Copying and wiping whole devices in a process of their own.

They take minutes, and a disk that hangs holds whoever is in the middle of an I/O beyond any signal.
That must not be a thread of the agent: it could neither go on nor end, nor could its successor
start. So a child does it (``block_worker_process.py``) and says how far it is.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from host import errors
from host.block_device import Progress
from host.command import Child, Runner
from host.errors import CommandFailed, CommandLost, CommandStuck, HostError

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from host.block_worker_process import main; main(sys.argv[2:])"
)
_PACKAGES = str(Path(__file__).resolve().parent.parent)
# Between two signs of life: the kernel writes 64 MiB of zeros at the most in one call.
_STALLED_SECONDS = 120.0
_LOOK_SECONDS = 1.0


def zero(runner: Runner, path: str, progress: Progress, *, begin: int = 0) -> None:
    """``block_device.zero_all``. Raises CommandStuck when nothing moves for two minutes."""
    _work(runner, ["zero", path, str(begin)], path, progress)


def copy(runner: Runner, source: str, target: str, progress: Progress, *, skip_zeros: bool) -> None:
    """``block_device.copy``. Raises CommandStuck when nothing moves for two minutes."""
    _work(runner, ["copy", source, target, "1" if skip_zeros else "0"], target, progress)


def _work(runner: Runner, arguments: list[str], resource: str, progress: Progress) -> None:
    """``progress`` is called at least every second; what it raises ends the child."""
    runner.check(resource)
    begun = time.monotonic()
    argv = (sys.executable, "-I", "-S", "-c", _BOOT, _PACKAGES, *arguments)
    child = runner.spawn(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    told = ("block_worker", *arguments)
    outcome = "failed"
    try:
        _follow(child, told, progress)
        outcome = "ok"
    except CommandStuck:
        outcome = "stuck"
        runner.missed_deadline(resource)
        raise
    finally:
        runner.abandon(child, resource)
        runner.observe(told, outcome, time.monotonic() - begun)


def _follow(child: Child, told: tuple[str, ...], progress: Progress) -> None:
    done, moved = 0, time.monotonic()
    for line in _lines(child):
        word, _, rest = line.partition(" ")
        if word == "done":
            return
        if word == "failed":
            kind, _, text = rest.partition(" ")
            raise _error(kind, text)
        if line:
            done, moved = int(line), time.monotonic()
        elif time.monotonic() - moved > _STALLED_SECONDS:
            raise CommandStuck(f"{' '.join(told)}: nothing has moved for {_STALLED_SECONDS:g} s")
        progress(done)
    raise CommandLost(f"{' '.join(told)}: ended without a word")


def _lines(child: Child) -> Iterator[str]:
    """What the child says, and an empty line after each second in which it says nothing."""
    text = b""
    descriptor = child.stdout.fileno()
    while True:
        if not select.select([descriptor], [], [], _LOOK_SECONDS)[0]:
            yield ""
            continue
        data = os.read(descriptor, 4096)
        if not data:
            return
        *lines, text = (text + data).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)


def _error(kind: str, text: str) -> HostError:
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, HostError) and found is not CommandFailed:
        return found(text)
    return HostError(text)
