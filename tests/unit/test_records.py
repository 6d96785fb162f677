"""What the checker says about records, from what was acknowledged and what is read.

The ring has 8 places; a writer runs at most 2 records ahead of its acknowledgements here.
"""

from __future__ import annotations

import pytest

from lab.record_format import BLANK, Found, State, pack, parse, place_of
from lab.record_verdict import Journal, Session, Verdict, Written, judge
from lab.records import differing

PLACES = 8
AHEAD = 2
RUN = bytes(range(16))
Region = list[Found]


def writer(epoch: int, found: int, last: int, *, began: float = 0.0, ahead: int = AHEAD) -> Session:
    """One that found this record and got all up to `last` acknowledged, one a second."""
    arrivals = tuple(began + 1.0 + n for n in range(last - found))
    return Session(epoch, f"n{epoch}", found, began, arrivals, ahead)


def region(*written: tuple[int, int, int]) -> Region:
    """A ring after these (epoch, first number, last number) were written in this order."""
    places = [BLANK] * PLACES
    for epoch, first, last in written:
        for number in range(first, last + 1):
            place = place_of(number, PLACES)
            places[place] = Found(State.RECORD, epoch, number, place)
    return places


def damaged(places: Region, number: int) -> Region:
    place = place_of(number, PLACES)
    there = places[place]
    spoiled = Found(State.DAMAGED, there.epoch, there.number, there.place)
    return [spoiled if n == place else found for n, found in enumerate(places)]


def verdict(places: Region, *journal: Session, later: Journal | None = None) -> Verdict:
    return judge(places, journal, later)


class TestNothingIsWrong:
    @pytest.mark.parametrize("there", [5, 6, 7])
    def test_whether_or_not_writes_under_way_are_there(self, there: int) -> None:
        assert verdict(region((1, 1, there)), writer(1, 0, 5)) == Verdict(
            lost=(), damaged=(), impossible=(), both_sides=(), unfinished=(), highest=there
        )

    @pytest.mark.parametrize("there", [30, 31, 32])
    def test_when_the_ring_has_gone_round(self, there: int) -> None:
        assert verdict(region((1, 1, there)), writer(1, 0, 30)).ok

    def test_when_nothing_was_written(self) -> None:
        assert verdict(region()).ok
        assert verdict(region(), writer(1, 0, 0)).ok

    def test_when_a_second_writer_went_on_from_an_unacknowledged_record(self) -> None:
        first, second = writer(1, 0, 10), writer(2, 11, 14, began=20.0)
        assert verdict(region((1, 1, 11), (2, 12, 14)), first, second).ok

    def test_when_a_second_writer_wrote_an_unacknowledged_number_again(self) -> None:
        first, second = writer(1, 0, 10), writer(2, 10, 14, began=20.0)
        assert verdict(region((1, 1, 10), (2, 11, 14)), first, second).ok

    def test_with_a_broken_record_whose_write_was_under_way(self) -> None:
        found = verdict(damaged(region((1, 1, 11)), 11), writer(1, 0, 10))
        assert found.ok
        assert found.unfinished == (place_of(11, PLACES),)

    def test_with_the_rest_of_another_run(self) -> None:
        other = pack(bytes(16), 1, 1, 0, 512)
        assert verdict([parse(other, RUN)] * PLACES, writer(1, 0, 0)).ok


class TestLost:
    def test_is_the_last_acknowledged_record(self) -> None:
        found = verdict(region((1, 1, 4)), writer(1, 0, 5))
        assert found.lost == (Written(1, 5),)
        assert found.highest == 4

    def test_is_one_whose_place_still_holds_the_round_before(self) -> None:
        places = region((1, 1, 30))
        old = region((1, 1, 20))
        place = place_of(28, PLACES)
        places[place] = old[place]
        assert verdict(places, writer(1, 0, 30)).lost == (Written(1, 28),)

    def test_is_everything_on_a_blank_disk(self) -> None:
        assert len(verdict(region(), writer(1, 0, 30)).lost) == PLACES

    def test_is_an_unacknowledged_record_that_a_later_one_proves(self) -> None:
        places = region((1, 1, 7))
        places[place_of(6, PLACES)] = BLANK
        assert verdict(places, writer(1, 0, 5)).lost == (Written(1, 6),)

    def test_is_what_the_next_writer_did_not_find(self) -> None:
        first, second = writer(1, 0, 10), writer(2, 8, 12, began=20.0)
        found = verdict(region((1, 1, 8), (2, 9, 12)), first, second)
        assert found.lost == (Written(1, 9), Written(1, 10))
        assert found.both_sides == ()

    def test_is_what_the_next_writer_had_found_and_is_gone(self) -> None:
        first, second = writer(1, 0, 10), writer(2, 11, 12, began=20.0)
        places = region((1, 1, 10), (2, 12, 12))
        assert verdict(places, first, second).lost == (Written(1, 11),)

    def test_is_what_the_other_side_holds_another_record_for(self) -> None:
        first, second = writer(1, 0, 10), writer(2, 10, 12, began=20.0)
        places = region((1, 1, 11), (2, 12, 12))
        found = verdict(places, first, second)
        assert found.lost == (Written(2, 11),)
        assert found.impossible == (Written(1, 11),)


