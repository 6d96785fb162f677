"""Whether a replica's data has grown from a generation, with what DRBD 8.4 still knows of it."""

from __future__ import annotations

from replication.record import Generations

BEFORE = "e7fc5a10e996cb9a"
# Seen on a kernel: the source of a resync that had begun twice.
TWICE = Generations("c7a94be057532bb8", "", ("e7fe5a10e996cb9a", "e7fd5a10e996cb9a"))


def test_a_resync_that_began_twice_has_grown_from_the_generation_before_it() -> None:
    assert TWICE.grown_from(BEFORE)
    assert TWICE.grown_from(TWICE.current)


def test_another_generation_is_not_one_that_it_has_grown_from() -> None:
    assert not TWICE.grown_from("e7fc5a10e996cb98")
    assert not Generations("", "", ()).grown_from(BEFORE)


def test_a_half_filled_target_has_not_grown_from_it() -> None:
    assert not Generations("e7fd5a10e996cb9a").grown_from(BEFORE)
