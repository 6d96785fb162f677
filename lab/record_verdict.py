"""What has become of acknowledged records: a pure judgement of what was read.

A writer makes one record durable before it writes the next. So a record proves all earlier ones of
its writer, and a writer that found record N when it began proves all up to N: these are asked for
like acknowledged ones, and a snapshot is right only if it holds an unbroken beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lab.record_format import Found, State, place_of

NEVER = 1 << 64
"""Beyond every number of a record."""


class Written(NamedTuple):
    """One record: the epoch of its writer, and its number."""

    epoch: int
    number: int


@dataclass(frozen=True)
class Session:
    """One writer, as far as the host knows."""

    epoch: int
    """Higher than those of the writers that were started before."""
    node: str
    found: int
    """The last record on its disk when it began; it wrote on from there."""
    began: float
    """When the host learned that, seconds of its monotonic clock."""
    acknowledged: tuple[float, ...]
    """When each acknowledgement arrived, of record found + 1 and on, by the same clock."""
    ahead: int
    """How many further records it may have written without an acknowledgement arriving."""

    @property
    def first(self) -> int:
        return self.found + 1

    @property
    def last(self) -> int:
        """The last acknowledged record."""
        return self.found + len(self.acknowledged)


Journal = tuple[Session, ...]
"""All writers of a run, in the order of their epochs."""


@dataclass(frozen=True)
class Verdict:
    """What is wrong with the records; `ok` if nothing is."""

    lost: tuple[Written, ...]
    """Acknowledged, or proven by a later record, and not there."""
    damaged: tuple[int, ...]
    """Places with a broken record where no write was under way."""
    impossible: tuple[Written, ...]
    """There, but not by any writer: never written, or written behind a successor's back."""
    both_sides: tuple[Written, ...]
    """Acknowledged after a later writer had begun without them: two sides were writing."""
    unfinished: tuple[int, ...]
    """Places with a broken record, whose write was under way: nothing wrong."""
    highest: int
    """The highest number of a whole record that belongs there."""

    @property
    def ok(self) -> bool:
        return not (self.lost or self.damaged or self.impossible or self.both_sides)


def judge(places: Sequence[Found], journal: Journal, later: Journal | None = None) -> Verdict:
    """Judge all places of a ring after the writers of `journal`.

    For a snapshot: `journal` is from before it was begun, whose acknowledgements must be in it,
    `later` from after it was there, whose records may be.
    """
    return _Judgement(places, journal, journal if later is None else later).verdict()


class _Judgement:
    def __init__(self, places: Sequence[Found], journal: Journal, later: Journal) -> None:
        self._places = places
        self._journal = journal
        self._later = later
        self._sessions = {session.epoch: session for session in later}
        self._lost: set[Written] = set()
        self._impossible: set[Written] = set()
        self._damaged: list[int] = []
        self._unfinished: list[int] = []

    def verdict(self) -> Verdict:
        there = self._belonging()
        expected = self._expected(there)
        both_sides = self._left_behind()
        for place, found in enumerate(self._places):
            self._look(place, found, expected.get(place), there.get(place))
        return Verdict(
            lost=tuple(sorted(self._lost)),
            damaged=tuple(self._damaged),
            impossible=tuple(sorted(self._impossible)),
            both_sides=tuple(sorted(both_sides)),
            unfinished=tuple(self._unfinished),
            highest=max((written.number for written in there.values()), default=0),
        )

    def _belonging(self) -> dict[int, Written]:
        """The whole records that some writer may have left where they are, by place."""
        there = {}
        for place, found in enumerate(self._places):
            if found.state is not State.RECORD:
                continue
            written = Written(found.epoch, found.number)
            right_place = found.place == place == place_of(found.number, len(self._places))
            if right_place and self._possible(written):
                there[place] = written
            else:
                self._impossible.add(written)
        return there

    def _possible(self, written: Written) -> bool:
        session = self._sessions.get(written.epoch)
        if session is None:
            return False
        last = min(session.last + session.ahead, _succeeded_at(session, self._later))
        return session.first <= written.number <= last

    def _expected(self, there: dict[int, Written]) -> dict[int, Written]:
        """The newest record that has to be at each place, where there is one."""
        highest: dict[int, int] = {}
        for written in there.values():
            highest[written.epoch] = max(written.number, highest.get(written.epoch, 0))
        expected: dict[int, Written] = {}
        for session in self._later:
            last = _succeeded_at(session, self._journal)
            if last == NEVER:
                proven = max(self._known_last(session), highest.get(session.epoch, 0) - 1)
                last = min(proven, _succeeded_at(session, self._later))
            for number in range(max(session.first, last + 1 - len(self._places)), last + 1):
                place = place_of(number, len(self._places))
                if place not in expected or expected[place].number < number:
                    expected[place] = Written(session.epoch, number)
        return expected

    def _left_behind(self) -> set[Written]:
        """Sort acknowledged records that a later writer did not find: lost, or of two sides."""
        both_sides = set()
        for session in self._journal:
            for later in self._journal:
                if later.epoch <= session.epoch:
                    continue
                for number in range(max(session.first, later.first), session.last + 1):
                    written = Written(session.epoch, number)
                    if session.acknowledged[number - session.first] > later.began:
                        both_sides.add(written)
                    else:
                        self._lost.add(written)
        return both_sides

    def _look(
        self, place: int, found: Found, expected: Written | None, there: Written | None
    ) -> None:
        if found.state is State.DAMAGED:
            if self._under_way(place, expected.number if expected else 0):
                self._unfinished.append(place)
                return
            self._damaged.append(place)
        newer = there is not None and expected is not None and there.number > expected.number
        if expected is not None and there != expected and not newer:
            self._lost.add(expected)

    def _under_way(self, place: int, least: int) -> bool:
        """Whether a record beyond `least` may just have been being written at this place."""
        for session in self._later:
            begin = max(least, self._known_last(session)) + 1
            end = min(session.last + session.ahead, _succeeded_at(session, self._later))
            end = min(end, begin + len(self._places) - 1)
            if any(place_of(n, len(self._places)) == place for n in range(begin, end + 1)):
                return True
        return False

    def _known_last(self, session: Session) -> int:
        """The last record that the writer had acknowledged by the earlier journal."""
        known = [old.last for old in self._journal if old.epoch == session.epoch]
        return known[0] if known else session.found


def _succeeded_at(session: Session, journal: Journal) -> int:
    """The last record that all later writers found; NEVER if there are none."""
    later = [other.found for other in journal if other.epoch > session.epoch]
    return min(later, default=NEVER)
