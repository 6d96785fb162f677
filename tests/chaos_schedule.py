"""The faults of a chaos run, drawn from its seed alone: never from what happens, or when."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

NODES = ("n1", "n2", "n3")
PAIRS = (("n1", "n2"), ("n2", "n3"), ("n1", "n3"))
CHECK_EVERY = 6
_SECONDS = (1.0, 8.0)
_DISTURBANCES = ("delay 20ms 5ms loss 1%", "loss 10%", "delay 200ms", "delay 50ms 20ms loss 5%")


class Fault(NamedTuple):
    kind: str
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((self.kind, *self.arguments))


class Round(NamedTuple):
    number: int
    faults: tuple[Fault, ...]
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
}
"""What each fault draws for itself; ``tests/chaos.py`` makes them."""


def schedule(seed: int) -> Iterator[Round]:
    """Without end. One to three faults a round, of different kinds."""
    draw = random.Random(seed)
    number = 0
    while True:
        number += 1
        kinds = draw.sample(list(KINDS), draw.randint(1, 3))
        faults = tuple(Fault(kind, KINDS[kind](draw)) for kind in kinds)
        yield Round(number, faults, draw.uniform(*_SECONDS), number % CHECK_EVERY == 0)
