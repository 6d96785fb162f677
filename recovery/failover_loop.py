"""Looks after replicated volumes whose nodes fall silent, and lets survivors go on alone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection

from recovery.arbiter import Arbiter
from recovery.failover import judge

_log = logging.getLogger(__name__)


class FailoverLoop:
    """``nodes`` are all configured ones, by which an isolation of our own is told."""

    def __init__(
        self, arbiter: Arbiter, nodes: Collection[str], *, interval_seconds: float = 0.5
    ) -> None:
        self._arbiter = arbiter
        self._nodes = frozenset(nodes)
        self._interval_seconds = interval_seconds
        self._reasons: dict[str, str] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="failover", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Waits for the look that is under way. Before the arbiter is stopped."""
        self._stopped.set()
        self._thread.join()

    def reason(self, volume_id: str) -> str:
        """What was decided about it last and why, in words; "" where nobody is silent."""
        return self._reasons.get(volume_id, "")

    def look(self) -> None:
        """One round. Costs nothing while all nodes speak."""
        silent = self._arbiter.silent()
        reasons: dict[str, str] = {}
        for volume in self._arbiter.with_members_among(silent) if silent else ():
            verdict = judge(volume, silent, self._nodes)
            if verdict.reason:
                reasons[volume.volume_id] = verdict.reason
                if self._reasons.get(volume.volume_id) != verdict.reason:
                    _log.warning("volume %s: %s", volume.volume_id, verdict.reason)
            if verdict.go_alone:
                self._arbiter.let_go_alone(volume.volume_id, verdict.go_alone)
        self._reasons = reasons

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_seconds):
            try:
                self.look()
            except Exception:
                # Whatever it is, the next round may go better; without rounds nothing fails over.
                _log.exception("the nodes could not be looked after")
