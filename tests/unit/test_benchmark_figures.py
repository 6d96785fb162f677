"""What benchmarks find is compared fairly, judged by its target, and written for programs."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from benchmarks.figures import (
    Cost,
    Figure,
    Findings,
    at_least,
    at_most,
    interleave,
    mean_ratio,
    median_ratio,
    ratio,
)
from benchmarks.site import Sample, parse_samples

FAST = Figure("create", "CSI / by hand", 0.5, "", at_most(0.8))
SLOW = Figure("fio", "random read", 0.9, "", at_least(0.97))
PLAIN = Figure("rate", "volumes", 4.2, "per s")


def test_a_figure_is_judged_by_its_target() -> None:
    assert FAST.reached is True
    assert SLOW.reached is False
    assert PLAIN.reached is None
    assert Findings([FAST, SLOW, PLAIN]).missed == [SLOW]


def test_ways_are_measured_in_turn_after_one_round_that_does_not_count() -> None:
    log: list[str] = []

    def way(name: str, number: int) -> float:
        log.append(f"{name}{number}")
        return float(number)

    ours, theirs = interleave(2, lambda n: way("a", n), lambda n: way("b", n))

    assert log == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert (ours, theirs) == ([1.0, 2.0], [1.0, 2.0])


def test_ratios_are_of_medians_and_of_rounds() -> None:
    # A machine that becomes four times slower in the middle.
    ours, theirs = [1.0, 4.0, 4.0], [2.0, 2.0, 8.0]

    assert ratio(ours, theirs) == 2.0
    assert median_ratio(ours, theirs) == 0.5
    with pytest.raises(ValueError, match="longer"):
        median_ratio([1.0], theirs)


def test_a_ratio_of_means_tells_how_far_its_rounds_scatter() -> None:
    found, error = mean_ratio([9.0, 11.0, 9.0, 11.0], [10.0, 10.0, 10.0, 10.0])

    assert (found, error) == pytest.approx((1.0, 0.05))


def test_results_are_written_for_programs() -> None:
    cost = Cost(
        "CreateVolume, thin", 40.0, lvm_commands=1, other_commands=0, forks=2, agent_calls=1
    )

    written = json.loads(Findings([SLOW], [cost]).to_json(quick=True))

    assert written["quick"] is True
    (figure,) = written["figures"]
    assert (figure["name"], figure["reached"]) == ("random read", False)
    assert figure["target"] == {"limit": 0.97, "at_most": False}
    assert written["costs"][0]["lvm_commands"] == 1


def test_tables_say_target_and_verdict() -> None:
    console = Console(file=io.StringIO(), width=160)

    Findings([FAST, SLOW, PLAIN], [Cost("DeleteVolume", 9.0, 1, 0, 0, 1)]).show(console)

    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert any("CSI / by hand" in line and "≤ 0.8" in line and "reached" in line for line in lines)
    assert any("random read" in line and "≥ 0.97" in line and "missed" in line for line in lines)
    assert any("DeleteVolume" in line for line in lines)


def test_a_scrape_is_read() -> None:
    text = (
        "# HELP xlss_command_duration_seconds External commands\n"
        'xlss_command_duration_seconds_count{command="lvs",outcome="ok"} 12.0\n'
        "process_resident_memory_bytes 4.1e+07\n"
    )

    assert parse_samples(text) == [
        Sample("xlss_command_duration_seconds_count", {"command": "lvs", "outcome": "ok"}, 12.0),
        Sample("process_resident_memory_bytes", {}, 4.1e7),
    ]
