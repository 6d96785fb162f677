"""Copying and wiping whole devices in processes of their own.

They take minutes, and a disk that hangs holds whoever is in the middle of an I/O beyond any signal.
That must not be a thread of the agent: it could neither go on nor end, nor could its successor
start. So children do it: a copy is ``block_worker_process.py``, which says how far it is, and a
wipe is blkdiscard(8), which begins ten times as fast as a Python does.
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
from host.block_device import Progress, size_of_number
from host.command import Child, Runner
from host.device_mapper import device_number, major_minor
from host.errors import CommandFailed, CommandLost, CommandStuck, DeviceFailed, HostError

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from host.block_worker_process import main; main(sys.argv[2:])"
)
_PACKAGES = str(Path(__file__).resolve().parent.parent)
# Between two signs of life.
_STALLED_SECONDS = 120.0
_PIECE = 128 << 20  # of a wipe: one call of the kernel, which cannot be interrupted for long
_LOOK_SECONDS = 1.0


def zero(runner: Runner, path: str, progress: Progress, *, begin: int = 0) -> None:
    """Zero the device from ``begin`` on: it reads as zeros there, also after a loss of power.

    ``progress`` is called after each piece; what it raises ends the work. Raises Missing,
    DeviceFailed, CommandStuck when nothing moves for two minutes.
    """
    size = size_of_number(major_minor(device_number(path)))
    for start in range(begin, size, _PIECE):
        length = min(_PIECE, size - start)
        # By force: what it would look for is what it is to remove, and the caller's to know.
        wipe = ("blkdiscard", "--zeroout", "--force", f"--offset={start}", f"--length={length}")
        # What one has begun is of no use to the next agent, which begins anew.
        _on_device(runner, ("setpriv", "--pdeathsig=KILL", *wipe, path), path)
        progress(start + length)
    _on_device(runner, ("sync", path), path)


def _on_device(runner: Runner, argv: tuple[str, ...], path: str) -> None:
    try:
        runner.run(argv, deadline=_STALLED_SECONDS, resource=path)
    except CommandFailed as error:
        raise DeviceFailed(str(error)) from error


def copy(runner: Runner, source: str, target: str, progress: Progress, *, skip_zeros: bool) -> None:
    """``block_device.copy``. Raises CommandStuck when nothing moves for two minutes.

    ``progress`` is called at least every second; what it raises ends the child.
    """
    runner.check(target)
    begun = time.monotonic()
    arguments = (source, target, "1" if skip_zeros else "0")
    argv = (sys.executable, "-I", "-S", "-c", _BOOT, _PACKAGES, *arguments)
    child = runner.spawn(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    told = ("block_worker", *arguments)
    outcome = "failed"
    try:
        _follow(child, told, progress)
        outcome = "ok"
    except CommandStuck:
        outcome = "stuck"
        runner.missed_deadline(target)
        raise
    finally:
        runner.abandon(child, target)
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
