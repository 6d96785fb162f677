"""The schedule of a chaos run: the same seed gives the same run, whatever comes of it."""

from __future__ import annotations

from itertools import islice

import pytest

from tests import chaos_schedule
from tests.chaos_schedule import CHANGES, CHECK_EVERY, KINDS, Round, schedule

VOLUMES = 3
MANY = 200


def rounds(seed: int, count: int = MANY, volumes: int = VOLUMES) -> list[Round]:
    return list(islice(schedule(seed, volumes), count))


def test_a_seed_gives_the_same_rounds_again() -> None:
    assert rounds(7) == rounds(7)
    assert rounds(7) != rounds(8)
    assert rounds(7, 5) == rounds(7)[:5]


def test_every_fault_and_every_change_comes_up() -> None:
    drawn = rounds(1)
    assert {fault.kind for one in drawn for fault in one.faults} == set(KINDS)
    assert {change.kind for one in drawn for change in one.changes} == set(CHANGES)
    assert {change.volume for one in drawn for change in one.changes} == set(range(VOLUMES))
    assert [one.number for one in drawn if one.check] == list(range(CHECK_EVERY, MANY, CHECK_EVERY))


def test_changes_begin_while_the_faults_last() -> None:
    for one in rounds(2):
        assert one.changes or one.faults[0].kind == "disk-errors"
        assert all(0 <= change.after <= one.seconds for change in one.changes)
        kinds = [change.kind for change in one.changes]
        assert len(kinds) == len(set(kinds))


def test_a_failed_disk_is_the_only_replica_that_is_lost() -> None:
    failing = [one for one in rounds(5) if any(f.kind == "disk-errors" for f in one.faults)]
    assert MANY / 10 < len(failing) < MANY / 3
    lost = {"power-off", "power-off-both", "isolate", "cut-link", "pause-node", "disturb"}
    for one in failing:
        assert not one.changes
        assert not lost & {fault.kind for fault in one.faults}


def test_faults_do_not_depend_on_the_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that failed gives the same faults when there are other changes to be had."""
    before = rounds(3)
    monkeypatch.setattr(chaos_schedule, "CHANGES", {"verify": CHANGES["verify"]})
    monkeypatch.setattr(chaos_schedule, "_MOST_CHANGES", 1)
    after = rounds(3, volumes=5)
    assert [one.changes for one in before] != [one.changes for one in after]
    for one, other in zip(before, after, strict=True):
        assert (one.faults, one.seconds) == (other.faults, other.seconds)


def test_a_line_names_what_happens_to_which_volume() -> None:
    told = [str(change) for one in rounds(4) for change in one.changes]
    assert any(words.startswith("snapshot of volume ") for words in told)
    assert any(words.startswith("expand 8MiB of volume ") for words in told)
