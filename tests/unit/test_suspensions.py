"""A suspension that ends at its deadline and by a call at the same time."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

from cluster.locks import Locks
from node_agent.cuts import Cuts
from node_agent.entries import Entry
from node_agent.suspensions import Suspensions

NAME = "vol-1"
SECONDS = 600.0
_PATIENCE = 10.0


class SlowHolds:
    """Faces that are held; letting go of them takes until ``free`` is set."""

    def __init__(self) -> None:
        self.releasing = threading.Event()
        self.free = threading.Event()

    def suspend(self, volume_ids: object, guard: object) -> None:
        pass

    def release(self, guard: object) -> bool:
        self.releasing.set()
        assert self.free.wait(_PATIENCE)
        return True


def test_whoever_is_told_that_it_is_over_finds_the_volume_free() -> None:
    holds, locks = SlowHolds(), Locks()
    cuts: Any = SimpleNamespace(holds=holds, guard=lambda entries, seconds: object())
    entry: Any = SimpleNamespace(label=SimpleNamespace(id=NAME))
    suspensions = Suspensions(cast(Cuts, cuts), locks)
    name = suspensions.begin([cast(Entry, entry)], SECONDS)
    held: list[bool] = []
    found: list[object] = []

    def second() -> None:
        held.append(suspensions.end(name))
        with locks.hold(NAME, purpose="the next call"):
            found.append("free")

    first = threading.Thread(target=lambda: held.append(suspensions.end(name)))
    first.start()
    assert holds.releasing.wait(_PATIENCE)
    other = threading.Thread(target=second)
    other.start()
    other.join(0.2)  # time to go wrong: it has to wait for the first one
    holds.free.set()
    for thread in (first, other):
        thread.join(_PATIENCE)

    assert (sorted(held), found) == ([False, True], ["free"])
    assert not suspensions.end(name)
