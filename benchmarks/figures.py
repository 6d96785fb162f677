"""What a benchmark finds: figures, each with its target, and what a request costs."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Target:
    """What a figure has to reach, and whether smaller or larger is better."""

    limit: float
    at_most: bool

    def reached(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.limit:g}"


def at_most(limit: float) -> Target:
    return Target(limit, at_most=True)


def at_least(limit: float) -> Target:
    return Target(limit, at_most=False)


@dataclass(frozen=True)
class Figure:
    """One measured number; `basis` says what it comes from, for people."""

    group: str
    name: str
    value: float
    unit: str
    target: Target | None = None
    basis: str = ""

    @property
    def reached(self) -> bool | None:
        return None if self.target is None else self.target.reached(self.value)


@dataclass(frozen=True)
class Cost:
    """What one request made the two processes do."""

    request: str
    milliseconds: float
    lvm_commands: int
    other_commands: int
    forks: int  # processes and threads begun in the node, by its kernel's count
    agent_calls: int


@dataclass
class Findings:
    """Everything that a run has found."""

    figures: list[Figure] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)

    @property
    def missed(self) -> list[Figure]:
        return [figure for figure in self.figures if figure.reached is False]

    def to_json(self, **about: Any) -> str:
        """All of it as a JSON object; `about` says how and where it was measured."""
        figures = [asdict(figure) | {"reached": figure.reached} for figure in self.figures]
        costs = [asdict(cost) for cost in self.costs]
        return json.dumps(about | {"figures": figures, "costs": costs}, indent=2) + "\n"

    def show(self, console: Console) -> None:
        """Print the tables."""
        console.print(self._figures())
        if self.costs:
            console.print(self._costs())

    def _figures(self) -> Table:
        table = Table(title="XLSS benchmarks", title_justify="left")
        for heading in ("what", "", "result", "target", "", "from"):
            table.add_column(heading, justify="right" if heading == "result" else "left")
        group = ""
        for figure in self.figures:
            if figure.group != group and group:
                table.add_section()
            mark = {None: "", True: "[green]reached", False: "[red]missed"}[figure.reached]
            table.add_row(
                figure.group if figure.group != group else "",
                figure.name,
                f"{figure.value:.4g} {figure.unit}".strip(),
                str(figure.target or ""),
                mark,
                figure.basis,
            )
            group = figure.group
        return table

    def _costs(self) -> Table:
        table = Table(title="What a request costs", title_justify="left")
        table.add_column("request")
        for heading in ("ms", "LVM commands", "other commands", "forks in the node", "agent calls"):
            table.add_column(heading, justify="right")
        for cost in self.costs:
            table.add_row(
                cost.request,
                f"{cost.milliseconds:.0f}",
                str(cost.lvm_commands),
                str(cost.other_commands),
                str(cost.forks),
                str(cost.agent_calls),
            )
        return table


def interleave(
    rounds: int, *ways: Callable[[int], float], between: Callable[[], None] = lambda: None
) -> list[list[float]]:
    """Measure several ways in turn, A B A B …: what else the machine does hits all alike.

    Each way gets the number of the round and returns its measurement. One round before the
    counted ones warms everything up.
    """
    results: list[list[float]] = [[] for _ in ways]
    for number in range(-1, rounds):
        for way, result in zip(ways, results, strict=True):
            value = way(number + 1)
            if number >= 0:
                result.append(value)
        between()
    return results


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Ratio of the medians."""
    return statistics.median(ours) / statistics.median(theirs)


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios of each round: steadier than `ratio` where the machine drifts."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def mean_ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Ratio of the means, and its standard error, as the ratios of the rounds scatter."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    scatter = statistics.pstdev(ratios) / math.sqrt(len(ratios))
    return statistics.mean(ours) / statistics.mean(theirs), scatter


def milliseconds(values: Sequence[float]) -> str:
    """Median and range of seconds, for people."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle * 1000:.0f} ms ({low * 1000:.0f}–{high * 1000:.0f})"
