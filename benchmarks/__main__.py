"""Measure XLSS in one lab node: `python -m benchmarks [--quick] [--json PATH]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks import (
    cost,
    creation,
    device_io,
    disk_failure,
    footprint,
    replication,
    replication_cost,
)
from benchmarks.figures import Figure, Findings
from benchmarks.site import Site, site
from lab.errors import LabError
from lab.interrupt import end_at_interrupt
from lab.kernel import default_kernel

RESULTS = Path(__file__).resolve().parent / "results"
LOCAL = ("creation", "rate", "io", "footprint", "cost")
REPLICATED = ("replicated-io", "failover", "pause", "disk-failure")
STATUS = "status"
PARTS = (*LOCAL, *REPLICATED, STATUS)
_WIDTH = 130  # of tables in a file or a pipe


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int  # of create and delete, each way
    rates: int  # of the 16 clients against one
    face_rounds: int
    replica_rounds: int
    io_seconds: float  # of a turn of fio
    starts: int
    volumes: int  # that are there for the second half
    failovers: int
    snapshots: int
    disk_failures: int  # of each replica
    looks: int  # rounds of looks at all replicated volumes of a node
    replicated: tuple[int, ...]  # how many these are


THOROUGH = Effort(
    rounds=15,
    rates=3,
    face_rounds=80,
    replica_rounds=40,
    io_seconds=0.25,
    starts=5,
    volumes=creation.MANY,
    failovers=20,
    snapshots=20,
    disk_failures=5,
    looks=30,
    replicated=(1, 50, 200),
)
QUICK = Effort(
    rounds=3,
    rates=1,
    face_rounds=5,
    replica_rounds=5,
    io_seconds=0.2,
    starts=1,
    volumes=20,
    failovers=2,
    snapshots=3,
    disk_failures=1,
    looks=5,
    replicated=(1, 10),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short look: few rounds")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--only", choices=PARTS, action="append", help="some parts; repeatable")
    options = parser.parse_args(arguments)
    effort = QUICK if options.quick else THOROUGH
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    before = psutil.cpu_times()
    findings, failed = Findings(), False
    try:
        _measure(findings, effort, options.only or PARTS, console)
    except LabError as error:
        console.print(f"[red]{error}", highlight=False)
        failed = True
    stolen = _stolen(before, psutil.cpu_times())
    findings.show(console)
    kernel = default_kernel().release
    console.print(
        f"nodes ran Linux {kernel}; the machine below took {stolen:.0%} of this one's processor"
        " time: the more, the less figures of different moments can be compared",
        highlight=False,
    )
    path = options.json or RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        findings.to_json(
            quick=options.quick,
            measured_at=time.strftime("%FT%T%z"),
            stolen=round(stolen, 3),
            kernel=kernel,
        )
    )
    console.print(f"written to {path}")
    missed = findings.missed
    if missed:
        console.print(f"[red]{len(missed)} missed")
    elif not failed:
        console.print("[green]all targets reached")
    return 1 if failed or (missed and not options.quick) else 0


def _stolen(before: Any, after: Any) -> float:
    """Share of the processors' busy time that a virtual machine wanted and did not get."""
    spent = {name: getattr(after, name) - getattr(before, name) for name in after._fields}
    busy = sum(spent[name] for name in ("user", "system", "irq", "softirq", "steal"))
    return float(spent["steal"] / busy) if busy else 0.0


def _measure(findings: Findings, effort: Effort, parts: Sequence[str], console: Console) -> None:
    """Adds to ``findings`` part by part: what was measured outlasts a part that fails."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        if set(parts) & set(LOCAL):
            with site() as bench:
                _Benchmarks(bench, effort, parts, progress, findings).run()
        if set(parts) & set(REPLICATED):
            _replicated(findings.figures, effort, parts, progress)
        if STATUS in parts:
            most = max(effort.replicated)
            progress.add_task(f"looks at up to {most} replicated volumes of a node")
            looks = replication_cost.status_rounds(effort.replicated, effort.looks)
            findings.figures.extend(looks)


def _replicated(
    figures: list[Figure], effort: Effort, parts: Sequence[str], progress: Progress
) -> None:
    task = progress.add_task("two nodes")
    with replication.pair() as bench:
        if "replicated-io" in parts:
            progress.update(task, description="fio on a replicated volume and on DRBD by hand")
            figures += replication.device_rates(bench, effort.replica_rounds, effort.io_seconds)
        if "failover" in parts:
            progress.update(task, description=f"{effort.failovers} failovers")
            figures += replication.failover(bench, effort.failovers)
        if "pause" in parts:
            progress.update(task, description=f"{effort.snapshots} snapshots under a writer")
            figures += replication.snapshot_pause(bench, effort.snapshots)
        if "disk-failure" in parts:
            progress.update(task, description="disks that fail under a replica")
            figures += disk_failure.windows(
                bench, replication.ONE, replication.TWO, effort.disk_failures
            )


class _Benchmarks:
    def __init__(
        self,
        bench: Site,
        effort: Effort,
        parts: Sequence[str],
        progress: Progress,
        findings: Findings,
    ) -> None:
        self._site, self._effort, self._parts = bench, effort, parts
        self._progress = progress
        self._task = progress.add_task("")
        self._few: dict[str, list[float]] = {}
        self._findings = findings

    def run(self) -> None:
        self._site.create("the-first", creation.SIZE, "thin")
        if "creation" in self._parts:
            self._few_volumes()
        if "rate" in self._parts:
            self._rate()
        if "io" in self._parts:
            self._say("fio on the face and on the logical volume")
            effort = self._effort
            self._add(device_io.measure(self._site, effort.face_rounds, effort.io_seconds))
        if "cost" in self._parts:
            self._say("what a request costs")
            self._findings.costs.extend(cost.measure(self._site))
        if "creation" in self._parts or "footprint" in self._parts:
            creation.populate(
                self._site,
                self._effort.volumes,
                lambda done: self._say(f"making {self._effort.volumes} volumes: {done}"),
            )
        if "creation" in self._parts:
            self._many_volumes()
        if "footprint" in self._parts:
            self._say("memory and start")
            self._add(footprint.memory(self._site))
            self._add(footprint.start_up(self._site, self._effort.starts))

    def _few_volumes(self) -> None:
        for way in creation.WAYS:
            self._say(f"create and delete, {way.name}, one volume there")
            ours, theirs = creation.against_hand(self._site, way, self._effort.rounds)
            self._few[way.name] = ours
            self._add([creation.few_figures(way, ours, theirs)])

    def _many_volumes(self) -> None:
        for way in creation.WAYS:
            self._say(f"create and delete, {way.name}, {self._effort.volumes} volumes there")
            ours, theirs = creation.against_hand(self._site, way, self._effort.rounds)
            few, there = self._few[way.name], self._effort.volumes
            self._add(creation.many_figures(way, there, few, ours, theirs))

    def _rate(self) -> None:
        one, many = [], []
        for _ in range(self._effort.rates):
            self._say(f"creations per second, 1 client and {creation.CLIENTS}")
            one.append(creation.per_second(self._site, 1, creation.CLIENTS))
            many.append(creation.per_second(self._site, creation.CLIENTS, 2 * creation.CLIENTS))
        self._add([creation.rate_figures(one, many)])

    def _say(self, text: str) -> None:
        self._progress.update(self._task, description=text)

    def _add(self, figures: Sequence[Figure]) -> None:
        self._findings.figures.extend(figures)


if __name__ == "__main__":
    end_at_interrupt()
    sys.exit(main())
