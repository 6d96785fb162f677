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
from host.resume_guard import ResumeGuard


class Holds:
    """Thread safe. ``cgroup_root``: where what has to outlive the agent's container is put."""

    def __init__(self, runner: Runner, cgroup_root: Path) -> None:
        self._runner = runner
        self._cgroup = cgroup_root if (cgroup_root / "cgroup.procs").exists() else None
        self._mutex = threading.Lock()
        self._held: dict[str, ResumeGuard] = {}

    def guard(self, devices: Sequence[str], seconds: float, *, lockfs: bool = True) -> ResumeGuard:
        """What can hold these devices of device-mapper, uppermost ones."""
        return ResumeGuard(
            self._runner, devices, seconds=seconds, lockfs=lockfs, cgroup=self._cgroup
        )

    def suspend(self, volume_ids: Sequence[str], guard: ResumeGuard) -> None:
        """``ResumeGuard.suspend``, known from before it begins; raises what that raises."""
        with self._mutex:
            self._held.update(dict.fromkeys(volume_ids, guard))
        try:
            guard.suspend()
        except BaseException:
            self._forget(guard)
            raise

    def release(self, guard: ResumeGuard) -> bool:
        """``ResumeGuard.release``: whether it held until now."""
        held = guard.release()
        self._forget(guard)
        return held

    @contextmanager
    def still(self, volume_id: str, face: str, seconds: float) -> Iterator[None]:
        """No write is under way in the block; what is mounted is not frozen.

        Raises CommandStuck where those that are do not end within ``seconds``.
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

    def end_hold(self, volume_id: str) -> None:
        """Let it go now; whoever began the hold is told that it did not last."""
        with self._mutex:
            guard = self._held.get(volume_id)
        if guard is not None:
            self.release(guard)

    def _forget(self, guard: ResumeGuard) -> None:
        with self._mutex:
            self._held = {name: other for name, other in self._held.items() if other is not guard}
