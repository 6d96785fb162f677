"""Faults and changes at random, for a given time, on replicated volumes. None may lose a record.

    python -m tests.chaos --seconds 1200 --seed 7 --volumes 3

Each round makes one to three faults for some seconds and undoes them; meanwhile volumes are cut,
verified, grown, and their replicas changed. Then every service has to write again, every volume has
to be in sync, and snapshots are looked at; every few rounds all records are, on both replicas. The
schedule is drawn from the seed alone: the same seed gives the same faults and changes.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

from lab.interrupt import end_at_interrupt
from lab.lab import Lab
from lab.paths import PROJECT
from tests.chaos_schedule import schedule
from tests.chaos_world import World

SETTLING_SECONDS = 240.0
EVIDENCE = PROJECT / ".chaos"


class Lost(Exception):
    """A round has failed; the text says which, and where the evidence is."""


class Run:
    """One run, and what it counts."""

    def __init__(self, world: World, seed: int, say: Callable[[str], None]) -> None:
        self.world = world
        self.seed = seed
        self.faults: Counter[str] = Counter()
        self.changes: Counter[str] = Counter()
        self.rounds = 0
        self.checks = 0
        self._say = say
        self._began = time.monotonic()
        self._unwatched: list[tuple[float, float]] = []

    def go_on(self, seconds: float) -> None:
        """Rounds until that time is over, and a last check. Raises Lost."""
        self.world.settle(SETTLING_SECONDS)
        for number, faults, changes, lasting, check in schedule(self.seed, len(self.world.keepers)):
            self.rounds = number
            said = f"{', '.join(map(str, faults))} for {lasting:.1f} s"
            if changes:
                said += f"; {', '.join(map(str, changes))}"
            try:
                self.changes.update(change.kind for change in changes)
                self.world.changes.begin(changes)
                for fault in faults:
                    self.faults[fault.kind] += 1
                    self.world.make(fault)
                time.sleep(lasting)
                self.world.heal()
                self.world.settle(SETTLING_SECONDS)
                self.world.changes.review()
                over = time.monotonic() - self._began > seconds
                if over:
                    self.world.changes.cuts.delete_all()
                if check or over:
                    self._check()
            except Exception as error:
                folder = EVIDENCE / f"seed-{self.seed}"
                self.world.keep_evidence(folder)
                raise Lost(
                    f"seed {self.seed}, round {number}, {said}: {error}\n"
                    f"what nodes and processes said is in {folder}"
                ) from error
            told = f"{time.monotonic() - self._began:6.0f} s  {said}"
            self._say(f"{told}: {self.world.acknowledged()} records")
            if over:
                return

    def _check(self) -> None:
        """The services stand still meanwhile, which is no silence of the volumes."""
        began = time.monotonic()
        self.world.check()
        self.world.settle(SETTLING_SECONDS)
        self._unwatched.append((began, time.monotonic()))
        self.checks += 1

    def longest_silence(self) -> float:
        """Between two acknowledgements of one service, over failovers too, in seconds."""
        longest = 0.0
        for keeper in self.world.keepers:
            journal = keeper.service.records.journal()
            times = sorted(moment for session in journal for moment in session.acknowledged)
            for one, next_one in pairwise(times):
                if not any(one < end and begin < next_one for begin, end in self._unwatched):
                    longest = max(longest, next_one - one)
        return longest

    def totals(self) -> str:
        changes = self.world.changes
        verifies = changes.finished_verifies
        return (
            f"seed {self.seed}: {self.rounds} rounds, {_counted(self.faults, 'faults')}, "
            f"{_counted(self.changes, 'changes')}; {changes.cuts.judged} snapshots looked at and "
            f"restored, {verifies[True]} of {verifies.total()} results of verifies were whole; "
            f"{self.world.acknowledged()} records acknowledged, 0 lost, {self.checks} checks of "
            f"all records; longest silence {self.longest_silence():.1f} s"
        )


def _counted(kinds: Counter[str], what: str) -> str:
    words = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    return f"{kinds.total()} {what} ({words})"


def run(lab: Lab, seconds: float, seed: int, volumes: int, say: Callable[[str], None]) -> Run:
    """The whole of it. Raises Lost."""
    world = World(lab, volumes)
    try:
        one = Run(world, seed, say)
        one.go_on(seconds)
        say(one.totals())
        return one
    finally:
        world.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1200.0)
    parser.add_argument("--seed", default="random", help="a number, or random")
    parser.add_argument("--volumes", type=int, default=3)
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32)
    if options.seed != "random":
        seed = int(options.seed)

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    say(f"seed {seed}")
    with Lab() as lab:
        try:
            run(lab, options.seconds, seed, options.volumes, say)
        except Lost as lost:
            say(f"FAILED: {lost}")
            return 1
    return 0


if __name__ == "__main__":
    end_at_interrupt()
    sys.exit(main())
