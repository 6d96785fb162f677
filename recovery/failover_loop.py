"""Looks after replicated volumes whose nodes fall silent, and lets survivors go on alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection

from recovery.failover import DOUBTFUL_SECONDS, Replicated, judge, not_connected
from recovery.followed import Followed
from recovery.rounds import Rounds

_log = logging.getLogger(__name__)


class FailoverLoop:
    """``nodes`` are all configured ones, by which an isolation of our own is told."""

    def __init__(
        self, followed: Followed, nodes: Collection[str], *, interval_seconds: float = 0.5
    ) -> None:
        self._followed = followed
        self._nodes = frozenset(nodes)
        self._reasons: dict[str, str] = {}
        self._apart_since: dict[str, float] = {}  # volume -> time.monotonic()
        self._rounds = Rounds(
            "failover", self.look, interval_seconds, "the nodes could not be looked after"
        )

    def start(self) -> None:
        self._rounds.start()

    def stop(self) -> None:
        """Waits for the look that is under way. Before the arbiter is stopped."""
        self._rounds.stop()

    def reason(self, volume_id: str) -> str:
        """What was decided about it last and why, in words; "" where nobody is silent."""
        return self._reasons.get(volume_id, "")

    def look(self) -> None:
        """One round."""
        silent = self._followed.silent()
        doubtful = self._followed.silent(DOUBTFUL_SECONDS)
        unsettled = self._followed.unsettled(silent)
        self._note_who_is_apart(unsettled)
        now = time.monotonic()
        reasons: dict[str, str] = {}
        words: dict[str, str] = {}
        for volume in unsettled:
            seconds = now - self._apart_since.get(volume.volume_id, now)
            verdict = judge(volume, silent, self._nodes, doubtful=doubtful, apart_seconds=seconds)
            if verdict.reason:
                reasons[volume.volume_id] = verdict.reason
                if self._reasons.get(volume.volume_id) != verdict.reason:
                    _log.warning("volume %s: %s", volume.volume_id, verdict.reason)
                words[volume.volume_id] = verdict.reason + _command(volume, verdict.go_alone)
            if verdict.go_alone:
                self._followed.let_go_alone(volume.volume_id, verdict.go_alone)
        self._reasons = reasons
        self._followed.tell_words(words)

    def _note_who_is_apart(self, unsettled: Collection[Replicated]) -> None:
        now, before = time.monotonic(), self._apart_since
        apart = [volume.volume_id for volume in unsettled if not_connected(volume)]
        self._apart_since = {volume_id: before.get(volume_id, now) for volume_id in apart}


def _command(volume: Replicated, go_alone: str) -> str:
    """How a person decides what the loop does not."""
    if go_alone or not volume.record.primary:
        return ""
    to = f"xlss volume fail-over {volume.volume_id} --to {volume.record.primary}"
    return f"; a person can decide: {to}"
