"""Which faces are held still for a moment, for a snapshot or for DRBD to grow, and by what.

The membership loop has to tell such a hold from its own, and to end it: what holds a face lets it
go by a deadline, and a write that waits for a lost replica to leave the set must not go on by that.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from host.command import Runner
from host.errors import InTransition
from host.resume_guard import ResumeGuard


class _Hold:
    def __init__(self, guard: ResumeGuard) -> None:
        self.guard = guard
        self.begun = threading.Event()  # or it could not begin


class Holds:
    """Thread safe. ``cgroup_root``: where what has to outlive the agent's container is put."""

    def __init__(self, runner: Runner, cgroup_root: Path) -> None:
        self._runner = runner
        self._cgroup = cgroup_root if (cgroup_root / "cgroup.procs").exists() else None
        self._mutex = threading.Lock()
        self._held: dict[str, _Hold] = {}
        self._barred: set[str] = set()

    def guard(self, devices: Sequence[str], seconds: float, *, lockfs: bool = True) -> ResumeGuard:
        """What can hold these devices of device-mapper, uppermost ones."""
        return ResumeGuard(
            self._runner, devices, seconds=seconds, lockfs=lockfs, cgroup=self._cgroup
        )

    def suspend(self, volume_ids: Sequence[str], guard: ResumeGuard) -> None:
        """``ResumeGuard.suspend``, known from before it begins; raises what that raises."""
        hold = _Hold(guard)
        with self._mutex:
            if barred := self._barred.intersection(volume_ids):
                raise InTransition(f"volume {min(barred)} loses a replica; repeat the request")
            self._held.update(dict.fromkeys(volume_ids, hold))
        try:
            guard.suspend()
        except BaseException:
            self._forget(guard)
            raise
        finally:
            hold.begun.set()

    def release(self, guard: ResumeGuard) -> bool:
        """``ResumeGuard.release``: whether it held until now."""
        held = guard.release()
        self._forget(guard)
        return held

    @contextmanager
    def still(self, volume_id: str, face: str, seconds: float) -> Iterator[None]:
        """No write is under way in the block; what is mounted is not frozen.

        Raises CommandStuck where those that are do not end within ``seconds``, InTransition.
        """
        guard = self.guard([face], seconds, lockfs=False)
        self.suspend([volume_id], guard)
        try:
            yield
        finally:
            self.release(guard)

    def is_held(self, volume_id: str) -> bool:
        with self._mutex:
            return volume_id in self._held

    @contextmanager
    def ended(self, volume_id: str) -> Iterator[None]:
        """It is let go, and nothing holds it before the end of the block.

        Whoever began the hold is told that it did not last.
        """
        with self._mutex:
            self._barred.add(volume_id)
            hold = self._held.get(volume_id)
        try:
            if hold is not None:
                # What is just being suspended would be resumed by its guard, whoever wants it then.
                hold.begun.wait()
                self.release(hold.guard)
            yield
        finally:
            with self._mutex:
                self._barred.remove(volume_id)

    def _forget(self, guard: ResumeGuard) -> None:
        with self._mutex:
            self._held = {
                name: hold for name, hold in self._held.items() if hold.guard is not guard
            }
