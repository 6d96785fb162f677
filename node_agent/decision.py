"""What was last decided for a replicated volume, and what failed: for people, and for the loop."""

from __future__ import annotations

import time
from dataclasses import dataclass

from replication.actions import ASKED, Do, Situation
from replication.record import View


@dataclass(frozen=True)
class Decision:
    """What was last decided for a volume, for people. ``failure``: why it could not be done.

    ``before``: what failed before it, while nothing has been done since: who looks while an action
    is tried again, or permitted anew, has to see why that is.
    """

    do: Do
    reason: str
    failure: str = ""
    before: str = ""
    serving: bool = False  # primary, and nothing is held back
    word: str = ""  # what the controller makes of silent nodes
    unheard: bool = False  # no arbiter answers
    person: bool = False  # it waits for a person's decision

    @property
    def own_words(self) -> str:
        """Without the controller's."""
        said = f"{self.reason}: {self.failure}" if self.failure else self.reason
        told = not self.before or (self.failure and self.before.endswith(self.failure))
        return said if told else f"{said} (before, {self.before})"

    @property
    def words(self) -> str:
        return f"{self.own_words} (the controller: {self.word})" if self.word else self.own_words


@dataclass(frozen=True)
class Circumstances:
    """What may make another try end otherwise: the kernel, and what is wanted of it.

    Not the record's epoch, which each permission raises.
    """

    view: View
    primary: str = ""
    members: tuple[str, ...] = ()
    forced: str = ""

    @classmethod
    def of(cls, now: Situation) -> Circumstances:
        if now.held is None:
            return cls(now.view)
        record = now.held.record
        return cls(now.view, record.primary, record.members, record.forced)


@dataclass(frozen=True)
class Failed:
    """The last action on the kernel, which could not be done."""

    do: Do
    words: str
    circumstances: Circumstances
    times: int  # in a row
    until: float  # before that it is not tried again in the same circumstances: time.monotonic()

    def holds_back(self, do: Do, now: Situation) -> bool:
        """Also what is asked before: each answer would be a new one, and begin it all again."""
        again = (do is self.do or do in ASKED) and Circumstances.of(now) == self.circumstances
        return again and time.monotonic() < self.until
