"""Devices held suspended for a moment, such as for a snapshot of several volumes at one instant.

While they are suspended, whatever is written to them hangs, and with it the pods. So a process of
its own suspends them and holds the deadline (``resume_guard_process.py``): it resumes them when the
agent says so, when the deadline passes, or when the agent dies, whichever comes first.

    with suspended(ResumeGuard(runner, names, seconds=10)) as cut:
        …                     # take the snapshots
    if not cut.held: …        # they do not fit together: throw them away

What remains is the death of both: ``DeviceMapper.resume_all`` at the start of the agent.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from host.device_mapper import DeviceMapper
from host.errors import CommandStuck, HostError, InTransition, Missing, Refused
from host.io_flusher import io_flusher

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from host.command import Child, Runner

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from host.resume_guard_process import main; main(sys.argv[2:])"
)
_PACKAGES = str(Path(__file__).resolve().parent.parent)
_START_SECONDS = 10.0
# The guard itself waits 20 s for a thaw that hangs.
_RELEASE_SECONDS = 30.0


class ResumeGuard:
    """Holds the devices ``names`` suspended from ``suspend`` to ``release``.

    For ``seconds`` at the most, all of it included. They are suspended in the given order: upper
    ones of a stack first. ``lockfs`` freezes the file system that is mounted on each, so that a
    snapshot below holds all that was written, and needs no recovery; for that it has to be the
    topmost device. What a file system has not yet written is written while it is frozen:
    ``mount.sync`` it before. That is all that can be done for btrfs, which the kernel does not
    freeze by its device (tried on Linux 6.1): its snapshot is as after a power cut.

    With ``cgroup`` the guard moves there: what is left in the cgroup of a container is killed when
    the container ends, and a guard has to outlive it.
    """

    def __init__(
        self,
        runner: Runner,
        names: Sequence[str],
        *,
        seconds: float,
        lockfs: bool = True,
        cgroup: Path | None = None,
    ) -> None:
        if not names:
            raise ValueError("no device to suspend")
        self._runner = runner
        self._names = tuple(names)
        self._seconds = seconds
        self._arguments = [str(cgroup or ""), str(seconds), "1" if lockfs else "0", *names]
        self._guard: Child | None = None

    def suspend(self) -> None:
        """Returns once all are suspended.

        Raises ``Missing`` for a device that is not there, ``InTransition`` for one that somebody
        else has suspended, ``CommandStuck`` where suspending takes longer than ``seconds``,
        ``Refused``; none is suspended by this then.
        """
        mapper = DeviceMapper(self._runner)
        for name in self._names:
            self._runner.check(name)
            # The kernel would take it for done, and what is resumed in the end is not ours.
            if mapper.info(name).suspended:
                raise InTransition(f"device {name} is suspended already; repeat the request")
        with io_flusher():
            guard = self._runner.spawn(
                [sys.executable, "-I", "-S", "-c", _BOOT, _PACKAGES, *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        try:
            self._require_suspended(_answer(guard, self._seconds + _START_SECONDS))
        except BaseException:
            self._bury(guard)
            raise
        self._guard = guard

    def release(self) -> bool:
        """Resume all; whether all were suspended all the time until now. Does not raise.

        False where the deadline had passed, somebody else had resumed one, or nothing was
        suspended.
        """
        guard, self._guard = self._guard, None
        if guard is None:
            return False
        with contextlib.suppress(OSError):  # it has fired and gone
            os.write(guard.stdin.fileno(), b"release\n")
        held = _answer(guard, _RELEASE_SECONDS) == "held"
        self._bury(guard)
        return held

    def _require_suspended(self, answer: str) -> None:
        if answer == "suspended":
            for name in self._names:
                self._runner.answered(name)
            return
        if not answer.startswith("failed "):
            raise CommandStuck(f"the guard of {', '.join(self._names)} gave no answer: {answer!r}")
        _, name, number = answer.split()
        if number == "ENXIO":
            raise Missing(f"there is no device-mapper device {name}")
        if number in ("EINTR", "ETIMEDOUT"):
            self._runner.missed_deadline(name)
            raise CommandStuck(
                f"device {name} was not suspended within {self._seconds:g} s; it is resumed"
            )
        raise Refused(f"device {name} cannot be suspended: {number}")

    def _bury(self, guard: Child) -> None:
        """Wait for the guard to end. If it was killed or hangs, its work is done here."""
        guard.close_pipes()
        if guard.wait(_RELEASE_SECONDS) == 0:
            return
        self._runner.abandon(guard)
        mapper = DeviceMapper(self._runner)
        for name in self._names:
            with contextlib.suppress(HostError):
                mapper.resume(name, deadline=_RELEASE_SECONDS)


class Cut:
    """``held`` after the ``with`` block: all devices were suspended until its end."""

    def __init__(self) -> None:
        self.held = False


@contextlib.contextmanager
def suspended(guard: ResumeGuard) -> Iterator[Cut]:
    """``suspend`` and ``release`` around a block."""
    cut = Cut()
    guard.suspend()
    try:
        yield cut
    finally:
        cut.held = guard.release()


def _answer(guard: Child, seconds: float) -> str:
    """The next line of the guard; what has come so far where it does not come in time."""
    end = time.monotonic() + seconds
    text = b""
    descriptor = guard.stdout.fileno()
    while not text.endswith(b"\n"):
        if not select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
            break
        data = os.read(descriptor, 256)
        if not data:
            break
        text += data
    return text.decode("ascii", "replace").strip()