def test_a_broken_acknowledged_record_is_damaged_and_lost() -> None:
    found = verdict(damaged(region((1, 1, 5)), 5), writer(1, 0, 5))
    assert found.damaged == (4,)
    assert found.lost == (Written(1, 5),)
    assert not found.ok


class TestImpossible:
    def test_is_a_record_far_beyond_what_was_acknowledged(self) -> None:
        assert verdict(region((1, 1, 8)), writer(1, 0, 5)).impossible == (Written(1, 8),)

    @pytest.mark.parametrize(("ahead", "there"), [(0, 6), (1, 7)])
    def test_is_any_beyond_the_end_of_a_writer_that_told_its_end(
        self, ahead: int, there: int
    ) -> None:
        found = verdict(region((1, 1, there)), writer(1, 0, 5, ahead=ahead))
        assert found.impossible == (Written(1, there),)

    def test_is_one_of_a_writer_that_nobody_started(self) -> None:
        found = verdict(region((1, 1, 5), (3, 6, 6)), writer(1, 0, 5))
        assert found.impossible == (Written(3, 6),)

    def test_is_one_that_lies_in_the_place_of_another(self) -> None:
        places = region((1, 1, 5))
        places[6] = places[2]
        assert verdict(places, writer(1, 0, 5)).impossible == (Written(1, 3),)

    def test_is_one_that_a_succeeded_writer_wrote_after_its_time(self) -> None:
        first, second = writer(1, 0, 10), writer(2, 10, 10, began=20.0)
        places = region((1, 1, 11))
        assert verdict(places, first, second).impossible == (Written(1, 11),)


def test_both_sides_wrote_when_a_succeeded_writer_is_acknowledged_still() -> None:
    first = Session(1, "n1", 0, 0.0, (1.0, 2.0, 3.0, 30.0, 31.0), AHEAD)
    second = writer(2, 3, 6, began=20.0)
    for places in (region((1, 1, 5)), region((1, 1, 3), (2, 4, 6))):
        found = verdict(places, first, second)
        assert found.both_sides == (Written(1, 4), Written(1, 5))
        assert not found.ok


class TestSnapshot:
    before = (writer(1, 0, 20),)
    after = (writer(1, 0, 24),)

    @pytest.mark.parametrize("there", range(20, 27))
    def test_may_be_of_any_moment_in_between(self, there: int) -> None:
        found = judge(region((1, 1, there)), self.before, self.after)
        assert found.ok
        assert found.highest == there

    def test_has_to_hold_what_was_acknowledged_before(self) -> None:
        found = judge(region((1, 1, 19)), self.before, self.after)
        assert found.lost == (Written(1, 20),)

    def test_has_no_holes(self) -> None:
        places = region((1, 1, 24))
        places[place_of(22, PLACES)] = region((1, 1, 20))[place_of(22, PLACES)]
        assert judge(places, self.before, self.after).lost == (Written(1, 22),)

    def test_knows_nothing_of_later_losses(self) -> None:
        later = (*self.after, writer(2, 18, 30, began=50.0))
        assert not judge(region((1, 1, 20)), self.before, self.before).lost
        assert judge(region((1, 1, 18), (2, 19, 30)), later).lost


class TestFormat:
    def test_reads_what_was_written(self) -> None:
        data = pack(RUN, 3, 17, 5, 4096)
        assert len(data) == 4096
        assert parse(data, RUN) == Found(State.RECORD, 3, 17, 5)
        assert parse(data, bytes(16)) == BLANK
        assert parse(bytes(4096), RUN) == BLANK

    @pytest.mark.parametrize("position", [40, 47, 60, 64, 511, 512, 2000, 4095])
    def test_sees_every_changed_bit(self, position: int) -> None:
        data = bytearray(pack(RUN, 3, 17, 5, 4096))
        data[position] ^= 0x10
        assert parse(bytes(data), RUN).state is State.DAMAGED

    def test_sees_sectors_of_another_record(self) -> None:
        old, new = pack(RUN, 1, 9, 0, 4096), pack(RUN, 1, 17, 0, 4096)
        assert parse(new[:512] + old[512:], RUN).state is State.DAMAGED
        assert parse(old[:3584] + new[3584:], RUN).state is State.DAMAGED


def test_two_devices_differ_where_their_pieces_do_or_one_ends() -> None:
    assert differing(["a", "b", "c"], ["a", "b", "c"]) == []
    assert differing(["a", "b", "c"], ["a", "x", "c"]) == [1 << 20]
    assert differing(["a", "b"], ["a", "b", "c"]) == [2 << 20]
