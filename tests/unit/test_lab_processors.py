"""Which node of a lab is moved to another processor, and which stay."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from lab.processors import Look, choose

PASSED = 100


class Case(NamedTuple):
    busy: tuple[int, ...]
    """Percent of each processor."""
    nodes: dict[int, tuple[int, int]]
    """By its kernel: where it is, and what share its kernel has taken, in percent."""
    chosen: tuple[int, int] | None


CASES = {
    "the larger of two that wait": Case((100, 30), {7: (0, 20), 8: (0, 30)}, (8, 1)),
    "not one on the other processor": Case((100, 30), {7: (0, 20), 8: (1, 30)}, (7, 1)),
    "nothing while nobody waits": Case((90, 30), {7: (0, 20), 8: (0, 30)}, None),
    "nothing where there is no room": Case((100, 80), {7: (0, 20), 8: (0, 30)}, None),
    "not one that does nothing": Case((100, 30), {7: (0, 2)}, None),
    "not one that fills a processor": Case((100, 30), {7: (0, 48)}, None),
    "to the idlest of several": Case((40, 100, 10, 60), {7: (1, 20)}, (7, 2)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_node_is_moved_from_a_busy_processor_to_one_with_room(case: Case) -> None:
    processors = range(len(case.busy))
    before = Look(
        dict.fromkeys(processors, 0), dict.fromkeys(processors, 0), dict.fromkeys(case.nodes, 0)
    )
    now = Look(
        dict.fromkeys(processors, PASSED),
        {one: PASSED - busy for one, busy in enumerate(case.busy)},
        {kernel: used for kernel, (_, used) in case.nodes.items()},
    )
    places = {kernel: {place} for kernel, (place, _) in case.nodes.items()}

    assert choose(before, now, places) == case.chosen


def test_a_node_that_began_since_stays() -> None:
    before = Look({0: 0, 1: 0}, {0: 0, 1: 0}, {})
    now = Look({0: PASSED, 1: PASSED}, {0: 0, 1: PASSED}, {7: 30})

    assert choose(before, now, {7: {0}}) is None
