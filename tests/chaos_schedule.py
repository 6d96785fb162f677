"""The faults and changes of a chaos run, drawn from its seed alone: never from what happens.

Changes have a source of their own: whichever there are, a seed's faults stay the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

NODES = ("n1", "n2", "n3")
PAIRS = (("n1", "n2"), ("n2", "n3"), ("n1", "n3"))
CHECK_EVERY = 6
_SECONDS = (1.0, 8.0)
_MOST_CHANGES = 2
_DISTURBANCES = ("delay 20ms 5ms loss 1%", "loss 10%", "delay 200ms", "delay 50ms 20ms loss 5%")


class Fault(NamedTuple):
    kind: str
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((self.kind, *self.arguments))


class Change(NamedTuple):
    """What somebody wants of a volume, while the faults last."""

    kind: str
    volume: int
    """Its number, of as many as there are."""
    after: float
    """Seconds from the beginning of the round's first fault."""
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        words = " ".join((self.kind, *self.arguments))
        return f"{words} of volume {self.volume} after {self.after:.1f} s"


class Round(NamedTuple):
    number: int
    faults: tuple[Fault, ...]
    changes: tuple[Change, ...]
    seconds: float
    """How long they last, from the last one on."""
    check: bool
    """All records are looked at afterwards, on both replicas of each volume."""


def _node(draw: random.Random) -> tuple[str, ...]:
    return (draw.choice(NODES),)


def _pair(draw: random.Random) -> tuple[str, ...]:
    return draw.choice(PAIRS)


def _one_way(draw: random.Random) -> tuple[str, ...]:
    return (*_pair(draw), draw.choice(("in", "out")))


def _disturbed(draw: random.Random) -> tuple[str, ...]:
    return (*_node(draw), draw.choice(_DISTURBANCES))


def _shifted(draw: random.Random) -> tuple[str, ...]:
    return (*_node(draw), str(draw.choice((-86400, -60, 60, 86400))))


def _failing(draw: random.Random) -> tuple[str, ...]:
    return (*_node(draw), draw.choice(("fail", "fail_writes")))


def _nobody(draw: random.Random) -> tuple[str, ...]:
    return ()


def _volume(draw: random.Random) -> tuple[str, ...]:
    return (str(draw.randrange(1000)),)


KINDS: dict[str, Callable[[random.Random], tuple[str, ...]]] = {
    "power-off": _node,
    "power-off-both": _pair,
    "isolate": _node,
    "cut-link": _pair,
    "cut-link-one-way": _one_way,
    "disturb": _disturbed,
    "cut-arbiter": _node,
    "cut-arbiter-from-all": _nobody,
    "kill-agent": _node,
    "kill-controller": _nobody,
    "pause-agent": _node,
    "pause-node": _node,
    "shift-clock": _shifted,
    "move": _volume,
    "disk-errors": _failing,
}
"""What each fault draws for itself; ``tests/chaos_world.py`` makes them."""
# A failed disk is one replica lost. Beside it comes only what takes no other away, and no change
# that leaves a volume with one for a moment: of two failures at once nobody promises anything.
_DISK = "disk-errors"
_BESIDE_IT = (
    *("cut-arbiter", "cut-arbiter-from-all", "kill-agent", "kill-controller", "pause-agent"),
    *("shift-clock", "move"),
)
_DISK_SHARE = 0.2  # of the rounds


def _seconds(draw: random.Random) -> tuple[str, ...]:
    return (f"{draw.uniform(0.0, 4.0):.1f}s",)


def _mebibytes(draw: random.Random) -> tuple[str, ...]:
    return (f"{draw.choice((4, 8, 12))}MiB",)


CHANGES: dict[str, Callable[[random.Random], tuple[str, ...]]] = {
    "snapshot": _nobody,
    "replicas-2-1-2": _seconds,
    "move-replica": _nobody,
    "verify": _nobody,
    "expand": _mebibytes,
}
"""What each change draws for itself; ``tests/chaos_changes.py`` makes them."""


def schedule(seed: int, volumes: int) -> Iterator[Round]:
    """Without end. One to three faults a round, of different kinds, and one or two changes.

    Where a disk fails there are no changes.
    """
    draw = random.Random(seed)
    draw_change = random.Random(f"changes of {seed}")
    number = 0
    while True:
        number += 1
        kinds = _kinds(draw)
        faults = tuple(Fault(kind, KINDS[kind](draw)) for kind in kinds)
        seconds = draw.uniform(*_SECONDS)
        changes = tuple(_changes(draw_change, seconds, volumes))
        allowed = () if _DISK in kinds else changes
        yield Round(number, faults, allowed, seconds, number % CHECK_EVERY == 0)


def _kinds(draw: random.Random) -> list[str]:
    if draw.random() < _DISK_SHARE:
        return [_DISK, *draw.sample(_BESIDE_IT, draw.randint(0, 2))]
    return draw.sample([kind for kind in KINDS if kind != _DISK], draw.randint(1, 3))


def _changes(draw: random.Random, seconds: float, volumes: int) -> Iterator[Change]:
    """Of different kinds, perhaps of the same volume, each before the faults are undone."""
    for kind in draw.sample(list(CHANGES), draw.randint(1, _MOST_CHANGES)):
        volume, after = draw.randrange(volumes), draw.uniform(0.0, seconds)
        yield Change(kind, volume, after, CHANGES[kind](draw))
